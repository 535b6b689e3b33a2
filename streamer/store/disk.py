"""Bytes to the disk: complete positional writes, space, and errors that say what to do.

Knows nothing of HDF5. Every OSError of the store becomes a StoreError here.
"""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import DiskFullError, StoreError

Buffer = NDArray[Any]

# Most buffers one pwritev takes (Linux: UIO_MAXIOV 1024); -1 where the system does not say.
_IOV_MAX = max(os.sysconf("SC_IOV_MAX"), 16)

# What to do where no file can be opened at all.
_OPEN_FILES = {
    errno.EMFILE: "raise it for this process (ulimit -n, LimitNOFILE= in systemd), or close idle connections",
    errno.ENFILE: "raise it for the machine (sysctl fs.file-max)",
}


def free_bytes(directory: Path) -> int:
    """Bytes an unprivileged process can still write on the file system of `directory`."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


@contextlib.contextmanager
def store_errors(path: Path, doing: str, needed_bytes: int = 0) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the file, the space needed and left, and the remedy."""
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(_explain(path, doing, needed_bytes, error)) from error


def _explain(path: Path, doing: str, needed_bytes: int, error: OSError) -> str:
    cause = f"{doing} {path}: {error.strerror or error}"
    if error.errno in _OPEN_FILES:
        return f"{cause}; the limit of open files is reached, not the disk: {_OPEN_FILES[error.errno]}"
    try:
        space = f"{free_bytes(path.parent)} bytes are free"
    except OSError:
        return f"{cause}; check that the directory still exists and can be written"
    needed = f"{needed_bytes} bytes are needed, " if needed_bytes else ""
    return f"{cause}; {needed}{space}; free space on that disk, or check its health and the quota"


def write_all(fd: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write contiguous `buffers` one after the other from `offset` on, whatever the kernel takes at a time.

    Raises OSError.
    """
    if len(buffers) == 1:  # almost always; one vector costs more than none
        buffer: Any = buffers[0]  # the type of os.pwrite knows no arrays
        done = os.pwrite(fd, buffer, offset)
        if done != buffer.nbytes:
            _write_rest(fd, buffers, offset, done)
        return
    for start in range(0, len(buffers), _IOV_MAX):
        batch = buffers[start : start + _IOV_MAX]
        wanted = sum([buffer.nbytes for buffer in batch])
        vectors: Any = batch
        done = os.pwritev(fd, vectors, offset)
        if done != wanted:  # 2 GiB limit of one call, a signal between pages, a nearly full quota
            _write_rest(fd, batch, offset, done)
        offset += wanted


def _write_rest(fd: int, batch: Sequence[Buffer], offset: int, done: int) -> None:
    for buffer in batch:
        array: Any = buffer
        view = memoryview(array).cast("B")
        skip = min(done, len(view))
        done -= skip
        offset += skip
        while skip < len(view):
            written = os.pwrite(fd, view[skip:], offset)
            skip += written
            offset += written


def copy_range(source: int, target: int, size: int, source_offset: int, target_offset: int) -> None:
    """Copy `size` bytes between files inside the kernel where it can. Raises OSError."""
    while size > 0:
        done = _copy_some(source, target, size, source_offset, target_offset)
        if done == 0:
            raise OSError(errno.EIO, "source file ended early")
        size, source_offset, target_offset = size - done, source_offset + done, target_offset + done


def _copy_some(source: int, target: int, size: int, source_offset: int, target_offset: int) -> int:
    with contextlib.suppress(OSError):  # not on every file system; the plain copy below tells real errors
        done = os.copy_file_range(source, target, size, source_offset, target_offset)
        if done:
            return done
    # 8 MiB: large enough for full disk speed, small beside the ring
    data = os.pread(source, min(size, 8 << 20), source_offset)
    return os.pwrite(target, data, target_offset)


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def runs(index: NDArray[np.intp]) -> Iterator[slice]:
    """Stretches of consecutive positions in an increasing index, as slices."""
    bounds = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
    for start, stop in itertools.pairwise(bounds):
        yield slice(int(index[start]), int(index[stop - 1]) + 1)
