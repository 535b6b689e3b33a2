"""How fast the store takes blocks, beside the other ways to write HDF5 and the floor of plain writes.

    python -m benchmarks.store [DIRECTORY]

Every writer stores the same blocks in the same folder, in turns; a row is the median of the turns.
The copy of the result into docs/decisions/store.md is by hand.
"""

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.store.series import Series
from streamer.store.spec import KeySpec, RunInfo, SeriesSpec, TableSpec

TURNS = 5
BLOCKS = 150  # 315 MB of frames: beyond caches, within page cache and time
FRAMES, SIDE_PX = 64, 128
EVENTS, COLUMNS = 16, 15
INFO = RunInfo(0, 1, "20260101T000000Z", {})
F4 = np.dtype("f4")

Append = Callable[[int], None]
Writer = Callable[[Path], AbstractContextManager[Append]]


def frames() -> NDArray[np.uint16]:
    """One block of detector frames."""
    return np.random.default_rng(0).integers(0, 4096, (FRAMES, SIDE_PX, SIDE_PX)).astype(np.uint16)


@contextmanager
def series_frames(directory: Path) -> Iterator[Append]:
    """This project's writer, frames."""
    table = TableSpec("A/B/C:output", (KeySpec("data.image", np.dtype("u2"), (SIDE_PX, SIDE_PX)),))
    spec = SeriesSpec("frames", directory, (table,), FRAMES * (BLOCKS + 1) * 4 // 3, BLOCKS + 1)
    yield from _series(spec, FRAMES, [[frames()]])


@contextmanager
def series_scattered(directory: Path) -> Iterator[Append]:
    """This project's writer, every other frame of a block twice as long."""
    table = TableSpec("A/B/C:output", (KeySpec("data.image", np.dtype("u2"), (SIDE_PX, SIDE_PX)),))
    spec = SeriesSpec("frames", directory, (table,), FRAMES * (BLOCKS + 1) * 4 // 3, BLOCKS + 1)
    yield from _series(spec, 2 * FRAMES, [[np.repeat(frames(), 2, axis=0)]], np.arange(0, 2 * FRAMES, 2))


@contextmanager
def series_results(directory: Path) -> Iterator[Append]:
    """This project's writer, result columns."""
    keys = tuple(KeySpec(f"data.{i}", F4) for i in range(COLUMNS))
    spec = SeriesSpec("results", directory, (TableSpec("A/B/C:output", keys),), 1 << 17, 1 << 14)
    yield from _series(spec, EVENTS, [[np.ones(EVENTS, F4) for _ in keys]])


def _series(
    spec: SeriesSpec, n: int, rows: list[list[NDArray[np.generic]]], select: NDArray[np.intp] | None = None
) -> Iterator[Append]:
    series, cursor = Series(spec, INFO), np.zeros(Series.CURSOR_INTS, np.int64)
    pulse_ids = np.arange(n, dtype=np.uint64)

    def append(block: int) -> None:
        series.append(cursor, np.full(n, block + 1, np.uint64), pulse_ids, rows, 0.0, select)

    yield append
    series.release()


@contextmanager
def h5py_appends(directory: Path) -> Iterator[Append]:
    """h5py: resize, assign, flush per block."""
    block = frames()
    with h5py.File(directory / "a.h5", "w") as file:
        data, ids = _growing(file, (FRAMES, SIDE_PX, SIDE_PX))

        def append(number: int) -> None:
            first = number * FRAMES
            data.resize(first + FRAMES, 0)
            data[first:] = block
            ids.resize(first + FRAMES, 0)
            ids[first:] = number + 1
            file.flush()

        yield append


@contextmanager
def direct_chunks(directory: Path) -> Iterator[Append]:
    """h5py: one write_direct_chunk per block of frames, flush per block."""
    block = frames()
    with h5py.File(directory / "a.h5", "w") as file:
        data, ids = _growing(file, (FRAMES, SIDE_PX, SIDE_PX))

        def append(number: int) -> None:
            first = number * FRAMES
            data.resize(first + FRAMES, 0)
            data.id.write_direct_chunk((first, 0, 0), block)
            ids.resize(first + FRAMES, 0)
            ids[first:] = number + 1
            file.flush()

        yield append


@contextmanager
def h5py_results(directory: Path) -> Iterator[Append]:
    """h5py: result columns, resize, assign, flush per block."""
    with h5py.File(directory / "a.h5", "w") as file:
        columns = [
            file.create_dataset(str(i), (0,), F4, maxshape=(None,), chunks=(4096,)) for i in range(COLUMNS)
        ]
        values = np.ones(EVENTS, F4)

        def append(number: int) -> None:
            for column in columns:
                column.resize((number + 1) * EVENTS, 0)
                column[number * EVENTS :] = values
            file.flush()

        yield append


@contextmanager
def plain_writes(directory: Path) -> Iterator[Append]:
    """The floor: one pwrite per block into a file whose space is claimed."""
    block = frames()
    data = block.tobytes()
    fd = os.open(directory / "raw", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, block.nbytes * (BLOCKS + 1))

    def append(number: int) -> None:
        os.pwrite(fd, data, number * block.nbytes)

    yield append
    os.close(fd)


def _growing(file: h5py.File, chunk: tuple[int, ...]) -> tuple[h5py.Dataset, h5py.Dataset]:
    data = file.create_dataset("data", (0, *chunk[1:]), "u2", maxshape=(None, *chunk[1:]), chunks=chunk)
    return data, file.create_dataset("trainId", (0,), "u8", maxshape=(None,), chunks=(4096,))


WRITERS: dict[str, tuple[int, dict[str, Writer]]] = {
    "64 frames 128x128 u2": (
        FRAMES * SIDE_PX * SIDE_PX * 2,
        {
            "plain pwrite (floor)": plain_writes,
            "this writer": series_frames,
            "this writer, every other of 128": series_scattered,
            "h5py append + flush": h5py_appends,
            "h5py direct chunk + flush": direct_chunks,
        },
    ),
    "16 events x 15 columns": (
        EVENTS * COLUMNS * F4.itemsize,
        {"this writer": series_results, "h5py append + flush": h5py_results},
    ),
}


def measure(writer: Writer, root: Path) -> NDArray[np.float64]:
    """Seconds of each append after the first."""
    directory = root / "bench"
    directory.mkdir()
    seconds = []
    with writer(directory) as append:
        append(0)
        for block in range(1, BLOCKS + 1):
            start = time.perf_counter()
            append(block)
            seconds.append(time.perf_counter() - start)
    shutil.rmtree(directory)
    return np.array(seconds)


def main(root: Path) -> None:
    """Print one table."""
    today, kernel = f"{datetime.now(UTC):%Y-%m-%d}", platform.release()
    print(
        f"{today}, {platform.machine()}, {os.cpu_count()} cores, Linux {kernel}, h5py {h5py.version.version},"
    )
    print(f"HDF5 {h5py.version.hdf5_version}, {TURNS} turns of {BLOCKS} blocks\n")
    print("| block | writer | median us | p99 us | GB/s |\n|---|---|---|---|---|")
    for block, (size_bytes, writers) in WRITERS.items():
        turns = [{name: measure(writer, root) for name, writer in writers.items()} for _ in range(TURNS)]
        for name in writers:
            median = statistics.median(float(np.median(turn[name])) for turn in turns)
            p99 = statistics.median(float(np.percentile(turn[name], 99)) for turn in turns)
            rate = statistics.median(size_bytes / float(turn[name].mean()) / 1e9 for turn in turns)
            print(f"| {block} | {name} | {median * 1e6:.0f} | {p99 * 1e6:.0f} | {rate:.3g} |", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        main(Path(folder))
