"""ZeroMQ sockets as this project uses them: bounded, local, never waiting without limit.

Owns the options of every socket of ZeroMQ; knows nothing of what is in the messages. A socket is made in the
process that uses it. A facility's messages come another way: `receiver`.
"""

import json
import random
import socket as system
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # ships no types
import zmq

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
# Below what Linux gives to outgoing connections: one of those must not take a port between look and use.
FREE_PORTS: Final = range(20_000, 32_000)
# A closed socket may take this long to flush; never for ever (ZeroMQ's own default).
LINGER_MS: Final = 200


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now, and that this process was not given before."""
    while True:
        port = random.choice(FREE_PORTS)
        if port not in _given and _can_bind(port):
            _given.add(port)
            return port


def _can_bind(port: int) -> bool:
    with system.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


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


def reply_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, kind: int = zmq.REP
) -> "zmq.Socket[bytes]":
    """The answering end of a control path: small messages on a private ipc socket. `kind`: REP or ROUTER."""
    socket = context.socket(kind)
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.MAXMSGSIZE, MAX_CONTROL_BYTES)
    bind(socket, endpoint)
    return socket


def receive_request(socket: "zmq.Socket[bytes]") -> dict[str, Any]:
    """One msgpack map; an empty one for anything else, so that a strange request is only refused."""
    return parse_request(socket.recv_multipart(zmq.NOBLOCK))


def parse_request(parts: Sequence[bytes]) -> dict[str, Any]:
    """The same of a message that has come."""
    try:
        request = msgpack.unpackb(b"".join(parts), max_map_len=64, max_array_len=64, max_ext_len=0)
        json.dumps(request)  # plain values only: it is logged and journalled
    except (TypeError, ValueError, RecursionError, msgpack.UnpackException):
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
        try:
            answer = msgpack.unpackb(socket.recv())
        except (ValueError, msgpack.UnpackException):
            answer = None
        if not isinstance(answer, dict):
            raise ConfigError(f"{endpoint} answers something else: is that the control socket of a run?")
        return answer


def nothing_came(endpoint: str, kind: str) -> str:
    """What to look at when a source is silent."""
    return (
        f"nothing has come from {endpoint} ({kind}). Is the server running there? "
        "A REP server wants socket = REQ, PUB wants SUB, PUSH wants PULL"
    )
