"""The server side of a facility's data stream, for the simulator and the replay: no train is lost unseen.

Owns one ZeroMQ socket of the Karabo Bridge kind (REP, PUB or PUSH), its bound on waiting trains, and the
fate of every train. Knows nothing of what is in a train. The protocol is that of `karabo_bridge.server`
(European-XFEL/karabo-bridge-py): REP answers the bytes `next` with a train, all else with an error text.

PUB is served by an XPUB socket with ZMQ_XPUB_NODROP: subscribers see no difference, but the server knows
whether there is one, and a full pipe is an answer instead of a silent loss.

ZeroMQ's LINGER flushes to the kernel. Over TCP that is enough; over ipc a receiver that is not reading at the
moment of the close loses what is still in the kernel (libzmq 4.3.5: the hang-up of a Unix socket ends its
engine at once; 2 of 800 trains lost in a test). So the close waits until the peers have read all.
"""

import fcntl
import math
import termios
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import zmq
from zmq.utils.monitor import parse_monitor_message

from streamer.errors import ConfigError
from streamer.sockets import bind

SocketKind = Literal["REP", "PUB", "PUSH"]
Parts = Sequence[bytes | memoryview]
Settle = Callable[[int, bool], None]

# The longest wait in one piece: how late a stop is seen.
SLICE_S: Final = 0.05
# ZeroMQ polls in whole milliseconds; what remains is slept.
POLL_STEP_S: Final = 0.001
# 'next' has 4 bytes; a client that sends more than this is not one, and is disconnected.
MAX_REQUEST_BYTES: Final = 4096
# A buffer that is empty in this many looks in a row is empty: while ZeroMQ holds data it refills at once.
QUIET_LOOKS: Final = 3
LOOK_STEP_S: Final = 0.002
# How much of a bad request is echoed.
ECHO_BYTES: Final = 100


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


class Outlet(Protocol):
    """One kind of socket."""

    # Requests that were not understood.
    bad_requests: int

    def offer(self, ticket: int, parts: Parts) -> bool:
        """Take the train without waiting, or say that there is no room or no peer."""

    def wait(self, timeout_s: float) -> None:
        """Serve the peers until something may have changed, at most `timeout_s`."""

    def idle(self, duration_s: float) -> None:
        """Serve the peers for about `duration_s`, never longer."""

    def has_peer(self) -> bool:
        """Whether somebody is there to take a train."""

    def waiting(self) -> int:
        """Trains taken that have no fate yet."""

    def drop_oldest(self) -> bool:
        """Make room by dropping a waiting train; False if there is none."""


def _poll_ms(timeout_s: float) -> int:
    return max(0, int(timeout_s * 1000))


def _try_send(socket: "zmq.Socket[bytes]", parts: Parts) -> bool:
    """Hand one message to ZeroMQ now or not at all. Small parts are copied, large ones are not."""
    try:
        socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return False
    return True


class _Push:
    """Hands trains to the peers in turn. ZeroMQ holds what waits, up to the high-water mark."""

    def __init__(self, socket: "zmq.Socket[bytes]", settle: Settle) -> None:
        self._socket, self._settle = socket, settle
        self.bad_requests = 0

    def offer(self, ticket: int, parts: Parts) -> bool:
        if not _try_send(self._socket, parts):
            return False
        self._settle(ticket, True)
        return True

    def wait(self, timeout_s: float) -> None:
        self._socket.poll(_poll_ms(timeout_s), zmq.POLLOUT)

    def idle(self, duration_s: float) -> None:
        time.sleep(duration_s)

    def has_peer(self) -> bool:
        return bool(self._socket.poll(0, zmq.POLLOUT))

    def waiting(self) -> int:
        return 0

    def drop_oldest(self) -> bool:
        return False


