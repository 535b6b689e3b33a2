"""A series of European XFEL HDF5 files, safe against kill -9 at every byte: the interface of the store.

The caller owns the cursor (int64[CURSOR_INTS], all zero at first), and makes it durable after each call that
changes it. What the cursor names is stored; after a crash `resume` brings the files back to the cursor, and
appending the same events again stores them once. No clock, no sockets, no threads here.
"""

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError, StoreError
from streamer.store import exdf, lanes
from streamer.store.compact import close_file
from streamer.store.disk import store_errors
from streamer.store.lanes import Capacity, Lane, Piece, State
from streamer.store.rows import Block, Rows
from streamer.store.seen import Seen, contains
from streamer.store.segment import Segment, check_space, create_segment
from streamer.store.spec import RunInfo, SeriesSpec

Cursor = NDArray[np.int64]
_SegmentId = tuple[int, int]  # lane, sequence


class Series:
    """Writes one file series. `reserve_bytes` stay free on the disk: no segment is opened below that."""

    CURSOR_INTS: ClassVar[int] = lanes.CURSOR_INTS

    def __init__(self, spec: SeriesSpec, info: RunInfo, reserve_bytes: int = 0) -> None:
        self._spec = spec
        self._info = info
        self._reserve_bytes = reserve_bytes
        self._capacity = Capacity(spec.rows, spec.trains)
        self._open: dict[_SegmentId, Segment] = {}
        self._device: int | None = None  # where the directory lay at the start
        self._made: set[_SegmentId] = set()  # files of appends that do not count yet
        self._seen = Seen()

    def prepare(self) -> None:
        """Check, before a run starts, that its files can be written. Raises ConfigError."""
        directory = self._spec.directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
            existing = sorted(path.name for path, _ in self._files())
            check_space(self._spec, self._reserve_bytes)
        except (OSError, StoreError) as error:
            raise ConfigError(f"output directory {directory} cannot be used: {error}") from error
        if existing:
            raise ConfigError(
                f"{directory} already holds {len(existing)} files of run {self._info.run}, series "
                f"{self._spec.name!r} (e.g. {existing[0]}), which are not overwritten; "
                "choose another run number or directory"
            )

    def resume(self, cursor: Cursor) -> None:
        """Bring the files back to what `cursor` names: call it at every start, also the first.

        Removes half-made files and segments of an append that did not count, takes back uncommitted index
        entries and finishes interrupted closings; marks in `cursor` the segments it finds closed. Raises
        StoreError, and ConfigError if files of another start of this run are in the way.
        """
        self.release()
        self._device = _device(self._spec.directory)
        state = State.read(cursor)
        for path, match in self._files():
            if match["part"]:
                path.unlink(missing_ok=True)
            elif not _known(state, match):
                self._remove_stray(path)
        for number, lane in enumerate(state.lanes):
            state = state.with_lane(number, self._resume_lane(number, lane))
        state.write(cursor)

    def append(
        self,
        cursor: Cursor,
        train_ids: NDArray[np.uint64],
        pulse_ids: NDArray[np.uint64],
        rows: Rows,
        now: float,
        select: NDArray[np.intp] | None = None,
    ) -> None:
        """Store events (u8[n] ids, rows[t][k] of shape [n, *key shape]), or of them those at positions
        `select`.

        Train ids must not decrease within one append. `now` in unix seconds. On return the events are in the
        files and `cursor` names them. On StoreError nothing of the append counts and `cursor` is as before,
        save that files removed from outside are given up; later appends go to new ones.
        """
        block = Block(self._spec, (train_ids, pulse_ids), rows, select)
        if not len(block.train_ids):
            return
        before = self._finish(cursor, sync=False)  # no wait for the disk amid the events
        trains = lanes.trains_of(block.train_ids)
        pieces, after = lanes.plan(before, self._capacity, trains, self._stored(before, trains.ids))
        try:
            for piece in pieces:
                self._segment(piece, now).write_rows(piece, block)
            for piece in pieces:
                self._open[piece.lane, piece.sequence].commit(piece, round(now * 1e9))
        except BaseException:
            self._take_back(pieces, before)
            raise
        if self._made:
            self._made.difference_update((piece.lane, piece.sequence) for piece in pieces)
        after.write(cursor)

    def roll(self, cursor: Cursor, info: RunInfo) -> None:
        """Go on in new segments under new run values, and close the old ones.

        On StoreError the change has happened; the closing is tried again with the next append.
        """
        self._info = replace(info, created=self._info.created)
        self._close_all(cursor)

    def close(self, cursor: Cursor) -> None:
        """Close every segment; a series without events gets one empty file. Raises StoreError."""
        self._close_all(cursor)
        state = State.read(cursor)
        if not any(lane.opened for lane in state.lanes):
            self._make_directory(0)
            self._create((0, 0), replace(self._spec, rows=1, trains=1), self._info.created)
            close_file(self._path(0, 0), sync=True)
            state.with_lane(0, Lane(opened=1, closed=1)).write(cursor)

    def release(self) -> None:
        """Close the file descriptors and leave the files as they are."""
        for segment in self._open.values():
            segment.close()
        self._open.clear()

    def _close_all(self, cursor: Cursor) -> None:
        state = State.read(cursor)
        for number, lane in enumerate(state.lanes):
            state = state.with_lane(number, lane._replace(is_open=0))
        state.write(cursor)
        self._finish(cursor, sync=True).write(cursor)

    def _finish(self, cursor: Cursor, sync: bool) -> State:
        """Close the segments that filled up in an earlier append, whose cursor is durable by now.

        Raises StoreError, also once for files that are not there any more; `cursor` then knows it.
        """
        state = State.read(cursor)
        lost: list[_SegmentId] = []
        for number, lane in enumerate(state.lanes):
            if not lane.opened:
                continue
            if lane.is_open and self._is_removed((number, lane.sequence)):
                lane = lane._replace(is_open=0)
            for sequence in lane.pending:
                if not self._close_one((number, sequence), sync):
                    lost.append((number, sequence))
            if lane.pending:
                closed = lane._replace(closed=lane.pending.stop) if lane.is_open else lane.all_closed()
                state = state.with_lane(number, closed)
        if lost:
            state.write(cursor)
            for key in lost:
                self._discard(key)
            names = ", ".join(str(self._path(*key)) for key in lost)
            raise StoreError(
                f"{names} was removed or moved away during the run, with the events that it held; "
                "later events go to new files; leave the output directory alone while a run is on"
            )
        return state

    def _close_one(self, key: _SegmentId, sync: bool) -> bool:
        """Give a segment its final size; False, and it stays open, if its file is gone."""
        path = self._path(*key)
        with store_errors(path, "closing"):
            if self._is_removed(key) or not path.exists():
                return False
        self._discard(key)  # before another file takes its place
        close_file(path, sync)
        return True

    def _is_removed(self, key: _SegmentId) -> bool:
        return key in self._open and self._open[key].removed

    def _stored(self, state: State, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of the trains a main lane has an entry for. Only late trains need a look into the files."""
        stored = np.zeros(len(ids), np.bool_)
        if int(ids[0]) > state.newest:
            return stored
        for lane in state.lanes:
            if lane.is_open and lane.trains:
                stored |= ids == np.uint64(lane.last_train)
        late = ~stored & (ids <= np.uint64(state.newest))
        if late.any():
            stored[late] = self._in_files(state, ids[late])
        return stored

    def _in_files(self, state: State, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        main = list(enumerate(state.lanes[: lanes.MAIN_LANES]))
        closed = [self._path(number, i) for number, lane in main for i in range(lane.opened - lane.is_open)]
        found = self._seen.stored(ids, closed)
        for number, lane in main:
            if lane.is_open and int(ids[0]) <= lane.last_train:
                found |= contains(self._opened((number, lane.sequence)).train_ids(lane.trains), ids)
        return found

    def _segment(self, piece: Piece, now: float) -> Segment:
        key = (piece.lane, piece.sequence)
        if piece.row == 0:  # its first events
            self._discard(key)
            self._make_directory(piece.lane)
            check_space(self._spec, self._reserve_bytes)
            self._create(key, self._spec, exdf.utc_text(now))
        return self._opened(key)

    def _make_directory(self, lane: int) -> None:
        """Also one that was removed during the run, but not on the disk below an empty mount point."""
        directory = self._directory(lane)
        with store_errors(directory, "creating the directory"):
            if directory.is_dir():
                return
            above = next((there for there in directory.parents if there.exists()), directory)
            if self._device not in (None, _device(above)):
                raise StoreError(
                    f"{directory} is gone and {above} lies on another disk than at the start; mount it again"
                )
            directory.mkdir(parents=True, exist_ok=True)

    def _create(self, key: _SegmentId, spec: SeriesSpec, opened: str) -> None:
        path = self._path(*key)
        if key in self._made:  # a failed append could not remove it
            with store_errors(path, "removing"):
                path.unlink(missing_ok=True)
        create_segment(path, spec, self._info, key[1], opened)
        self._made.add(key)

    def _opened(self, key: _SegmentId) -> Segment:
        if key not in self._open:
            self._open[key] = Segment(self._path(*key), self._spec)
        return self._open[key]

    def _discard(self, key: _SegmentId) -> None:
        segment = self._open.pop(key, None)
        if segment is not None:
            segment.close()

    def _take_back(self, pieces: list[Piece], before: State) -> None:
        """After a failed append: its new segments vanish, the others are cut back; resume does the same."""
        for piece in pieces:
            key = (piece.lane, piece.sequence)
            lane = before.lanes[piece.lane]
            with contextlib.suppress(
                OSError, StoreError
            ):  # the disk failed already; that error is the one to tell
                if piece.sequence >= lane.opened:
                    self._discard(key)
                    if key in self._made:  # else the file that is there is not ours
                        self._path(*key).unlink(missing_ok=True)
                        self._made.discard(key)
                elif key in self._open:
                    self._open[key].cut(lane)

    def _resume_lane(self, number: int, lane: Lane) -> Lane:
        if not lane.is_open:
            return lane
        path = self._path(number, lane.sequence)
        if not path.exists():
            return lane._replace(is_open=0)  # taken away from outside: the next call says so
        segment = Segment(path, self._spec)
        segment.cut(lane)
        if segment.can_go_on:
            self._open[number, lane.sequence] = segment
            return lane
        segment.close()
        return lane._replace(
            is_open=0
        )  # a closing was interrupted, or the layout changed: the next call finishes it

    def _remove_stray(self, path: Path) -> None:
        with store_errors(path, "looking at"):
            if not path.stat().st_size:  # only held the name of a segment that was never finished
                path.unlink()
                return
            created = exdf.created(path)
            if created != self._info.created:
                raise ConfigError(
                    f"{path} belongs to another start of run {self._info.run} (created {created}, this start "
                    f"{self._info.created}) and is not overwritten; choose another run number or directory"
                )
            path.unlink()

    def _files(self) -> list[tuple[Path, Any]]:
        """All files of the series, also half-made ones, with the match of their names."""
        pattern = exdf.file_pattern(self._spec.name, self._info.run)
        directories = dict.fromkeys(self._directory(lane) for lane in range(lanes.LANES))
        with store_errors(self._spec.directory / self._spec.name, "looking for files of"):
            paths = [path for there in directories if there.is_dir() for path in there.iterdir()]
        matches = [(path, pattern.fullmatch(path.name)) for path in paths]
        return [(path, match) for path, match in matches if match]

    def _directory(self, lane: int) -> Path:
        repeat = lane - lanes.MAIN_LANES + 1
        return self._spec.directory / f"repeat{repeat}" if repeat > 0 else self._spec.directory

    def _path(self, lane: int, sequence: int) -> Path:
        return self._directory(lane) / exdf.file_name(self._spec.name, self._info.run, lane, sequence)


def _device(directory: Path) -> int | None:
    """Which file system a directory lies on; None if it does not exist."""
    try:
        return directory.stat().st_dev
    except OSError:
        return None


def _known(state: State, match: Any) -> bool:
    lane, sequence = int(match["lane"]), int(match["sequence"])
    return lane < len(state.lanes) and sequence < state.lanes[lane].opened
