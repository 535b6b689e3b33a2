"""Tokens: the word that a slot has changed hands, from one stage to the next.

Owns the transport: a FIFO in the run's private folder for each receiver. What is true stands in the ring's
table (`ring`); a token only says where to look, so one that is lost or comes twice does no harm.

A FIFO wakes the stage that sleeps on it and nobody else; a socket of ZeroMQ wakes an I/O thread on each side
first (docs/decisions/tokens-and-table.md). The kernel orders the write to the table before the read of the
token.
"""

import contextlib
import fcntl
import os
import select
import stat
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from streamer.errors import ConfigError

Token = tuple[int, int]
"""Slot and number of the block in it."""

_TOKEN: Final = struct.Struct("=QQ")
# A write of at most PIPE_BUF is whole or not at all (pipe(7)), so a reader never meets half a token.
_TOKENS_A_WRITE: Final = select.PIPE_BUF // _TOKEN.size
# What an unprivileged process may ask for (fs.pipe-max-size): 65536 tokens; a ring has 4096 slots at most.
_PIPE_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16


class Tokens:
    """One end of one direction; several may send, one receives. Pollers take it as a file."""

    def __init__(self, path: Path) -> None:
        """Joins the FIFO at `path`, which the first to come makes. Opens at once, whoever else is there.

        Raises ConfigError where there can be none.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path, 0o600)
            fifo = stat.S_ISFIFO(os.stat(path).st_mode)
        except OSError as error:
            raise ConfigError(f"the run's folder {path.parent} cannot be used: {error.strerror}") from error
        if not fifo:
            raise ConfigError(f"{path} is no FIFO: something else has written to the run's folder")
        # Reading and writing, whichever we do: so that it never reads as closed while the other end restarts.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        with contextlib.suppress(PermissionError):  # this user's pipes are many; the usual 4096 tokens do
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def fileno(self) -> int:
        return self._fd

    def send(self, *tokens: Token) -> None:
        """Never waits. A token that finds no room is found by the receiver's next look at the table."""
        for start in range(0, len(tokens), _TOKENS_A_WRITE):
            part = tokens[start : start + _TOKENS_A_WRITE]
            with contextlib.suppress(BlockingIOError):
                os.write(self._fd, b"".join([_TOKEN.pack(*token) for token in part]))

    def receive(self) -> list[Token]:
        """Every token that waits, oldest first."""
        try:
            return list(_TOKEN.iter_unpack(os.read(self._fd, _READ_BYTES)))
        except BlockingIOError:
            return []

    def wait(self, limit_ms: int) -> bool:
        """True as soon as a token is there, False after `limit_ms`."""
        return bool(self._poll.poll(limit_ms))

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
