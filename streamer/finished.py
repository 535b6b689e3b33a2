"""Finished blocks, as the sink takes them: which go together, and what is known of their events.

Reads the ring. Owns no file, no socket and no count.

Most of what a block costs in the sink it costs once, whatever its size. So blocks that wait together are
published, stored and counted together: as many as follow one another in number, in train and in the bundles
that answered.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.manifest import Column
from streamer.columns import Array, split, typed
from streamer.ring import DONE, Ring
from streamer.routing import failopen_code
from streamer.tokens import Token

# Enough that the fixed cost is small beside that of the events, few enough to be done in some ms.
MAX_BLOCKS: Final = 32
MAX_EVENTS: Final = 4096
_OVERLOAD: Final = failopen_code("overload")


@dataclass(frozen=True, slots=True)
class Finished:
    """Blocks of consecutive numbers, in order. First axis of every array: event."""

    tokens: Sequence[Token]
    made_by: bytes
    """SHA-256 of the bundles that answered, 32 bytes each; none if no model did."""
    overloaded: bool
    """They came straight from ingest: their verdicts are still to be published."""
    columns: dict[str, Array]
    """Ids, verdict and results of each event; contiguous, and views of the slots where they can be."""
    frames: Array
    """All frames of the ring, one after the other."""
    frame_at: npt.NDArray[np.intp]
    """Where in `frames` each event's frame is."""
    received_at_s: float
    """Of the first block."""

    @property
    def n(self) -> int:
        return len(self.columns["train_id"])


class Reader:
    """Reads finished blocks of one ring, whose packed results and attached scalars have these names."""

    def __init__(self, ring: Ring, columns: Sequence[Column], attached: Sequence[str]) -> None:
        self._ring, self._columns, self._attached = ring, columns, attached
        self._sha256 = ring.header["sha256"]
        self._all_frames = ring.frames.reshape(-1, *ring.layout.event_shape)

    def groups(self, tokens: Iterable[Token]) -> Iterator[list[Token]]:
        """Tokens of blocks that go together. Leaves echoes out: ask for the next when the last is done."""
        waiting = deque(tokens)
        while waiting:
            group = [waiting.popleft()]
            if self._ring.holds(*group[0], DONE):
                self._join(group, waiting)
                yield group

    def _join(self, group: list[Token], waiting: deque[Token]) -> None:
        """Move to `group` what follows it."""
        kind, events = self._kind(group[0][0]), self._events(group[0])
        while waiting and len(group) < MAX_BLOCKS and self._follows(group[-1], waiting[0]):
            events += self._events(waiting[0])
            if events > MAX_EVENTS or self._kind(waiting[0][0]) != kind:
                return
            group.append(waiting.popleft())

    def _follows(self, last: Token, token: Token) -> bool:
        """The number after `last`, and no train before the last one: an append takes trains in order."""
        if token[1] != last[1] + 1 or not self._ring.holds(*token, DONE):
            return False
        train_id, before = self._ring.train_id, self._events(last)
        some = before and self._events(token)
        return bool(some and train_id[last[0], before - 1] <= train_id[token[0], 0])

    def _events(self, token: Token) -> int:
        return int(self._ring.n[token[0]])

    def _kind(self, slot: int) -> tuple[bytes, bool]:
        """What must be equal for blocks to go together: see Finished.made_by and .overloaded."""
        ring = self._ring
        made_by = self._sha256[slot, : ring.bundles[slot]].tobytes()
        return made_by, bool(ring.n[slot]) and int(ring.reason[slot, 0]) == _OVERLOAD

    def read(self, tokens: Sequence[Token]) -> Finished:
        """The blocks of one group."""
        ring, places = self._ring, [(slot, self._events((slot, seq))) for slot, seq in tokens]
        made_by, overloaded = self._kind(places[0][0])
        received_at_s = [float(ring.received_at_s[slot]) for slot, _ in places]
        columns = {
            "train_id": _joined(ring.train_id, places),
            "pulse_id": _joined(ring.pulse_id, places),
            "verdict": _joined(ring.verdict, places),
            "reason": _joined(ring.reason, places),
            "route": _joined(ring.route, places),
            "flags": _joined(ring.flags, places),
            "missing_modules": _joined(ring.missing_modules, places),
            "received_at": np.repeat(received_at_s, [n for _, n in places]),
        }
        if self._attached:
            attached = np.ascontiguousarray(_joined(ring.attached, places).T)
            columns |= zip(self._attached, attached, strict=True)
        columns |= typed(split(_joined(ring.packed, places), self._columns), self._columns)
        return Finished(
            tokens=tokens,
            made_by=made_by,
            overloaded=overloaded,
            columns=columns,
            frames=self._all_frames,
            frame_at=self._frame_at(places),
            received_at_s=received_at_s[0],
        )

    def _frame_at(self, places: Sequence[tuple[int, int]]) -> npt.NDArray[np.intp]:
        size = self._ring.layout.events
        return np.concatenate([np.arange(slot * size, slot * size + n) for slot, n in places])


def _joined(array: Array, places: Sequence[tuple[int, int]]) -> Array:
    """The first n rows of some slots of `array` [slots, events, ...]: a view if it is one slot."""
    if len(places) == 1:
        slot, n = places[0]
        return array[slot, :n]
    return np.concatenate([array[slot, :n] for slot, n in places])
