"""Which trains a series holds already, read from its files; asked only for trains that come late."""

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.store.disk import store_errors

U8 = NDArray[np.uint64]


# Train ids kept in memory, 2 MiB: one odd train far ahead makes a file span all that follow, and each block
# of the rest of the run is then compared with it.
_KEPT_IDS = 1 << 18


class Seen:
    """The trains of closed segments. Keeps two numbers per file, and the train ids of the files asked last;
    opens a file only if a train lies between.
    """

    def __init__(self) -> None:
        self._ranges: dict[Path, tuple[int, int]] = {}
        self._kept: dict[Path, U8] = {}  # the one asked last at the end

    def stored(self, ids: U8, paths: Iterable[Path]) -> NDArray[np.bool_]:
        """For each of `ids` (increasing, n > 0), whether one of the files holds it. Raises StoreError."""
        found = np.zeros(len(ids), np.bool_)
        for path in paths:
            first, last = self._range(path)
            if first <= int(ids[-1]) and int(ids[0]) <= last:
                found |= contains(self._ids(path), ids)
        return found

    def _ids(self, path: Path) -> U8:
        known = self._kept.pop(path) if path in self._kept else _train_ids(path)
        self._kept[path] = known
        while sum(map(len, self._kept.values())) > _KEPT_IDS and len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]
        return known

    def _range(self, path: Path) -> tuple[int, int]:
        if path not in self._ranges:
            ids = _train_ids(path)
            self._ranges[path] = (int(ids[0]), int(ids[-1])) if len(ids) else (1, 0)
        return self._ranges[path]


def contains(known: U8, ids: U8) -> NDArray[np.bool_]:
    """For each of `ids`, whether it is among `known` (increasing). np.isin sorts, at 50 times the cost."""
    if not len(known):
        return np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.equal(known[at], ids)


def _train_ids(path: Path) -> U8:
    if not path.exists():
        return np.zeros(0, np.uint64)  # taken away from outside: nothing there to repeat
    with store_errors(path, "reading the index of"), h5py.File(path, "r") as file:
        ids: U8 = file["INDEX/trainId"][:]
        known: U8 = ids[ids != 0]
    return known
