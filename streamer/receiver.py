"""The connection to a facility's server: made, watched, made again; whole messages out of it.

Owns the socket; the protocol is `zmtp`. One thread and no queue of its own: what is not read waits in the
kernel and then at the server, whose high-water mark says what happens there.
"""

import contextlib
import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from streamer.errors import ConfigError
from streamer.log import FIRST, Repeated
from streamer.wire.types import Buffer
from streamer.zmtp import GREETING, MessageReader, Place, ZmtpError

log = logging.getLogger(__name__)

# A host that is there answers within milliseconds; one that drops our packets must not hold the stage up.
CONNECT_S: Final = 1.0
# A loaded server may take its time with READY.
HANDSHAKE_S: Final = 10.0
# Servers of libzmq say READY first; one that waits for ours gets it so late.
READY_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
# The longest `receive`: a server that sends without ever ending a message must not hold the stage up.
TURN_S: Final = 0.1
# A dead host is found after 10 + 3 x 5 s without an answer, and as soon when it owes us an acknowledgement:
# with that, the kernel sends no probes and would by itself try for a quarter of an hour.
_TCP_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
# sun_path of Linux has 108 bytes, one of them for the end (unix(7)).
_MAX_PATH_BYTES: Final = 107


def anywhere(_index: int, _size_bytes: int) -> memoryview | None:
    """No part has a place of its own."""
    return None


def opener(endpoint: str) -> Callable[[], socket.socket]:
    """What connects to a ZeroMQ endpoint, tcp://host:port or ipc://path. Raises ConfigError for any other."""
    transport, _, address = endpoint.partition("://")
    host, _, port = address.rpartition(":")
    if transport == "tcp" and _is_host(host) and _is_port(port):
        return lambda: _tcp(host.strip("[]"), int(port))
    path = "\0" + address[1:] if address.startswith("@") else address  # Linux: a name that is no file
    if transport == "ipc" and _is_path(path):
        return lambda: _ipc(path)
    raise ConfigError(
        f"source.endpoint {endpoint!r} is no address of a server; expected tcp://host:port or ipc://path "
        f"of at most {_MAX_PATH_BYTES} bytes, e.g. tcp://exflhost:4500"
    )


def _is_host(text: str) -> bool:
    """An IPv6 address or what can be a name; nothing is looked up."""
    with contextlib.suppress(ValueError):
        ipaddress.IPv6Address(text[1:-1] if text[:1] + text[-1:] == "[]" else text)
        return True
    with contextlib.suppress(UnicodeError):  # of a label that is empty or too long
        return re.fullmatch(rb"[\w.-]+", text.encode("idna")) is not None
    return False


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) <= 65535


def _is_path(text: str) -> bool:
    with contextlib.suppress(UnicodeError):
        return 0 < len(os.fsencode(text)) <= _MAX_PATH_BYTES and "\0" not in text[1:]
    return False


def _tcp(host: str, port: int) -> socket.socket:
    made = socket.create_connection((host, port), CONNECT_S)
    with _closed_on_error(made):
        if made.getsockname() == made.getpeername():
            # TCP joins a socket with itself if nobody listens and the kernel gave it the server's port.
            raise ConnectionRefusedError("nobody listens there")
        for level, option, value in _TCP_OPTIONS:
            made.setsockopt(level, option, value)
    return made


