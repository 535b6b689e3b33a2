"""Where events go: lanes, segments, rows and index entries. Pure arithmetic on a cursor of int64.

A series writes into a few sequences of segment files at a time, its lanes. Events in train order all go to
one lane; a train older than the lane's last one goes to another, so that the trains of every file strictly
increase.

EXtra-data refuses a whole run directory in which one train of one source is in two files (reader.py,
_check_source_conflicts). So the part of a train that can no longer join the rest goes to a repeat lane, whose
files lie in a directory of their own.

The cursor is the whole state: what it names is in the files, what is beyond it does not count.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint64]

# Streams of trains that may overtake one another, one per ingest process; each costs a segment of disk.
MAIN_LANES = 4
# Parts of one train beyond the first; more than these end in one directory that opens file by file only.
REPEAT_LANES = 2
LANES = MAIN_LANES + REPEAT_LANES
# A segment is left early when the largest train so far might not fit any more, but never with more than this
# part of it unused: one odd train must not make every later segment short.
_MARGIN_PART = 8


class Capacity(NamedTuple):
    """Events and index entries of one segment."""

    rows: int
    trains: int


class Lane(NamedTuple):
    """One sequence of segments. All zero is a lane never used.

    Segments 0..closed-1 are final, closed..opened-1 full but not yet closed, save that the last one is being
    written if `is_open`: it then holds `rows` events in `trains` entries, the last of which is `last_train`
    and begins at row `last_first`.
    """

    opened: int = 0
    closed: int = 0
    is_open: int = 0
    rows: int = 0
    trains: int = 0
    last_train: int = 0
    last_first: int = 0

    @property
    def sequence(self) -> int:
        """Number of the segment opened last."""
        return self.opened - 1

    @property
    def pending(self) -> range:
        """Segments that are full and wait to be closed."""
        return range(self.closed, self.opened - self.is_open)

    def next_segment(self) -> "Lane":
        """The lane after opening another segment. It keeps `last_train`: the lane's order goes on."""
        return Lane(opened=self.opened + 1, closed=self.closed, is_open=1, last_train=self.last_train)

    def all_closed(self) -> "Lane":
        """The lane when every segment is final."""
        return Lane(opened=self.opened, closed=self.opened)


_LANE_INTS = len(Lane._fields)
_UNUSED = Lane()
CURSOR_INTS = 2 + LANES * _LANE_INTS


class State(NamedTuple):
    """What a cursor says: the lanes, the events of the largest train and the greatest train id so far."""

    lanes: tuple[Lane, ...]
    largest: int
    newest: int

    @classmethod
    def read(cls, cursor: NDArray[np.int64]) -> "State":
        """From int64[CURSOR_INTS]; all zero is a series without files."""
        largest, newest, *ints = cursor.tolist()
        starts = range(0, len(ints), _LANE_INTS)  # most lanes never open a segment
        lanes = [Lane._make(ints[i : i + _LANE_INTS]) if ints[i] else _UNUSED for i in starts]
        return cls(tuple(lanes), largest, newest)

    def write(self, cursor: NDArray[np.int64]) -> None:
        """Into int64[CURSOR_INTS]."""
        cursor[:] = (self.largest, self.newest, *chain.from_iterable(self.lanes))

    def with_lane(self, number: int, lane: Lane) -> "State":
        """The state with one lane replaced."""
        return State((*self.lanes[:number], lane, *self.lanes[number + 1 :]), self.largest, self.newest)


class Piece(NamedTuple):
    """Events start..stop of an append, which go to consecutive rows of one segment.

    The first `extends` of them belong to the entry before `entry`, whose count becomes `extended_count`;
    the rest are the new entries (train_ids, firsts, counts).
    """

    lane: int
    sequence: int
    start: int
    stop: int
    row: int
    entry: int
    extended_count: int
    train_ids: U8
    firsts: U8
    counts: U8


class Trains(NamedTuple):
    """The trains of an append in order: ids, the events of each, of all, and of the largest."""

    ids: U8
    counts: U8
    total: int
    largest: int


def trains_of(train_ids: U8) -> Trains:
    """Group non-decreasing train ids, one per event (u8[n], n > 0)."""
    n = len(train_ids)
    if train_ids[0] == train_ids[-1]:  # the common case, four times as fast
        return Trains(train_ids[:1], np.array([n], np.uint64), n, n)
    starts = np.concatenate(([0], np.flatnonzero(train_ids[1:] != train_ids[:-1]) + 1))
    counts = np.diff(starts, append=n).astype(np.uint64)
    return Trains(train_ids[starts], counts, n, int(counts.max()))


