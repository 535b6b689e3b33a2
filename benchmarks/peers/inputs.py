"""The events that every contender gets, and what the bare model answers to them.

64 droplet frames of the simulation and 1024 noise spectra, each with its own number as its first value: so
the model that only reads two bytes tells which event it saw, and an answer to another event is a wrong one.
They lie in a folder as .npy, which every process reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.peers.rows import Events, Network, Row

Array = npt.NDArray[Any]
Packed = npt.NDArray[np.float32]

FRAMES: Final = 64
# 2.6 MB, as much as the frames.
SPECTRA: Final = 1024
BINS: Final = 1280
# Columns of the classifier: one probability a class, then the classes above their threshold as one number.
LABELS: Final = -1


def write_spectra(folder: Path) -> None:
    spectra = np.random.default_rng(0).integers(0, 500, (SPECTRA, BINS), np.uint16)
    save(folder, "spectra", spectra)


def save(folder: Path, events: Events, values: Array) -> None:
    """Number the events in their first value and write them."""
    numbered = np.ascontiguousarray(values, np.uint16)
    numbered.reshape(len(numbered), -1)[:, 0] = np.arange(len(numbered))
    np.save(folder / f"{events}.npy", numbered)


def load(folder: Path, events: Events) -> Array:
    """uint16 [n, *event]."""
    found: Array = np.load(folder / f"{events}.npy", allow_pickle=False)
    return found


def payloads(folder: Path, row: Row) -> list[Array]:
    """The different requests of a row, in turn: uint16 [per_request, *event] each."""
    events = load(folder, row.events)
    return list(events.reshape(-1, row.per_request, *events.shape[1:]))


@dataclass(frozen=True)
class Expected:
    """The right answers to all events of a kind, [n, R], and how far a value may lie from them."""

    packed: Packed
    tolerance: float

    @classmethod
    def read(cls, folder: Path, network: Network, events: Events) -> "Expected":
        """As `save_expected` wrote it; the model that reads two bytes answers with the event's number."""
        if network == "null":
            return cls(np.arange(len(load(folder, events)), dtype=np.float32)[:, None], 0.0)
        packed = np.load(folder / "expected.npy", allow_pickle=False)
        return cls(packed, float(np.load(folder / "tolerance.npy", allow_pickle=False)))

    def wrong(self, index: Sequence[int] | npt.NDArray[np.integer[Any]], packed: Packed) -> int:
        """How many rows of `packed` [k, R] are not the answers to the events `index` [k].

        The last column (the label, or the event's number) must be equal, the others within the tolerance.
        """
        right = self.packed[np.asarray(index, np.intp)]
        if packed.shape != right.shape:
            return len(right)
        same = packed[:, LABELS] == right[:, LABELS]
        near = np.abs(packed - right)[:, :LABELS] <= self.tolerance  # NaN is not
        return int(np.count_nonzero(~(same & near.all(axis=1))))


def save_expected(folder: Path, packed: Packed, tolerance: float) -> None:
    np.save(folder / "expected.npy", packed)
    np.save(folder / "tolerance.npy", np.float64(tolerance))


def unpack(answer: bytes, n: int) -> Packed:
    """A contender's bytes as [n, R]; of another size: [0, 0], which no expectation has."""
    if not answer or len(answer) % (4 * n):
        return np.empty((0, 0), np.float32)
    return np.frombuffer(answer, np.float32).reshape(n, -1)
