"""What a scientist types to read results:

    import streamer.client
    for block in streamer.client.results("tcp://127.0.0.1:45450", stream="droplets"):
        keep = block.column("verdict") == 1
        print(block.column("train_id")[keep], block.p("Streak")[keep])

    with streamer.client.results("tcp://127.0.0.1:45450", stream="droplets") as client:
        table = client.to_dataframe(2000)  # or to_dataset, to_arrays

Owns the subscribing side of our own results stream; its format is in results.py, the tables are in tables.py.
Needs no torch, and pandas or xarray only when asked for one.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import zmq

from streamer import tables
from streamer.errors import ConfigError, FrameError
from streamer.results import KINDS, Array, Block, Kind, decode, topic

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]  # ships no types
    import xarray as xr

Context: TypeAlias = zmq.Context[zmq.Socket[bytes]]

HWM_BLOCKS: Final = 1000  # what waits in this process for a slow reader: some MB; beyond, blocks are missed
MAX_SKIPPED: Final = 10 * HWM_BLOCKS  # a sender that is faster than this skips must not hold the reader
MAX_PART_BYTES: Final = 64 << 20  # a column of 2**20 events with 16 float32 each
MAX_PUBLISHERS: Final = 1024  # remembered for missed blocks: invented names must not fill the memory
TIMEOUT_S: Final = 10.0  # a hundred trains of the European XFEL


def results(
    endpoint: str | Sequence[str], stream: str | None = None, timeout_s: float | None = TIMEOUT_S
) -> "Client":
    """Blocks of results, to iterate over. See Client."""
    return Client(endpoint, stream, "results", timeout_s)


def verdicts(
    endpoint: str | Sequence[str], stream: str | None = None, timeout_s: float | None = TIMEOUT_S
) -> "Client":
    """Blocks of verdicts: they come first, and hold ids, verdict, route and reason only. See Client."""
    return Client(endpoint, stream, "verdicts", timeout_s)


class Client:
    """A subscriber to one or several endpoints.

    `stream` None takes every stream. `timeout_s` is how long iteration waits for a block; None: for ever.
    A reader that is too slow misses blocks (`missed_blocks`), it holds nobody up. Messages that cannot be
    decoded are dropped (`bad_messages`). ConfigError for an endpoint that ZeroMQ does not understand.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        stream: str | None = None,
        kind: Kind = "results",
        timeout_s: float | None = TIMEOUT_S,
        context: Context | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
        self.endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        self.stream, self.kind, self.timeout_s = stream, kind, timeout_s
        self.missed_blocks = 0
        self.bad_messages = 0
        self._last: dict[tuple[str, str], int] = {}
        self.socket = (context or zmq.Context.instance()).socket(zmq.SUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, HWM_BLOCKS)
        self.socket.set(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        self.socket.set(zmq.SUBSCRIBE, topic(kind, stream or ""))
        self._connect()

    def _connect(self) -> None:
        for endpoint in self.endpoints:
            try:
                self.socket.connect(endpoint)
            except zmq.ZMQError as error:
                self.close()
                raise ConfigError(
                    f"cannot connect to {endpoint!r}: {error.strerror}; expected tcp://HOST:PORT or ipc://PATH"
                ) from error

    def receive(self, timeout_s: float | None = None) -> Block:
        """The next block. Waits `timeout_s`, or the client's own if None; then TimeoutError."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        end_s = None if limit_s is None else monotonic() + limit_s
        while True:
            left_ms = None if end_s is None else ceil((end_s - monotonic()) * 1000)
            if left_ms is not None and (left_ms < 0 or not self.socket.poll(left_ms)):
                raise TimeoutError(self._silence(limit_s))
            if (block := self._take()) is not None:
                return block

    def skip_waiting(self) -> int:
        """Forget the blocks that wait here unread, so that the next one is of now; how many they were.

        Some hundred wait while nobody reads, and then they are old. They do not count as missed.
        """
        skipped = 0
        while skipped < MAX_SKIPPED and self.socket.poll(0):
            self._take()
            skipped += 1
        return skipped

    def _take(self) -> Block | None:
        """The next message, decoded; None if it is bad or of another stream."""
        try:
            block = decode(self.socket.recv_multipart())
        except FrameError:
            self.bad_messages += 1
            return None
        if self.stream is not None and block.stream != self.stream:  # topics match by prefix
            return None
        self._count_missed(block)
        return block

    def _count_missed(self, block: Block) -> None:
        key = (block.header.publisher, block.stream)
        sequence = block.header.sequence
        self.missed_blocks += max(0, sequence - self._last.pop(key, sequence) - 1)
        self._last[key] = sequence
        if len(self._last) > MAX_PUBLISHERS:
            del self._last[next(iter(self._last))]  # the one that was silent for longest

    def _silence(self, limit_s: float | None) -> str:
        what = f"{self.kind} of " + ("any stream" if self.stream is None else f"stream {self.stream!r}")
        text = f"no {what} from {', '.join(self.endpoints)} in {limit_s} s"
        if self.bad_messages:
            text += f"; {self.bad_messages} messages could not be decoded: does something else send there?"
        return f"{text}. Is the pipeline running (streamer status), is the endpoint right, does data come in?"

    def to_arrays(self, n_events: int, timeout_s: float | None = None) -> dict[str, Array]:
        """The next n_events events, by column: [n_events] or [n_events, width]. See collect."""
        return tables.arrays(self.collect(n_events, timeout_s), n_events)

    def to_dataframe(self, n_events: int, timeout_s: float | None = None) -> "pd.DataFrame":
        """The next n_events events as pandas' table: one row each. See tables.dataframe, and collect."""
        return tables.dataframe(self.collect(n_events, timeout_s), n_events)

    def to_dataset(self, n_events: int, timeout_s: float | None = None) -> "xr.Dataset":
        """The next n_events events as xarray's Dataset. See tables.dataset, and collect."""
        return tables.dataset(self.collect(n_events, timeout_s), n_events)

    def collect(self, n_events: int, timeout_s: float | None = None) -> list[Block]:
        """The next blocks, whole, until they hold n_events events or more.

        `timeout_s` is for each block. ValueError if columns, labels or routes change on the way (another
        stream, another model): they would not be one table. A table takes the first n_events events; what the
        last block held beyond them is gone.
        """
        blocks: list[Block] = []
        while sum(map(len, blocks)) < n_events:
            blocks.append(self.receive(timeout_s))
            tables.check_alike(blocks[0], blocks[-1])
        return blocks

    def close(self) -> None:
        self.socket.close()

    def __iter__(self) -> Iterator[Block]:
        while True:
            yield self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
