"""One segment file being written: events and index entries at their file offsets, without the HDF5 library.

The file has its full layout from the start, so it can be opened at every moment; an event counts once the
index entry of its train says so. Which segment takes which events is decided in `lanes`.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import DiskFullError, StoreError
from streamer.store import exdf
from streamer.store.disk import free_bytes, store_errors, sync_directory, write_all
from streamer.store.exdf import Column
from streamer.store.lanes import Lane, Piece
from streamer.store.rows import Block
from streamer.store.spec import RunInfo, SeriesSpec

_PAGE_BYTES = 4096
# Beside the segment itself: headers and texts of a long configuration.
_HEADER_BYTES = 1 << 20
# What os.link says on file systems without hard links (exFAT, some network and FUSE file systems).
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class Segment:
    """An open segment file. Raises StoreError where the file system refuses."""

    def __init__(self, path: Path, spec: SeriesSpec) -> None:
        with store_errors(path, "opening"):
            self._columns = exdf.columns(path)
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.path = path
        self._spec = spec
        rows = [self._columns.get(name) for name, _ in exdf.row_datasets(spec)]
        self._places = [(column.offset, column.row_bytes) for column in rows if column is not None]
        self._complete = len(self._places) == len(rows)
        self._first, self._count = exdf.table_index(self._columns)
        of_trains = [self._columns[f"INDEX/{name}"] for name in exdf.INDEX_KEYS]
        self._train_id, self._timestamp, self._flag, self._origin = of_trains
        self._valid = np.ones(spec.trains, exdf.I4)  # what `flag` says of a train
        self._time_server = np.full(spec.trains, -1, exdf.I4)  # what `origin` says of its id

    @property
    def can_go_on(self) -> bool:
        """Whether the file has the full layout of the spec: not closed, not even in part, and not of another
        spec.
        """
        wanted = {
            name: (self._spec.rows, key.shape, key.dtype) for name, key in exdf.row_datasets(self._spec)
        }
        there = {name: (column.length, column.shape, column.dtype) for name, column in self._columns.items()}
        index = {name: length for name, (length, _, _) in there.items() if name.startswith("INDEX/")}
        rows = {name: column for name, column in there.items() if name not in index}
        return rows == wanted and set(index.values()) == {self._spec.trains}

    @property
    def removed(self) -> bool:
        """Whether the file has no name any more: what is written to it is lost. Half a microsecond."""
        return os.fstat(self._fd).st_nlink == 0

    def write_rows(self, piece: Piece, block: Block) -> None:
        """Put the events of `piece` into their rows; nothing refers to them yet."""
        if not self._complete:
            raise StoreError(
                f"a dataset of this series is missing in {self.path}, which was changed from outside"
            )
        fd, row = self._fd, piece.row
        with store_errors(self.path, "writing events to"):
            buffers = block.buffers(piece.start, piece.stop)
            for (offset, row_bytes), buffer in zip(self._places, buffers, strict=True):
                write_all(fd, buffer, offset + row * row_bytes)

    def commit(self, piece: Piece, now_ns: int) -> None:
        """Make the events of `piece` count: the entry it extends by its count, new entries by their train
        ids.
        """
        n = len(piece.train_ids)
        with store_errors(self.path, "writing the index of"):
            if piece.extended_count:
                self._put(self._count, piece.entry - 1, np.array([piece.extended_count], exdf.U8))
            if n:
                self._put(self._first, piece.entry, piece.firsts)
                self._put(self._count, piece.entry, piece.counts)
                self._put(self._timestamp, piece.entry, np.full(n, now_ns, exdf.U8))
                self._put(self._flag, piece.entry, self._valid[:n])
                self._put(self._origin, piece.entry, self._time_server[:n])
                self._put(self._train_id, piece.entry, piece.train_ids)

    def cut(self, lane: Lane) -> None:
        """Take back what the index says beyond `lane`: the rows of an append that did not count."""
        with store_errors(self.path, "repairing the index of"):
            self._zero_from(self._train_id, lane.trains)
            if lane.trains:
                count = np.array([lane.rows - lane.last_first], exdf.U8)
                self._put(self._count, lane.trains - 1, count)
            for column in (self._first, self._count, self._timestamp, self._flag, self._origin):
                self._zero_from(column, lane.trains)

    def train_ids(self, n: int) -> NDArray[np.uint64]:
        """The first `n` train ids of the index, increasing."""
        with store_errors(self.path, "reading the index of"):
            data = os.pread(self._fd, n * exdf.U8.itemsize, self._train_id.offset)
        return np.frombuffer(data, exdf.U8)

    def close(self) -> None:
        """Close the file descriptor; the file stays as it is."""
        os.close(self._fd)

    def _put(self, column: Column, entry: int, values: NDArray[Any]) -> None:
        write_all(self._fd, (values,), _at(column, entry))

    def _zero_from(self, column: Column, entry: int) -> None:
        """Zero the entries from `entry` on, the last page first: a kill in between leaves no zeros before
        ids.
        """
        start, stop = _at(column, entry), _at(column, column.length)
        while stop > start:
            begin = max(start, (stop - 1) // _PAGE_BYTES * _PAGE_BYTES)
            write_all(self._fd, [np.zeros(stop - begin, np.uint8)], begin)
            stop = begin


def create_segment(path: Path, spec: SeriesSpec, info: RunInfo, sequence: int, opened: str) -> None:
    """Make the file of one empty segment with all of its space claimed. Half-made, it does not end in .h5.

    Raises StoreError with nothing left behind.
    """
    part = path.with_name(path.name + exdf.PART)
    needed = exdf.segment_bytes(spec) + _HEADER_BYTES
    with store_errors(path, "creating", needed), _removed_on_failure(part):
        exdf.create(part, spec, info, sequence, opened)
        claim(part)
        _publish(part, path)
        sync_directory(path.parent)


def _publish(part: Path, path: Path) -> None:
    """Give the finished file its name, unless a file has that name already. Raises StoreError, OSError."""
    try:
        try:
            os.link(part, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))  # an empty file holds the name
            with _removed_on_failure(path):
                os.rename(part, path)
        else:
            os.unlink(part)
    except FileExistsError as error:
        raise StoreError(
            f"creating {path}: a file of this name is there already and is not overwritten; another run of "
            "this number may be writing here: stop one of them, or move the file away, or choose another run "
            "number or directory"
        ) from error


def claim(path: Path) -> None:
    """Give a file of its final size all of its disk space, now, and sync its headers. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, os.fstat(fd).st_size)
        os.fsync(fd)
    finally:
        os.close(fd)


def check_space(spec: SeriesSpec, reserve_bytes: int) -> None:
    """Refuse a segment that would leave less than the reserve. Raises StoreError before touching any."""
    needed = exdf.segment_bytes(spec) + _HEADER_BYTES
    with store_errors(spec.directory / spec.name, "looking for space for"):
        free = free_bytes(spec.directory)
    if free - needed < reserve_bytes:
        raise DiskFullError(
            f"file series {spec.name!r}: a new segment in {spec.directory} needs {needed} bytes and "
            f"must leave {reserve_bytes} bytes free, but only {free} bytes are free; free space there, "
            "or use smaller segments"
        )


@contextlib.contextmanager
def _removed_on_failure(part: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _at(column: Column, row: int) -> int:
    return column.offset + row * column.row_bytes
