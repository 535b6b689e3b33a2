"""ZeroMQ sockets as this project uses them: bounded, local, never waiting without limit.

Owns the options of every socket and the reception of a facility's messages; knows nothing of what is in
them. A socket is made in the process that uses it.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # ships no types
import zmq
from zmq.utils.monitor import parse_monitor_message

from streamer.errors import ConfigError

# A control request is a command and two names; an answer may hold the status of every stream.
MAX_CONTROL_BYTES: Final = 16 * 1024
MAX_ANSWER_BYTES: Final = 4 << 20
ASK_SLICE_MS: Final = 50
MAX_PORT: Final = 65535
# Plain integers: arithmetic on zmq's enums costs 1 us each time, in the hot path.
NOBLOCK: Final = int(zmq.NOBLOCK)
EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)
# A closed socket may take this long to flush; never for ever (ZeroMQ's own default).
LINGER_MS: Final = 200
# Messages that wait in libzmq's memory before the kernel pushes back: as many as fit into these bytes. With a
# handful of small ones, the I/O thread and ours wake each other all the time (docs/decisions/ingest.md).
INPUT_BYTES: Final = 64 << 20
MIN_INPUT_HWM: Final = 4
# The pulses of a train are not known before it comes. European XFEL's 2700 pulses of a small spectrum are
# 7 MB, so that this many trains stay below half a gigabyte.
MAX_INPUT_HWM: Final = 64


def bind(socket: "zmq.Socket[bytes]", endpoint: str) -> str:
    """Bind and return the real endpoint. Raises ConfigError, and closes the socket."""
    port = endpoint.rpartition(":")[2]
    if port.isdecimal() and int(port) > MAX_PORT:
        socket.close(0)
        raise ConfigError(f"cannot bind {endpoint}: ports end at {MAX_PORT}; ZeroMQ would take another one")
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ConfigError(
            f"cannot bind {endpoint}: {error.strerror}. Is another run using it? "
            "Stop that run or choose another endpoint in the configuration."
        ) from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def readable(socket: "zmq.Socket[bytes]") -> bool:
    return bool(socket.get(EVENTS) & POLLIN)  # type: ignore[operator]  # an int, for this option


def reply_socket(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    """The answering end of a control path: small messages on a private ipc socket."""
    socket = context.socket(zmq.REP)
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.MAXMSGSIZE, MAX_CONTROL_BYTES)
    bind(socket, endpoint)
    return socket


def receive_request(socket: "zmq.Socket[bytes]") -> dict[str, Any]:
    """One msgpack map; an empty one for anything else, so that a strange request is only refused."""
    parts = socket.recv_multipart(zmq.NOBLOCK)
    try:
        request = msgpack.unpackb(b"".join(parts), max_map_len=64, max_array_len=64, max_ext_len=0)
    except (ValueError, msgpack.UnpackException):
        return {}
    return request if isinstance(request, dict) else {}


def ask(
    context: "zmq.Context[zmq.Socket[bytes]]",
    endpoint: str,
    request: dict[str, Any],
    timeout_s: float,
    alive: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Send a control request; wait for the answer while the other side is `alive`. Raises TimeoutError."""
    with context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, MAX_ANSWER_BYTES)
        socket.connect(endpoint)
        socket.send(msgpack.packb(request))
        end_s = time.monotonic() + timeout_s
        while not socket.poll(ASK_SLICE_MS):
            if time.monotonic() > end_s or not alive():
                raise TimeoutError(f"no answer from {endpoint} within {timeout_s:g} s, or it ended meanwhile")
        answer: dict[str, Any] = msgpack.unpackb(socket.recv())
        return answer


def nothing_came(endpoint: str, kind: str) -> str:
    """What to look at when a source is silent."""
    return (
        f"nothing has come from {endpoint} ({kind}). Is the server running there? "
        "A REP server wants socket = REQ, PUB wants SUB, PUSH wants PULL"
    )


class Receiver:
    """The client side of a facility's server: whole multipart messages, for REQ, SUB and PULL.

    With REQ the next request leaves as soon as a reply is there, so that the server works while the reply
    is unpacked. A request that was under way when the connection broke is lost with it; the monitor tells,
    and the socket is made anew: asking again on a live connection would make ZeroMQ throw a reply away.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        kind: str,
        endpoint: str,
        max_part_bytes: int,
        message_bytes: int,
    ) -> None:
        self._context, self._kind, self._endpoint = context, kind, endpoint
        self._max_part_bytes = max_part_bytes
        self._hwm = max(MIN_INPUT_HWM, min(MAX_INPUT_HWM, INPUT_BYTES // message_bytes))
        self.reconnects = 0
        self._open()

    def _open(self) -> None:
        self.socket = self._context.socket(getattr(zmq, self._kind))
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, self._hwm)
        self.socket.set(zmq.MAXMSGSIZE, self._max_part_bytes)
        self.socket.set(zmq.TCP_KEEPALIVE, 1)
        self.socket.set(zmq.TCP_KEEPALIVE_IDLE, 10)
        self.socket.set(zmq.RECONNECT_IVL, 50)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 2000)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        if self._kind == "SUB":
            self.socket.set(zmq.SUBSCRIBE, b"")
        try:
            self.socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"source.endpoint {self._endpoint!r} is no address that ZeroMQ knows ({error.strerror}); "
                "expected e.g. tcp://exflhost:4500"
            ) from error
        if self._kind == "REQ":
            self.socket.send(b"next")

    def receive(self) -> "Sequence[zmq.Frame] | None":
        """The parts of one waiting message, without copying; None if none waits."""
        try:
            frame = self.socket.recv(NOBLOCK, False)
        except zmq.Again:
            return None
        # Not recv_multipart: it asks the socket for every part what the part itself knows, 5 us a message.
        frames = [frame]
        while frame.more:
            frame = self.socket.recv(0, False)
            frames.append(frame)
        if self._kind == "REQ":
            self.socket.send(b"next")
        return frames

    def check_connection(self) -> None:
        """Count lost connections; a REQ socket is opened anew. Call when nothing has come for a while."""
        lost = 0
        while self._monitor.poll(0):
            parse_monitor_message(self._monitor.recv_multipart())
            lost += 1
        self.reconnects += lost
        if lost and self._kind == "REQ":
            self.close()
            self._open()

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)
