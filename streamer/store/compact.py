"""Closing a segment: give its datasets their exact lengths, so that EXtra-data's validator has nothing to
say.

A segment with little unused space is shortened in place: each dataset's length is 8 aligned bytes in an
object header without a checksum, and with any subset of them written the file is valid. A segment with much
unused space is copied to its exact size beside itself, synced, and renamed over. Either way a kill at any
byte leaves a file with the same committed events, and closing it again finishes the work.
"""

import os
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.store import exdf
from streamer.store.disk import copy_range, store_errors, sync_directory
from streamer.store.exdf import Column
from streamer.store.lanes import Capacity
from streamer.store.segment import claim

# Unused space that is not worth writing all the rest again.
_KEEP_UNUSED_PART = 8


def close_file(path: Path, sync: bool) -> None:
    """Shorten every dataset to what the index has committed. Raises StoreError; the file stays readable.

    `sync` waits until the events are on the disk. Without it a file shortened in place is left to the kernel,
    which writes it within half a minute.
    """
    with store_errors(path, "closing"):
        columns = exdf.columns(path)
        used = _used(path, columns)
        if all(column.length == _length(name, used) for name, column in columns.items()):
            return  # closed before
        wasteful = _unused_bytes(columns, used) * _KEEP_UNUSED_PART > path.stat().st_size
        copied = (wasteful or not used.trains) and _copied(path, columns, used)
        if not copied and used.trains:  # HDF5 refuses a dataset of length 0 that has an address
            _shorten(path, columns, used, sync)


def _used(path: Path, columns: dict[str, Column]) -> Capacity:
    """Events and trains that the index of a file holds."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ids, first, count = (
            _read(fd, column) for column in (columns["INDEX/trainId"], *exdf.table_index(columns))
        )
    finally:
        os.close(fd)
    trains = int(np.count_nonzero(ids))
    return Capacity(int(first[trains - 1] + count[trains - 1]) if trains else 0, trains)


def _read(fd: int, column: Column) -> NDArray[np.uint64]:
    return np.frombuffer(os.pread(fd, column.length * column.row_bytes, column.offset), exdf.U8)


def _length(name: str, used: Capacity) -> int:
    return used.trains if name.startswith("INDEX/") else used.rows


def _unused_bytes(columns: dict[str, Column], used: Capacity) -> int:
    unique = {column.header: (name, column) for name, column in columns.items()}
    return sum((column.length - _length(name, used)) * column.row_bytes for name, column in unique.values())


def _shorten(path: Path, columns: dict[str, Column], used: Capacity, sync: bool) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for name, column in columns.items():
            address = exdf.dimension_address(fd, column)
            length = struct.pack("<Q", _length(name, used))
            os.pwrite(fd, length, address)
            os.pwrite(fd, length, address + 8 * (1 + len(column.shape)))  # the largest length it may have
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _copied(path: Path, columns: dict[str, Column], used: Capacity) -> bool:
    """Replace the file by one of exact size; False where the disk has no room for it."""
    part = path.with_name(path.name + exdf.PART)
    try:
        _build_exact(path, part, used)
        claim(part)
        _copy_rows(path, part, columns, used)
        os.rename(part, path)
        sync_directory(path.parent)
    except OSError:
        part.unlink(missing_ok=True)
        return False
    return True


def _build_exact(path: Path, part: Path, used: Capacity) -> None:
    """The same file with exact lengths and no events: METADATA, RUN and hard links as they were."""
    with h5py.File(path, "r") as old:

        def fill(new: Any) -> None:
            for section in ("METADATA", "RUN", "CONTROL"):
                if section in old:
                    old.copy(section, new)
            primary: dict[int, str] = {}
            for name, item in exdf.data_links(old):
                first = primary.setdefault(h5py.h5o.get_info(item.id).addr, name)
                if first == name:
                    exdf.add_dataset(new, name, (_length(name, used), *item.shape[1:]), item.dtype)
                else:
                    new[name] = new[first]

        exdf.build(part, fill)


def _copy_rows(path: Path, part: Path, columns: dict[str, Column], used: Capacity) -> None:
    targets = exdf.columns(part)
    source, target = os.open(path, os.O_RDONLY | os.O_CLOEXEC), os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        for name, column in {column.header: (name, column) for name, column in columns.items()}.values():
            size = _length(name, used) * column.row_bytes
            copy_range(source, target, size, column.offset, targets[name].offset)
        os.fsync(target)
    finally:
        os.close(source)
        os.close(target)
