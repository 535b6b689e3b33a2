"""What one message costs ingest beside the kernel: the measurement behind docs/decisions/ingest.md.

In one process, without a connection: the bytes of a camera's messages of one 33 kB frame. Processor time.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.config import Load, run_config
from benchmarks.sender import Messages
from streamer import memory
from streamer.assemble import assemble
from streamer.express import Express
from streamer.ingest import Ingest
from streamer.pipeline import resolve
from streamer.plan import layouts
from streamer.ring import FREE
from streamer.stage import Stage
from streamer.wire.karabo_bridge import Decoder
from streamer.wire.types import DEFAULT_LIMITS, Buffer
from streamer.zmtp import MessageReader, greeting

LOAD: Final = Load("camera", (128, 128), "uint16", 1)
MESSAGES: Final = 5000


class Line:
    """A real ingest whose blocks come back at once, fed with bytes."""

    def __init__(self, folder: Path) -> None:
        config = run_config(LOAD, "tcp://127.0.0.1:9", folder / "out", store=False)
        spec = resolve(config, config.stream[0], -1, folder)
        fd = memory.create("bench", layouts(config.stream[0], spec.columns).size_bytes)
        self.ingest = Ingest(Stage("ingest", spec.model_copy(update={"fd": fd})))
        self.ingest.recover()
        self.messages = Messages(LOAD.shape, LOAD.dtype, 1, False)
        self._reader = MessageReader("PULL", 1 << 30, self.ingest.place)
        self._feed(greeting("PUSH"))
        self._next = 0

    def parts(self) -> list[Buffer]:
        """One message, not placed."""
        reader = MessageReader("PULL", 1 << 30, lambda _index, _size_bytes: None)
        data = greeting("PUSH") + bytes(self.messages.of(0, 1))
        while data:
            space = reader.space()
            count = min(len(space), len(data))
            space[:count] = data[:count]
            reader.filled(count)
            data = data[count:]
            if (parts := reader.message()) is not None:
                return parts
        raise ValueError("half a message")

    def receive(self, block_messages: int) -> None:
        """MESSAGES through reader, comparison, slot and commit; a block for every `block_messages`."""
        for _ in range(MESSAGES // block_messages):
            self._feed(self.messages.of(self._next, block_messages))
            self._next += block_messages
            self.ingest.filling.hand_on()
            self._free()

    def _feed(self, data: bytes | memoryview) -> None:
        at = 0
        while at < len(data):
            space = self._reader.space()
            count = min(len(space), len(data) - at)
            space[:count] = data[at : at + count]
            self._reader.filled(count)
            at += count
            while (parts := self._reader.message()) is not None:
                self.ingest.message(parts)

    def _free(self) -> None:
        filling = self.ingest.filling
        for slot, _ in filling.to_inference.receive():
            filling.ring.state[slot] = FREE
        filling.slots.look()


def _us(run: Callable[[], object], count: int) -> float:
    start_s = time.process_time()
    run()
    return (time.process_time() - start_s) / count * 1e6


def costs() -> dict[str, float]:
    """Microseconds of processor time by what was done."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        line = Line(Path(folder))
        parts, source, decoder = line.parts(), line.ingest.source, Decoder()
        express = Express(source, DEFAULT_LIMITS)
        express.learn(parts, assemble(decoder.decode(parts), source))

        def repeat(run: Callable[[], object]) -> float:
            return _us(lambda: [run() for _ in range(MESSAGES)], MESSAGES)

        line.receive(64)  # warms up
        by_64, alone = _us(lambda: line.receive(64), MESSAGES), _us(lambda: line.receive(1), MESSAGES)
        return {
            "a message taken apart (decoder, assemble)": repeat(
                lambda: assemble(decoder.decode(parts), source)
            ),
            "the same compared with the last (express)": repeat(lambda: express.read(parts)),
            "bytes to slot and ledger, 64 messages a block": by_64,
            "the same, one message a block": alone,
            "a block, beside its messages": (alone - by_64) * 64 / 63,
        }