def _ipc(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    with _closed_on_error(made):
        made.settimeout(CONNECT_S)
        made.connect(path)
    return made


@contextlib.contextmanager
def _closed_on_error(made: socket.socket) -> Iterator[None]:
    try:
        yield
    except OSError:
        made.close()
        raise


class Receiver:
    """The client side of a facility's server, for REQ, SUB and PULL. Raises ConfigError for a bad endpoint.

    With REQ the next request leaves as soon as a reply is there, so that the server works while the reply
    is unpacked. A request under way when the connection broke is lost with it, and made again on the new one.
    A message of which a part was missing then is none: nothing of it is given to anybody.
    """

    def __init__(self, kind: str, endpoint: str, max_message_bytes: int, place: Place = anywhere) -> None:
        self._kind, self._endpoint, self._open = kind, endpoint, opener(endpoint)
        self._max_message_bytes, self._place = max_message_bytes, place
        self._socket: socket.socket | None = None
        self._reader = self._new_reader()
        self._repeated = Repeated(log)
        self._pause_s, self._next_try_s = FIRST_PAUSE_S, 0.0
        self._connected_s = 0.0
        self._serving = False  # this connection's handshake is over
        self._served = 0  # connections that came so far
        self.reconnects = 0
        """Connections that served and were lost."""

    def fileno(self) -> int:
        """To poll for reading; -1 without a connection."""
        return -1 if self._socket is None else self._socket.fileno()

    def receive(self) -> list[Buffer] | None:
        """The parts of the next whole message, valid until the next call.

        None if none is there, or a long one is under way: then poll, and call again.
        """
        if self._socket is None:
            return None
        try:
            if (parts := self._reader.message()) is None and (parts := self._next(self._socket)) is None:
                return None
            if self._kind == "REQ":
                self._reader.handshake.ask()
                self._send(self._socket)
        except (ZmtpError, OSError) as error:
            self._lost(error)
            return None
        return parts

    def _next(self, connection: socket.socket) -> list[Buffer] | None:
        """Read until a message is whole, nothing waits, or the turn is over."""
        end_s = time.monotonic() + TURN_S
        while self._read(connection):
            parts = self._reader.message()
            if parts is not None or time.monotonic() > end_s:
                return parts
        return None

    def _read(self, connection: socket.socket) -> bool:
        """Whatever waits, into its place; False if nothing does."""
        if not self._serving:
            self._watch_handshake()
        self._send(connection)
        try:
            size_bytes = connection.recv_into(self._reader.space())
        except BlockingIOError:
            return False
        if not size_bytes:
            raise ConnectionResetError("the source closed the connection")
        self._reader.filled(size_bytes)
        return True

    def _send(self, connection: socket.socket) -> None:
        """What must be answered, as far as the kernel takes it; the rest at the next call.

        A server that has gone may have left messages in the kernel: that it has gone shows behind them.
        """
        to_send = self._reader.handshake.to_send
        if not to_send:
            return
        try:
            del to_send[: connection.send(to_send)]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            to_send.clear()

    # --- connection ---------------------------------------------------------------------------------

    def check_connection(self) -> None:
        """Connect, again if need be. Call when nothing has come for a while.

        It takes up to CONNECT_S for each address of the host, and what the resolver takes for its name.
        """
        if self._socket is not None and not self._serving:
            self._hasten(self._socket)
        if self._socket is None and time.monotonic() >= self._next_try_s:
            self._connect()

    def _connect(self) -> None:
        try:
            self._socket = self._open()
            self._socket.sendall(GREETING)
            self._socket.setblocking(False)
        except OSError as error:  # most often nobody is there yet
            self.close()
            before_s = self._pause_s
            self._wait()
            if before_s < self._pause_s == LONGEST_PAUSE_S:  # once for every time that it was away
                text = f"no connection to {self._endpoint}: {error}; tried again every {LONGEST_PAUSE_S:g} s"
                self._repeated.warn("absent", text)
            return
        self._connected_s, self._serving = time.monotonic(), False

    def _new_reader(self) -> MessageReader:
        return MessageReader(self._kind, self._max_message_bytes, self._place)

    def _hasten(self, connection: socket.socket) -> None:
        """The handshake, when nothing comes that would move it."""
        try:
            self._watch_handshake()
            self._send(connection)
        except (ZmtpError, OSError) as error:
            self._lost(error)

    def _watch_handshake(self) -> None:
        """Note its end. Raises ZmtpError if it takes too long, also when bytes keep coming."""
        shake = self._reader.handshake
        if shake.ready:
            self._serving = True
            self._served += 1
            level = logging.INFO if self._served <= FIRST else logging.DEBUG  # as `Repeated` does
            log.log(level, "connected to %s, a %s server", self._endpoint, shake.peer)
        elif (waited_s := time.monotonic() - self._connected_s) > HANDSHAKE_S:
            raise ZmtpError(f"no ZeroMQ handshake within {HANDSHAKE_S:g} s")
        elif shake.greeted and waited_s > READY_S:
            shake.say_ready()

    def _lost(self, error: ZmtpError | OSError) -> None:
        self.reconnects += self._reader.handshake.ready
        if time.monotonic() > self._connected_s + LONGEST_PAUSE_S:
            # One that is lost at once, again and again, shall not be made again twenty times a second.
            self._pause_s = FIRST_PAUSE_S
        kind = type(error).__name__  # of few, whatever a text from the network says
        self._repeated.warn(kind, f"connection to {self._endpoint} lost: {error}; connecting again")
        self.close()
        self._wait()

    def _wait(self) -> None:
        self._next_try_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def close(self) -> None:
        """Give the connection up, and the half message of it; `check_connection` would make a new one."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket, self._reader = None, self._new_reader()