def plan(
    state: State, capacity: Capacity, trains: Trains, stored: NDArray[np.bool_]
) -> tuple[list[Piece], State]:
    """Place the events of `trains`: the pieces in order, and the state after.

    `stored` bool[len(trains.ids)]: this train has an entry in a main lane already.
    """
    number = _only_lane(state, trains, stored)
    if number is not None and _all_fit(state, number, capacity, trains):
        piece, lane = _place(number, state.lanes[number], trains, 0)
        return [piece], _after(state, number, lane, trains)
    pieces: list[Piece] = []
    start = 0
    for train_id, count, known in zip(
        trains.ids.tolist(), trains.counts.tolist(), stored.tolist(), strict=True
    ):
        while count:
            number, lane, n = _choose(state, capacity, train_id, count, known)
            train = Trains(np.array([train_id], np.uint64), np.array([n], np.uint64), n, n)
            piece, lane = _place(number, lane, train, start)
            state = _after(state, number, lane, train)
            pieces.append(piece)
            start, count, known = start + n, count - n, True
    return list(_merged(pieces)), state


def _only_lane(state: State, trains: Trains, stored: NDArray[np.bool_]) -> int | None:
    """The open main lane that all of these trains go on, if there is one: each comes after its last or
    belongs to it, none is stored elsewhere, and no other lane ends among them.
    """
    first, last = int(trains.ids[0]), int(trains.ids[-1])
    number = None
    for i, lane in enumerate(state.lanes[:MAIN_LANES]):
        if not lane.is_open or lane.last_train > last:
            continue
        if lane.last_train > first:
            return None
        if number is None or lane.last_train > state.lanes[number].last_train:
            number = i
    if number is None:
        return None
    known = stored[1:] if state.lanes[number].last_train == first else stored
    return None if np.logical_or.reduce(known) else number


def _all_fit(state: State, number: int, capacity: Capacity, trains: Trains) -> bool:
    """Whether the segment of a lane takes all trains and leaves a margin."""
    lane = state.lanes[number]
    rows = lane.rows + trains.total + _margin(state, capacity)
    entries = lane.trains + len(trains.ids)
    return rows <= capacity.rows and entries <= capacity.trains


def _margin(state: State, capacity: Capacity) -> int:
    return min(state.largest, capacity.rows // _MARGIN_PART)


def _choose(
    state: State, capacity: Capacity, train_id: int, count: int, known: bool
) -> tuple[int, Lane, int]:
    """For one train: the lane, its state with a segment to write to, and how many of the events it takes."""
    for number, lane in enumerate(state.lanes):
        left = capacity.rows - lane.rows
        if lane.is_open and lane.trains and lane.last_train == train_id and left:
            return number, lane, min(count, left)
    numbers = range(MAIN_LANES, LANES) if known else range(MAIN_LANES)
    number = _best(state.lanes, numbers, train_id)
    lane = state.lanes[number]
    full = lane.trains == capacity.trains or capacity.rows - lane.rows < max(count, _margin(state, capacity))
    if not lane.is_open or lane.last_train >= train_id or full:
        lane = lane.next_segment()
    return number, lane, min(count, capacity.rows)


def _best(lanes: tuple[Lane, ...], numbers: range, train_id: int) -> int:
    """The lane that came closest before this train; else a free one; else the one furthest behind."""
    before = [i for i in numbers if lanes[i].is_open and lanes[i].last_train < train_id]
    if before:
        return max(before, key=lambda i: lanes[i].last_train)
    free = [i for i in numbers if not lanes[i].is_open]
    return free[0] if free else min(numbers, key=lambda i: lanes[i].last_train)


def _after(state: State, number: int, lane: Lane, trains: Trains) -> State:
    largest = max(state.largest, lane.rows - lane.last_first, trains.largest)
    newest = max(state.newest, int(trains.ids[-1]))
    return State(state.with_lane(number, lane).lanes, largest, newest)


def _merged(pieces: list[Piece]) -> Iterator[Piece]:
    """Join pieces that follow one another in one segment."""
    last, *rest = pieces
    for piece in rest:
        if (piece.lane, piece.sequence) == (last.lane, last.sequence):  # a new train: rows and entries go on
            last = last._replace(
                stop=piece.stop,
                train_ids=np.append(last.train_ids, piece.train_ids),
                firsts=np.append(last.firsts, piece.firsts),
                counts=np.append(last.counts, piece.counts),
            )
        else:
            yield last
            last = piece
    yield last


def _place(number: int, lane: Lane, trains: Trains, start: int) -> tuple[Piece, Lane]:
    """All of `trains`, whose first event is event `start` of the append, at the end of an open segment."""
    extends = int(lane.trains > 0 and int(trains.ids[0]) == lane.last_train)
    firsts = np.add.accumulate(trains.counts) + np.uint64(lane.rows) - trains.counts
    extended_count = lane.rows - lane.last_first + int(trains.counts[0]) if extends else 0
    at = (number, lane.sequence, start, start + trains.total, lane.rows, lane.trains, extended_count)
    piece = Piece(*at, trains.ids[extends:], firsts[extends:], trains.counts[extends:])
    after = Lane(
        lane.opened,
        lane.closed,
        lane.is_open,
        rows=lane.rows + trains.total,
        trains=lane.trains + len(trains.ids) - extends,
        last_train=int(trains.ids[-1]),
        last_first=int(firsts[-1]) if len(firsts) > extends else lane.last_first,
    )
    return piece, after
