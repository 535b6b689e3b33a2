"""The connection to a facility's server: made, watched, made again; whole messages out of it.

Owns the socket; the protocol is `zmtp`. One thread and no queue of its own: what is not read waits in the
kernel and then at the server, whose high-water mark says what happens there.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Final

from streamer.errors import ConfigError
from streamer.log import Repeated
from streamer.wire.types import Buffer
from streamer.zmtp import MessageReader, Place, ZmtpError, greeting, request

log = logging.getLogger(__name__)

# A host that is there answers within milliseconds; one that drops our packets must not hold the stage up.
CONNECT_S: Final = 1.0
# A loaded server may take its time with READY.
HANDSHAKE_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
# A dead host is found after 10 + 3 x 5 s without an answer.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


def anywhere(_index: int, _size_bytes: int) -> memoryview | None:
    """No part has a place of its own."""
    return None


def opener(endpoint: str) -> Callable[[], socket.socket]:
    """What connects to a ZeroMQ endpoint, tcp://host:port or ipc://path. Raises ConfigError for any other."""
    transport, _, address = endpoint.partition("://")
    host, _, port = address.rpartition(":")
    if transport == "tcp" and host and port.isdecimal() and 0 < int(port) <= 65535:
        return lambda: _tcp(host.strip("[]"), int(port))
    if transport == "ipc" and address:
        path = "\0" + address[1:] if address.startswith("@") else address
        return lambda: _ipc(path)
    raise ConfigError(
        f"source.endpoint {endpoint!r} is no address of a server; expected tcp://host:port or ipc://path, "
        "e.g. tcp://exflhost:4500"
    )


def _tcp(host: str, port: int) -> socket.socket:
    made = socket.create_connection((host, port), CONNECT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _ipc(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(CONNECT_S)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


class Receiver:
    """The client side of a facility's server, for REQ, SUB and PULL. Raises ConfigError for a bad endpoint.

    With REQ the next request leaves as soon as a reply is there, so that the server works while the reply
    is unpacked. A request under way when the connection broke is lost with it, and made again on the new one.
    """

    def __init__(self, kind: str, endpoint: str, max_message_bytes: int, place: Place = anywhere) -> None:
        self._kind, self._endpoint, self._open = kind, endpoint, opener(endpoint)
        self._max_message_bytes, self._place = max_message_bytes, place
        self._socket: socket.socket | None = None
        self._reader = MessageReader(kind, max_message_bytes, place)
        self._repeated = Repeated(log)
        self._pause_s, self._next_try_s, self._give_up_s = FIRST_PAUSE_S, 0.0, 0.0
        self.reconnects = 0
        """Connections that served and were lost."""

    def fileno(self) -> int:
        """To poll for reading; -1 without a connection."""
        return -1 if self._socket is None else self._socket.fileno()

    def receive(self) -> list[Buffer] | None:
        """The parts of the next whole message, valid until the next call; None if none is there."""
        if self._socket is None:
            return None
        try:
            while (parts := self._reader.message()) is None:
                if not self._read(self._socket):
                    return None
            if self._kind == "REQ":
                self._socket.sendall(request())
        except (ZmtpError, OSError) as error:
            self._lost(error)
            return None
        return parts

    def _read(self, connection: socket.socket) -> bool:
        """Whatever waits, into its place; False if nothing does."""
        if self._reader.to_send:
            connection.sendall(self._reader.to_send)
            self._reader.to_send = b""
        try:
            size_bytes = connection.recv_into(self._reader.space())
        except BlockingIOError:
            return False
        if not size_bytes:
            raise ConnectionResetError("the source closed the connection")
        self._reader.filled(size_bytes)
        return True

    def check_connection(self) -> None:
        """Connect, again if need be. Call when nothing has come for a while; takes up to CONNECT_S."""
        now_s = time.monotonic()
        if self._socket is None and now_s >= self._next_try_s:
            self._connect()
        elif self._socket is not None and not self._reader.ready and now_s > self._give_up_s:
            self._lost(ZmtpError(f"no ZeroMQ handshake within {HANDSHAKE_S:g} s"))

    def _connect(self) -> None:
        try:
            self._socket = self._open()
            self._socket.sendall(greeting(self._kind))
            self._socket.setblocking(False)
        except OSError as error:  # most often nobody is there yet
            self._close()
            self._wait()
            log.debug("%s: %s", self._endpoint, error)
            return
        self._reader = MessageReader(self._kind, self._max_message_bytes, self._place)
        self._give_up_s = time.monotonic() + HANDSHAKE_S

    def _lost(self, error: ZmtpError | OSError) -> None:
        if self._reader.ready:
            self.reconnects += 1
            self._pause_s = FIRST_PAUSE_S
        kind = type(error).__name__  # of few, whatever a text from the network says
        self._repeated.warn(kind, f"connection to {self._endpoint} lost: {error}; connecting again")
        self._close()
        self._wait()

    def _wait(self) -> None:
        self._next_try_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket = None

    def close(self) -> None:
        self._close()
