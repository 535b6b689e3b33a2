"""The results on sockets: our own stream, and the same as a Karabo Bridge source.

Owns the two publishers that a sink holds and what they count. Formats: results.py, and Karabo Bridge 2.2 by
wire/karabo_bridge_encode.py. Nothing here ever waits: who cannot follow loses messages and delays nobody.
"""

import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import zmq
import zmq.backend

from streamer import sockets
from streamer.errors import ConfigError
from streamer.results import Array, Encoder, Kind, ResultHeader, trains
from streamer.wire.karabo_bridge_encode import encode as encode_bridge

Context: TypeAlias = zmq.Context[zmq.Socket[bytes]]
Socket: TypeAlias = zmq.Socket[bytes]
BridgeSocket: TypeAlias = Literal["REP", "PUB", "PUSH"]

HWM_BLOCKS: Final = (
    1000  # per subscriber; at some kB a block a few MB, and seconds of a full machine's results
)
MORE: Final = int(zmq.SNDMORE | zmq.NOBLOCK)
# The socket's own send, past pyzmq's layers for enums and draft options: a message has some 15 parts.
# It copies: below some 30 kB a part that is cheaper than sharing one (docs/decisions/sink.md).
send_part = zmq.backend.Socket.send
DEPTH_TRAINS: Final = 64  # the sink hands over up to 32 single shots at once; 6 s at 10 Hz
MAX_REQUEST_BYTES: Final = 1024  # a request is the four bytes 'next'
MAX_REQUESTS_PER_CALL: Final = 64  # a flood of bad requests must give the owner's loop back


class _Bound:
    """One bound socket, closed with its owner."""

    def __init__(self, kind: int, endpoint: str, hwm: int, context: Context | None) -> None:
        """ConfigError if `hwm` is no bound (0 means endless to ZeroMQ) or the endpoint cannot be bound."""
        if hwm < 1:
            raise ConfigError(f"{endpoint}: the queue of messages must be bounded by 1 or more, got {hwm}")
        self.socket: Socket = (context or zmq.Context.instance()).socket(kind)
        self.socket.set(zmq.LINGER, sockets.LINGER_MS)
        self.socket.set(zmq.SNDHWM, hwm)
        self.socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self.endpoint = sockets.bind(self.socket, endpoint)

    def close(self) -> None:
        """What a reader has not taken after the linger time is lost."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ResultsPublisher(_Bound):
    """PUB of results and verdicts. A subscriber that is `hwm_blocks` behind loses the newest blocks.

    `endpoint` is the one really bound (port 0 or * takes any free one). ConfigError if it cannot be bound.
    """

    def __init__(self, endpoint: str, hwm_blocks: int = HWM_BLOCKS, context: Context | None = None) -> None:
        super().__init__(zmq.PUB, endpoint, hwm_blocks, context)
        self.publisher = secrets.token_hex(8)
        self.sent_blocks = 0
        self._topics: dict[tuple[Kind, str], _Topic] = {}

    def send(self, header: ResultHeader, columns: Mapping[str, Array], kind: Kind = "results") -> None:
        """Publish one block. Fills in the header's publisher and sequence; copies what it sends."""
        to = self._topics.get((kind, header.stream))
        if to is None:
            to = self._topics[kind, header.stream] = _Topic(Encoder(kind, self.publisher))
        *parts, last = to.encoder.frames(header, columns, to.sequence)
        for part in parts:
            send_part(self.socket, part, MORE)
        send_part(self.socket, last, sockets.NOBLOCK)
        to.sequence += 1
        self.sent_blocks += 1


@dataclass(slots=True)
class _Topic:
    """One numbered sequence of blocks."""

    encoder: Encoder
    sequence: int = 0


class KaraboBridgeResults(_Bound):
    """A Karabo Bridge 2.2 server: source `<stream>/STREAMER/RESULTS:output`, keys `data.<column>`.

    One message per train of a block; a train that came in several blocks gives several messages of its id.
    REP answers `next` from a queue of `depth` trains and drops the oldest; the owner polls `socket` for
    reading and calls serve_requests. PUB and PUSH drop the newest; what PUB drops nobody can count.
    """

    def __init__(
        self,
        endpoint: str,
        socket: BridgeSocket = "REP",
        depth: int = DEPTH_TRAINS,
        context: Context | None = None,
    ) -> None:
        super().__init__(getattr(zmq, socket), endpoint, depth, context)
        self.sent_trains = 0
        self.dropped_trains = 0
        self._replies = socket == "REP"
        self._waiting = False  # a reader asked and has no answer yet
        self._queue: deque[Sequence[bytes | memoryview]] = deque()
        self._depth = depth

    def publish(self, header: ResultHeader, columns: Mapping[str, Array]) -> None:
        """Offer one block, train by train; copies what it keeps."""
        for train_id, where in trains(columns["train_id"]):
            frames = _bridge_message(
                header, train_id, {name: column[where] for name, column in columns.items()}
            )
            if self._replies:
                self._enqueue([bytes(frame) for frame in frames])
            else:
                self._send(frames)

    def serve_requests(self) -> None:
        """Answer what readers ask; returns at once. Only REP has requests."""
        if not self._replies:
            return
        for _ in range(MAX_REQUESTS_PER_CALL):
            if self._waiting:
                return
            try:
                request = b"".join(self.socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            if request == b"next":
                self._waiting = True
                self._answer()
            else:
                self.socket.send(b"Error: bad request " + request[:80], zmq.NOBLOCK)

    def _enqueue(self, frames: Sequence[bytes | memoryview]) -> None:
        if len(self._queue) >= self._depth:
            self._queue.popleft()
            self.dropped_trains += 1
        self._queue.append(frames)
        self.serve_requests()
        self._answer()

    def _answer(self) -> None:
        if self._waiting and self._queue:
            self._send(self._queue.popleft())
            self._waiting = False

    def _send(self, frames: Sequence[bytes | memoryview]) -> None:
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:  # PUSH without a reader, or with a full one
            self.dropped_trains += 1
        else:
            self.sent_trains += 1


def _bridge_message(
    header: ResultHeader, train_id: int, columns: Mapping[str, Array]
) -> list[bytes | memoryview]:
    source = f"{header.stream}/STREAMER/RESULTS:output"
    received_at = float(columns["received_at"][0]) if "received_at" in columns else header.received_at
    metadata = {"source": source, **_timestamp(received_at, train_id)}
    return encode_bridge(
        {source: {f"data.{name}": column for name, column in columns.items()}}, {source: metadata}
    )


def _timestamp(unix_s: float, train_id: int) -> dict[str, Any]:
    """As Karabo writes a time: whole seconds, and attoseconds in 18 digits (a float knows 7)."""
    seconds, fraction = divmod(unix_s, 1.0) if isfinite(unix_s) else (0.0, 0.0)
    return {
        "timestamp": unix_s,
        "timestamp.sec": str(int(seconds)),
        "timestamp.frac": f"{int(fraction * 10**9) * 10**9:018d}",
        "timestamp.tid": train_id,
    }
