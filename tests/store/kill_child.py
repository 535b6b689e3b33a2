"""A process that appends block after block until it is killed, or until `stop_at` blocks are stored.

    python kill_child.py DIRECTORY CURSOR_FILE STOP_AT

The cursor file holds two copies of (blocks stored, cursor) and which of them counts.
"""

import sys
from pathlib import Path

import numpy as np
from store_support import append, make_info, make_spec

from streamer.store.series import Series

COPY_INTS = 1 + Series.CURSOR_INTS
FILE_INTS = 1 + 2 * COPY_INTS
LATE_EVERY = 7


def block(number: int) -> tuple[tuple[int, int], int]:
    """Block `number`: (train, events), first pulse. Three make a train; some are of older trains."""
    if number % LATE_EVERY == 0:
        return (1 + number // LATE_EVERY, 4), 0
    return (1_000_000 + number // 3, 5), number % 3 * 5


def main(directory: Path, cursor_file: Path, stop_at: int) -> None:
    """Resume, append, commit; with `stop_at` > 0 close at the end."""
    page = np.memmap(cursor_file, np.int64, "r+", shape=(FILE_INTS,))
    copies = page[1:].reshape(2, COPY_INTS)
    series = Series(make_spec(directory, rows=256, trains=32), make_info())
    series.resume(copies[page[0], 1:])
    while not stop_at or copies[page[0], 0] < stop_at:
        done, cursor = int(copies[page[0], 0]), copies[page[0], 1:].copy()
        train, first_pulse = block(done)
        append(series, cursor, train, first_pulse=first_pulse)
        copies[1 - page[0]] = [done + 1, *cursor]
        page[0] = 1 - page[0]
    series.close(copies[page[0], 1:])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
