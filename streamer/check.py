"""A look at a live source before a run: what it sends, and what the configuration would make of it."""

import select
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from rich.table import Table

from streamer.assemble import absent, assemble
from streamer.config import StreamConfig
from streamer.errors import ConfigError, FrameError
from streamer.plan import source_spec
from streamer.receiver import Receiver
from streamer.sockets import nothing_came
from streamer.wire.karabo_bridge import decode
from streamer.wire.types import Buffer, Train

# Sources listed; a facility's message can hold hundreds of slow ones.
MAX_ROWS = 60
# Between two looks whether the source is there.
LOOK_S = 0.1


def first_message(stream: StreamConfig, timeout_s: float) -> Sequence[Buffer]:
    """The parts of one message of the stream's source. Raises ConfigError when none comes in time."""
    source = stream.source
    with closing(Receiver(source.socket, source.endpoint, source.max_message_bytes)) as receiver:
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            receiver.check_connection()
            waiting = [receiver] if receiver.fileno() >= 0 else []
            select.select(waiting, [], [], LOOK_S)
            if (parts := receiver.receive()) is not None:
                return parts
    raise ConfigError(f"stream {stream.name}: {nothing_came(source.endpoint, source.socket)}")


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


def outcome(stream: StreamConfig, train: Train) -> tuple[bool, str]:
    """Whether a run could use the message, and what it would do with it."""
    spec = source_spec(stream)
    try:
        events = assemble(train, spec)
    except FrameError as error:
        return False, f"stream {stream.name}: this message would be rejected: {error}"
    if not events.n:
        return False, f"stream {stream.name}: {absent(train, spec)}"
    lost = [one.name for k, one in enumerate(spec.attach) if np.isnan(events.attached[:, k]).all()]
    if lost:
        return False, f"stream {stream.name}: attached scalars {lost} are not in this message"
    shape = list(stream.source.shape)
    return True, f"stream {stream.name}: train {events.train_id} gives {events.n} events of {shape}"


def look(stream: StreamConfig, timeout_s: float) -> tuple[Table | None, bool, str]:
    """Receive one message: its table, whether a run could use it, and the reason. Raises ConfigError."""
    parts = first_message(stream, timeout_s)
    try:
        train = decode(parts)
    except FrameError as error:
        return None, False, f"stream {stream.name}: not a Karabo Bridge message: {error}"
    return describe(train), *outcome(stream, train)