class _Publish:
    """Hands each train to all subscribers, or to none while one of them is full."""

    def __init__(self, socket: "zmq.Socket[bytes]", settle: Settle) -> None:
        self._socket, self._settle = socket, settle
        self._subscribers = 0
        self.bad_requests = 0

    def offer(self, ticket: int, parts: Parts) -> bool:
        if not self.has_peer() or not _try_send(self._socket, parts):
            return False
        self._settle(ticket, True)
        return True

    def wait(self, timeout_s: float) -> None:
        # ZeroMQ reports no event when a full subscriber has room again, so ask after the smallest step.
        self._socket.poll(_poll_ms(min(timeout_s, POLL_STEP_S)), zmq.POLLIN)

    def idle(self, duration_s: float) -> None:
        time.sleep(duration_s)

    def has_peer(self) -> bool:
        while self._socket.poll(0, zmq.POLLIN):
            # A subscription is the byte 1 and its topic, the end of one is the byte 0 (zmq_socket(3), XPUB).
            self._subscribers += 1 if self._socket.recv()[:1] == b"\x01" else -1
        return self._subscribers > 0

    def waiting(self) -> int:
        return 0

    def drop_oldest(self) -> bool:
        return False


class _Reply:
    """Keeps a bounded queue of trains and answers each request with the oldest."""

    def __init__(self, socket: "zmq.Socket[bytes]", settle: Settle, limit: int) -> None:
        self._socket, self._settle, self._limit = socket, settle, limit
        self._queue: deque[tuple[int, Parts]] = deque()
        self._asked = False
        self.bad_requests = 0

    def offer(self, ticket: int, parts: Parts) -> bool:
        self._serve(0)
        if len(self._queue) >= self._limit:
            return False
        self._queue.append((ticket, parts))
        self._answer()
        return True

    def wait(self, timeout_s: float) -> None:
        if self._asked and not self._queue:
            time.sleep(timeout_s)  # the peer waits for the next train; nothing else can happen
        else:
            self._serve(timeout_s)

    def idle(self, duration_s: float) -> None:
        if duration_s < POLL_STEP_S:
            time.sleep(duration_s)
        self.wait(duration_s if duration_s >= POLL_STEP_S else 0)

    def has_peer(self) -> bool:
        self._serve(0)
        return self._asked

    def waiting(self) -> int:
        return len(self._queue)

    def drop_oldest(self) -> bool:
        if not self._queue:
            return False
        self._settle(self._queue.popleft()[0], False)
        return True

    def _serve(self, timeout_s: float) -> None:
        """Take one request, if one comes in time, and answer it if a train waits."""
        if not self._asked and self._socket.poll(_poll_ms(timeout_s), zmq.POLLIN):
            request = self._socket.recv_multipart()
            if request == [b"next"]:
                self._asked = True
            else:
                self.bad_requests += 1
                self._socket.send(b"Error: bad request " + b" ".join(request)[:ECHO_BYTES])
        self._answer()

    def _answer(self) -> None:
        if self._asked and self._queue:
            ticket, parts = self._queue.popleft()
            self._asked = False
            self._settle(ticket, _try_send(self._socket, parts))


class _UnixPeers:
    """The connections of an ipc socket, and whether their kernel buffers are empty."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._descriptors: set[int] = set()

    def listen(self) -> None:
        """Note who came and went."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._descriptors.add(event["value"])
            else:
                self._descriptors.discard(event["value"])

    def wait_until_read(self, timeout_s: float) -> None:
        """Return when the buffers stay empty for a moment: then ZeroMQ has nothing to put there either."""
        end_s, quiet = time.monotonic() + timeout_s, 0
        while quiet < QUIET_LOOKS and time.monotonic() < end_s:
            self.listen()
            quiet = 0 if any(map(_unread_bytes, self._descriptors)) else quiet + 1
            time.sleep(LOOK_STEP_S)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)


def _unread_bytes(descriptor: int) -> int:
    """What the peer of a Unix socket has not read; 0 for one that is closed."""
    answer = array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.TIOCOUTQ, answer)  # SIOCOUTQ, see unix(7)
    except OSError:
        return 0
    return answer[0]


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
            self._peers = _UnixPeers(self._socket) if options.endpoint.startswith("ipc:") else None
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
            return socket, _Reply(socket, self._settle, limit)
        if kind == "PUSH":
            return socket, _Push(socket, self._settle)
        socket.set(zmq.XPUB_NODROP, 1)
        socket.set(zmq.XPUB_VERBOSER, 1)  # every subscription is told, not only the first of a topic
        return socket, _Publish(socket, self._settle)

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
        if self._peers:
            self._peers.wait_until_read(self._options.linger_s)
            self._peers.close()
        self._socket.close()
        self._context.term()

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
