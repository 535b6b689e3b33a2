"""The server side of a facility's data stream, for the simulator and the replay: no train is lost unseen.

Owns the bound on waiting trains and the fate of every train; how each kind of socket takes one is in
`outlets`. Knows nothing of what is in a train. The protocol is that of `karabo_bridge.server`
(European-XFEL/karabo-bridge-py).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self

import zmq

from streamer.errors import ConfigError
from streamer.facility.outlets import Outlet, Parts, Publish, Push, Reply, Settle, UnixPeers
from streamer.sockets import bind

SocketKind = Literal["REP", "PUB", "PUSH"]

# The longest wait in one piece: how late a stop is seen.
SLICE_S: Final = 0.05
# 'next' has 4 bytes; a client that sends more than this is not one, and is disconnected.
MAX_REQUEST_BYTES: Final = 4096


def never() -> bool:
    """A stop condition that does not come."""
    return False


def ignore_fate(ticket: int, sent: bool) -> None:
    """For callers that need only the counters."""


@dataclass(frozen=True)
class ServerOptions:
    """How trains are served."""

    # Where to bind; port 0 lets the system choose, `Server.endpoint` tells.
    endpoint: str = "tcp://127.0.0.1:0"
    # The server's side of the pair: REP answers REQ, PUB feeds SUB, PUSH feeds PULL.
    socket: SocketKind = "REP"
    # Trains that wait for a slow peer may take this many bytes, and at least one train waits.
    queue_bytes: int = 64 * 1024**2
    # How long a train waits for room before one is dropped and counted. None: as long as it takes.
    send_timeout_s: float | None = None
    # At the end, how long a peer that makes no progress may keep trains waiting.
    linger_s: float = 10.0

    def __post_init__(self) -> None:
        if self.socket not in ("REP", "PUB", "PUSH"):
            raise ConfigError(f"socket: expected REP, PUB or PUSH, got {self.socket!r}")
        if self.queue_bytes < 1 or self.linger_s < 0:
            raise ConfigError("queue_bytes must be at least 1 and linger_s at least 0")
        if self.send_timeout_s is not None and not self.send_timeout_s >= 0:
            raise ConfigError(f"send_timeout_s: expected 0 or more, got {self.send_timeout_s}")


class Server:
    """A bound socket that takes trains and tells the fate of each: handed to ZeroMQ, or dropped.

    `on_settled(ticket, sent)` is called once for every train given to `send`, in time or at `close`. "Sent"
    ends at ZeroMQ: trains that a killed peer held are lost and nobody is told. For one thread at a time.
    """

    def __init__(
        self,
        options: ServerOptions,
        train_bytes: int,
        stop: Callable[[], bool] = never,
        on_settled: Settle = ignore_fate,
    ) -> None:
        """`train_bytes`: the size of a usual train, which turns the byte budget into a number of trains."""
        self._options, self._stop, self._on_settled = options, stop, on_settled
        self.sent = 0
        self.dropped = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket, self._outlet = self._open(max(1, options.queue_bytes // max(1, train_bytes)))
            self._peers = UnixPeers(self._socket) if options.endpoint.startswith("ipc:") else None
            self.endpoint = bind(self._socket, _any_port(options.endpoint))
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _open(self, limit: int) -> tuple["zmq.Socket[bytes]", Outlet]:
        kind = self._options.socket
        socket = self._context.socket({"REP": zmq.REP, "PUB": zmq.XPUB, "PUSH": zmq.PUSH}[kind])
        socket.set(zmq.LINGER, round(self._options.linger_s * 1000))
        socket.set(zmq.SNDHWM, limit)
        socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        if kind == "REP":
            return socket, Reply(socket, self._settle, limit)
        if kind == "PUSH":
            return socket, Push(socket, self._settle)
        socket.set(zmq.XPUB_NODROP, 1)
        socket.set(zmq.XPUB_VERBOSER, 1)  # every subscription is told, not only the first of a topic
        return socket, Publish(socket, self._settle)

    @property
    def bad_requests(self) -> int:
        """Requests that were not `next`; REP only."""
        return self._outlet.bad_requests

    def wait_for_peer(self, timeout_s: float | None) -> bool:
        """Whether a peer came (REP: asked) in time and before the stop."""
        return self._until(self._outlet.has_peer, timeout_s)

    def send(self, parts: Parts, ticket: int = 0) -> bool:
        """Offer one train, waiting for room as the options say. False if this train was dropped.

        With REP a full queue gives up its oldest train for this one. The arrays behind `parts` must not
        change until the server is closed.
        """
        if self._until(lambda: self._outlet.offer(ticket, parts), self._options.send_timeout_s):
            return True
        if not self._stop() and self._outlet.drop_oldest() and self._outlet.offer(ticket, parts):
            return True
        self._settle(ticket, False)
        return False

    def wait(self, duration_s: float) -> None:
        """Let time pass, answering requests, until `duration_s` is over or the stop comes."""
        if self._peers:
            self._peers.listen()
        end_s = time.monotonic() + duration_s
        while (left_s := end_s - time.monotonic()) > 0 and not self._stop():
            self._outlet.idle(min(left_s, SLICE_S))

    def drain(self) -> bool:
        """Answer requests until no train waits. Gives up after `linger_s` without one, or at the stop.

        With PUB and PUSH ZeroMQ holds what waits, and `close` flushes it.
        """
        while waiting := self._outlet.waiting():
            if not self._until(partial(self._fewer_wait_than, waiting), self._options.linger_s):
                return False
        return True

    def _fewer_wait_than(self, number: int) -> bool:
        return self._outlet.waiting() < number

    def close(self) -> None:
        """Settle what waits as dropped, flush what ZeroMQ holds for at most `linger_s`, and unbind."""
        if self._context.closed:
            return
        while self._outlet.drop_oldest():
            pass
        end_s = time.monotonic() + self._options.linger_s
        if self._peers:
            self._peers.hold()
        self._socket.close()
        self._context.term()
        if self._peers:
            self._peers.release(end_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _until(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        end_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not done():
            left_s = end_s - time.monotonic()
            if left_s <= 0 or self._stop():
                return False
            self._outlet.wait(min(left_s, SLICE_S))
        return True

    def _settle(self, ticket: int, sent: bool) -> None:
        if sent:
            self.sent += 1
        else:
            self.dropped += 1
        self._on_settled(ticket, sent)


def _any_port(endpoint: str) -> str:
    """ZeroMQ writes '*' for a port of the system's choice."""
    return endpoint.removesuffix(":0") + ":*" if endpoint.endswith(":0") else endpoint
