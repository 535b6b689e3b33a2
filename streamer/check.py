"""A look at a live source before a run: what it sends, and what the configuration would make of it."""

import time
from collections.abc import Sequence

import zmq
from rich.table import Table

from streamer.assemble import assemble
from streamer.config import StreamConfig
from streamer.errors import ConfigError, FrameError
from streamer.plan import source_spec
from streamer.sockets import Receiver
from streamer.wire.karabo_bridge import decode
from streamer.wire.types import Train

# Sources listed; a facility's message can hold hundreds of slow ones.
MAX_ROWS = 60


def first_message(stream: StreamConfig, timeout_s: float) -> Sequence[memoryview]:
    """The parts of one message of the stream's source. Raises ConfigError when none comes in time."""
    source = stream.source
    with zmq.Context() as context:
        receiver = Receiver(context, source.socket, source.endpoint, source.max_message_bytes, 1 << 20)
        try:
            end_s = time.monotonic() + timeout_s
            while time.monotonic() < end_s:
                receiver.socket.poll(100)
                frames = receiver.receive()
                if frames is not None:
                    return [memoryview(frame.bytes) for frame in frames]
        finally:
            receiver.close()
    raise ConfigError(
        f"stream {stream.name}: nothing came from {source.endpoint} ({source.socket}) in {timeout_s:g} s. "
        "Is the server running there? A REP server wants socket = REQ, PUB wants SUB, PUSH wants PULL."
    )


def describe(train: Train) -> Table:
    """Every source and array of a message."""
    table = Table("source", "key", "dtype", "shape", title="first message")
    for source, data in sorted(train.sources.items()):
        for key, array in sorted(data.arrays.items()):
            table.add_row(source, key, str(array.dtype), str(list(array.shape)))
        if data.values:
            table.add_row(source, f"{len(data.values)} other values", "", "")
        if table.row_count >= MAX_ROWS:
            table.add_row("...", "", "", "")
            break
    return table


def outcome(stream: StreamConfig, train: Train) -> str:
    """What a run would do with the message, or why it would be refused."""
    try:
        events = assemble(train, source_spec(stream))
    except FrameError as error:
        return f"stream {stream.name}: this message would be rejected: {error}"
    if not events.source_present:
        return f"stream {stream.name}: {stream.source.sources[0]} is not in this message"
    shape = list(stream.source.shape)
    return f"stream {stream.name}: train {events.train_id} gives {events.n} events of {shape}"


def look(stream: StreamConfig, timeout_s: float) -> tuple[Table | None, str]:
    """Receive one message and say what it is. Raises ConfigError when none comes."""
    parts = first_message(stream, timeout_s)
    try:
        train = decode(parts)
    except FrameError as error:
        return None, f"stream {stream.name}: not a Karabo Bridge message: {error}"
    return describe(train), outcome(stream, train)
