"""Events that hold a NaN, an infinity or a huge number go the plain way.

torch carries a NaN through maximum and ReLU to the answer, and an answer that is not finite keeps the event.
Other engines may drop it there and answer with numbers that look right (measured: docs/decisions/
cpu-inference.md). So float events are looked at before; integers hold no such number.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from models.bundle import Bundle
from streamer.engines.plain import Engine, Events, Packed

# Sum of the squares in a batch: a million values of a million million. Beyond it a square or a sum within
# the network may overflow float32 (3e38).
MOST_SQUARES: Final = 1e30
# Steps that treat each pixel alone: what they make of one that is masked afterwards reaches no other.
PIXEL_STEPS: Final = frozenset({"dark", "gain", "scale", "clip", "log1p", "signed_log"})


class Guarded:
    """`engine` for ordinary events, `plain` for the others.

    masked: bool [*event], pixels that every bundle replaces by 0 whatever they hold (None: there are none).
    A detector may say NaN in its dead pixels in every event.
    """

    def __init__(self, engine: Engine, plain: Engine, masked: npt.NDArray[np.bool_] | None) -> None:
        self._engine, self._plain, self._masked = engine, plain, masked
        self.name, self.exact, self.prepare = engine.name, engine.exact, engine.prepare
        self.forms = engine.forms

    def run(self, events: Events) -> Packed:
        if events.dtype.kind != "f" or _squares(events) < MOST_SQUARES:  # False for NaN
            return self._engine.run(events)
        clean = events if self._masked is None else np.where(self._masked, np.float32(0), events)
        bad = [not _squares(event) < MOST_SQUARES for event in clean]
        if all(bad):
            return self._plain.run(events)
        packed = self._engine.run(np.where(_along(bad, clean.ndim), np.float32(0), clean))
        if any(bad):
            packed[bad] = self._plain.run(events[bad])
        return packed


def _squares(events: Events) -> float:
    """Through torch: one pass, and with the threads of torch."""
    flat = torch.from_numpy(events).flatten()
    return float(torch.dot(flat, flat))


def _along(rows: Sequence[bool], ndim: int) -> npt.NDArray[np.bool_]:
    return np.array(rows).reshape(-1, *[1] * (ndim - 1))


def always_masked(bundles: Sequence[Bundle]) -> npt.NDArray[np.bool_] | None:
    """The pixels that no bundle looks at, bool [*event]; None if there are none."""
    masks = [_masked(bundle) for bundle in bundles]
    known = [mask for mask in masks if mask is not None]
    everywhere = np.logical_and.reduce(known) if known and len(known) == len(masks) else None
    return None if everywhere is None or not everywhere.any() else everywhere


def _masked(bundle: Bundle) -> npt.NDArray[np.bool_] | None:
    for step in bundle.manifest.preprocess["steps"]:
        if step["op"] == "mask":
            masked: npt.NDArray[np.bool_] = bundle.preprocess.get_buffer("mask").numpy() == 0
            return masked
        if step["op"] not in PIXEL_STEPS:
            return None
    return None
