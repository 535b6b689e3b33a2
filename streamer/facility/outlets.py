"""The three ways out: how a REP, a PUB and a PUSH socket take a train, and how an ipc socket is closed.

Owns the sending of one message without waiting; waiting, counting and options are in `serve`.

REP answers the bytes `next` with a train and anything else with an error text, like `karabo_bridge.server`
(European-XFEL/karabo-bridge-py).

PUB is served by an XPUB socket with ZMQ_XPUB_NODROP: subscribers see no difference, but the server knows
whether there is one, and a full pipe is an answer instead of a silent loss.

ZeroMQ's LINGER flushes to the kernel. Over TCP that is enough; over ipc a receiver that is not reading at the
moment of the close loses what is still in the kernel (libzmq 4.3.5: the hang-up of a Unix socket ends its
engine at once; 2 of 800 trains lost in a test). So the connections outlive ZeroMQ's close until the peers
have read all.
"""

import fcntl
import os
import termios
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

Parts = Sequence[bytes | memoryview]
# settle(ticket, sent): called once for each train, when its fate is known.
Settle = Callable[[int, bool], None]

# ZeroMQ polls in whole milliseconds; what remains is slept.
POLL_STEP_S: Final = 0.001
# How much of a bad request is echoed.
ECHO_BYTES: Final = 100


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


class Push:
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


class Publish:
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


class Reply:
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


class UnixPeers:
    """The connections of an ipc socket, kept open beyond ZeroMQ's close until the peers have read all."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._descriptors: set[int] = set()
        self._held: list[int] = []

    def listen(self) -> None:
        """Note who came and went."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._descriptors.add(event["value"])
            else:
                self._descriptors.discard(event["value"])

    def hold(self) -> None:
        """Take a second handle of each connection, before ZeroMQ closes its own."""
        self.listen()
        for descriptor in self._descriptors:
            with suppress(OSError):  # closed a moment ago
                self._held.append(os.dup(descriptor))
        self._socket.disable_monitor()
        self._monitor.close(0)

    def release(self, end_s: float) -> None:
        """Hang up when all is read, or at `end_s` of the monotonic clock."""
        while any(map(_unread_bytes, self._held)) and time.monotonic() < end_s:
            time.sleep(POLL_STEP_S)
        for descriptor in self._held:
            os.close(descriptor)


def _unread_bytes(descriptor: int) -> int:
    """What the peer of a Unix socket has not read; 0 if it is gone."""
    answer = array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.TIOCOUTQ, answer)  # SIOCOUTQ, see unix(7)
    except OSError:
        return 0
    return answer[0]
