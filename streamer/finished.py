"""Finished blocks, as the sink takes them: which go together, and what is known of their events.

Reads the ring. Owns no file, no socket and no count.

Most of what a block costs in the sink it costs once, whatever its size. So blocks that wait together are
published, stored and counted together: as many as follow one another in number, in train and in the version
that answered.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

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
# Columns of the ring that leave as they are, in the order in which they do.
_PER_EVENT: Final = ("train_id", "pulse_id", "verdict", "reason", "route", "flags", "missing_modules")
_OVERLOAD: Final = failopen_code("overload")


class Group(NamedTuple):
    """Blocks of consecutive numbers that go together, in order."""

    tokens: list[Token]
    sizes: list[int]
    """Events of each."""
    version: int
    """Number of the stream's version that answered; 0 if none did."""
    overloaded: bool
    """They came straight from ingest: their verdicts are still to be published."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What is known of the events of a group. First axis of every array: event."""

    group: Group
    columns: dict[str, Array]
    """Ids, verdict and results; contiguous, and views of the slot if it is one block."""
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
        # Every slot's rows one after the other: one index takes those of several blocks from a column.
        rows = ring.layout.slots * ring.layout.events
        self._flat = {name: getattr(ring, name).reshape(rows) for name in _PER_EVENT}
        self._flat_attached = ring.attached.reshape(rows, ring.layout.attached)
        self._flat_packed = ring.packed.reshape(rows, ring.layout.packed)
        self._flat_frames = ring.frames.reshape(rows, *ring.layout.event_shape)

    # --- which go together --------------------------------------------------------------------------

    def groups(self, tokens: Iterable[Token]) -> Iterator[Group]:
        """Tokens of blocks that go together. Leaves echoes out: ask for the next when the last is done."""
        waiting = deque(tokens)
        while waiting:
            token = waiting.popleft()
            if self._ring.holds(*token, DONE):
                yield self._join(token, waiting)

    def _join(self, first: Token, waiting: deque[Token]) -> Group:
        """The group of `first` and of those that follow it, which leave `waiting`."""
        block = self._look(first[0])
        group = Group([first], [block.n], block.version, block.overloaded)
        events = block.n
        while waiting and len(group.tokens) < MAX_BLOCKS:
            token, before = waiting[0], block
            if token[1] != group.tokens[-1][1] + 1 or not self._ring.holds(*token, DONE):
                break
            block = self._look(token[0])
            events += block.n
            if events > MAX_EVENTS or not block.may_follow(before):
                break
            group.tokens.append(waiting.popleft())
            group.sizes.append(block.n)
        return group

    def _look(self, slot: int) -> "_Block":
        ring = self._ring
        n, train_id = int(ring.n[slot]), ring.train_id[slot]
        overloaded = bool(n) and int(ring.reason[slot, 0]) == _OVERLOAD
        return _Block(n, int(ring.version[slot]), overloaded, int(train_id[0]), int(train_id[n - 1]))

    # --- what is known of them ----------------------------------------------------------------------

    def read(self, group: Group) -> Finished:
        """The events of one group."""
        slots = [slot for slot, _ in group.tokens]
        at = self._places(slots, group.sizes)
        # Of one block views; an index copies.
        where = slice(int(at[0]), int(at[0]) + len(at)) if len(slots) == 1 and len(at) else at
        columns = {name: flat[where] for name, flat in self._flat.items()}
        columns["received_at"] = np.repeat(self._ring.received_at_s[slots], group.sizes)
        if self._attached:
            attached = np.ascontiguousarray(self._flat_attached[where].T)
            columns |= zip(self._attached, attached, strict=True)
        columns |= typed(split(self._flat_packed[where], self._columns), self._columns)
        received_at_s = float(self._ring.received_at_s[slots[0]])
        return Finished(group, columns, self._flat_frames, at, received_at_s)

    def _places(self, slots: Sequence[int], sizes: Sequence[int]) -> npt.NDArray[np.intp]:
        """Where the events are among all of the ring."""
        size = self._ring.layout.events
        if len(slots) == 1:
            return np.arange(slots[0] * size, slots[0] * size + sizes[0])
        ends = np.cumsum(sizes)
        shifts: npt.NDArray[np.intp] = np.repeat(np.multiply(slots, size) - ends + sizes, sizes)
        return shifts + np.arange(ends[-1])


class _Block(NamedTuple):
    """What decides which blocks go together; the trains are those of its first and last event."""

    n: int
    version: int
    overloaded: bool
    first_train: int
    last_train: int

    def may_follow(self, other: "_Block") -> bool:
        """An append takes trains in order; an empty block has none."""
        same = self.version == other.version and self.overloaded == other.overloaded
        return same and self.n > 0 and other.n > 0 and other.last_train <= self.first_train
