"""The log of what a simulator sent: the truth that every test of the pipeline is judged by.

Owns the binary log: one record per event and message, in the order of sending, with the id, the label and the
checksum of what was sent and whether it left. Knows nothing of sockets and formats.

A record is appended before its message is offered, with `sent` OFFERED, and settled in place when its fate is
known. A simulator that is killed leaves at most the trains in its hands as OFFERED.
"""

import os
import zlib
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError

Array = NDArray[Any]

# Fates of a record.
DROPPED: Final = 0  # never left: no room, no peer, or left out on purpose
SENT: Final = 1  # handed to ZeroMQ
OFFERED: Final = 2  # the log ends here: it may have left or not

RECORD: Final = np.dtype(
    [
        ("train_id", "<u8"),
        ("pulse_id", "<u8"),
        ("label", "<u4"),  # bit mask, bit k for class k
        ("crc", "<u4"),  # zlib.crc32 of the event's bytes, modules in order
        ("row", "<u4"),  # of the bank of events: where it came from
        ("mark", "<u4"),  # Mark: what was done to it on purpose
        ("sent", "u1"),
    ]
)


class Mark(IntFlag):
    """What was done to an event on purpose, in the words of `streamer.facility.misbehave`."""

    GAP = 1 << 0  # left out; the ids go on
    DUPLICATE = 1 << 1  # the second sending of the same ids
    REORDER = 1 << 2  # of a pair of trains that changed places
    SHAPE = 1 << 3
    DTYPE = 1 << 4
    TRUNCATED = 1 << 5
    OVERSIZED = 1 << 6
    ODD = 1 << 7
    CONTENT = 1 << 8
    PICKLE = 1 << 9
    OBJECT = 1 << 10
    BOMB = 1 << 11
    DEEP = 1 << 12
    UNKNOWN = 1 << 13  # came with a source that nobody configured
    MODULE = 1 << 14  # came without one module
    NAN = 1 << 15
    EMPTY = 1 << 16  # the train says that it has no frames
    STALL = 1 << 17  # came after a silence


# Messages that a correct receiver refuses as a whole.
REFUSED: Final = (
    Mark.SHAPE
    | Mark.DTYPE
    | Mark.TRUNCATED
    | Mark.OVERSIZED
    | Mark.ODD
    | Mark.CONTENT
    | Mark.PICKLE
    | Mark.OBJECT
    | Mark.BOMB
    | Mark.DEEP
)


def records(train_id: int, pulse_id: Array) -> Array:
    """Blank records of one train: RECORD [n], label, crc, row and mark 0, `sent` OFFERED."""
    rows = np.zeros(len(pulse_id), RECORD)
    rows["train_id"], rows["pulse_id"], rows["sent"] = train_id, pulse_id, OFFERED
    return rows


class TruthLog:
    """Writes the log. Each call is one system call: nothing waits in this process."""

    def __init__(self, path: Path) -> None:
        """Begins an empty log. Raises ConfigError."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write the log {path}: {error.strerror}") from error
        self._end_bytes = 0

    def append(self, rows: Array) -> int:
        """Append records; returns their place, for `settle`."""
        place = self._end_bytes
        self._end_bytes += os.pwrite(self._file, rows.data, place)
        return place

    def settle(self, place: int, rows: Array, sent: bool) -> None:
        """Write the fate of the records that `append` put at `place`."""
        rows["sent"] = SENT if sent else DROPPED
        os.pwrite(self._file, rows.data, place)

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> Array:
    """All complete records of a log, RECORD [n], also of one that is still written. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the log {path}: {error.strerror}") from error
    whole = len(data) // RECORD.itemsize * RECORD.itemsize
    return np.frombuffer(data[:whole], RECORD)


def expected(log: Array) -> Array:
    """The records of events that a correct receiver accepts as new: sent, not refused, not a duplicate."""
    keep = (log["sent"] == SENT) & (log["mark"] & np.uint32(REFUSED | Mark.DUPLICATE | Mark.GAP) == 0)
    accepted: Array = log[keep]
    return accepted


def checksums(events: Iterable[Array]) -> Array:
    """zlib.crc32 of the bytes of each event, u4 [event]."""
    return np.array([zlib.crc32(np.ascontiguousarray(event).data) for event in events], "<u4")
