"""What a block costs in the sink, by its size: `python -m benchmarks.sink`.

The real sink of a stream with the columns of a shipped bundle, in this process, over a ring filled by hand.
Each step is run alone, many times over, then whole blocks, alone and several together, and these again with a
subscriber in another process. A figure is the median of REPEATS, us of processor time of all threads, so that
libzmq's own and the kernel's part in sending are in it.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import zmq

from benchmarks.config import Load, run_config
from benchmarks.helper import Helper, options, say
from benchmarks.table import header, show
from streamer import memory
from streamer.pipeline import archive, resolve
from streamer.plan import StageSpec, layouts
from streamer.results import VERDICT_COLUMNS, Encoder
from streamer.ring import DONE
from streamer.routing import KEEP, NO_ROUTE, REASON_SAMPLE
from streamer.sink import Sink
from streamer.stage import Stage
from streamer.tokens import Token

SIZES: Final = (1, 32, 256, 4096)
# Spectra of 1 kB with two vector columns: what is measured is the sink, not the disk.
BUNDLE: Final = "water_nnca"
LOAD: Final = Load("spectra", (256,), "float32", 1)
SLOTS: Final = 8
# One event in a hundred is kept with its frame, as in the other measurements.
ONE_IN: Final = 100
FIRST_TRAIN_ID: Final = 1_000_000_000
REPEATS: Final = 5
# Of one repeat of one step: thousands of calls, and the whole below 20 s.
SECONDS: Final = 0.05
STEPS: Final = ("read", "encode", "verdicts sent", "results sent", "stored", "counted")
TOGETHER: Final = SLOTS // 2
WHOLE: Final = ("a block", f"each of {TOGETHER} together")


@dataclass(frozen=True)
class Step:
    """What is measured, and what must be done before each time and is taken off again."""

    run: Callable[[], object]
    before: Callable[[], object]

    def both(self) -> None:
        self.before()
        self.run()

    def cost_us(self) -> float:
        return statistics.median(_cost_us(self.both) - _cost_us(self.before) for _ in range(REPEATS))


def _cost_us(call: Callable[[], object]) -> float:
    """Processor time of one call."""
    calls, start_s, start_cpu_s = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start_s < SECONDS:
        call()
        calls += 1
    return (time.process_time() - start_cpu_s) / calls * 1e6


class Filled:
    """One sink, and blocks of n events as inference leaves them: a train each."""

    def __init__(self, spec: StageSpec, n: int) -> None:
        self.sink, self.n, self.seq = Sink(Stage("sink", spec)), n, 0
        self.sink.recover()
        ring = self.sink.ring
        ring.version[:], ring.n[:], ring.received_at_s[:] = self.sink.number, n, time.time()
        ring.packed[:, :n] = np.random.default_rng(0).integers(0, 9, (n, ring.layout.packed))
        ring.pulse_id[:, :n] = np.arange(n)

    def fill(self) -> Token:
        """The next block: its token."""
        ring, n = self.sink.ring, self.n
        self.seq += 1
        slot = self.seq % ring.layout.slots
        ring.train_id[slot, :n] = FIRST_TRAIN_ID + self.seq
        kept = (np.arange(n) + self.seq * n) % ONE_IN == 0
        ring.verdict[slot, :n] = kept * KEEP
        ring.route[slot, :n] = np.where(kept, 0, NO_ROUTE)
        ring.reason[slot, :n] = kept * REASON_SAMPLE
        ring.seq[slot], ring.state[slot] = self.seq, DONE
        return slot, self.seq

    def steps(self) -> Iterator[Step]:
        """In the order of STEPS."""
        sink, nothing = self.sink, self.sink.stage.alive
        token = self.fill()
        (group,) = sink.reader.groups([token])
        done = sink.reader.read(group)
        series, sent = sink._series(done), sink._header(done)
        verdicts = {name: done.columns[name] for name in VERDICT_COLUMNS}
        encoder = Encoder("results", "0")

        def next_train() -> None:
            sink.ring.train_id[token[0], : self.n] += np.uint64(1)

        def count() -> None:
            sink._count(done, series, {})
            sink.page.commit()

        yield Step(lambda: [sink.reader.read(group) for group in sink.reader.groups([token])], nothing)
        yield Step(lambda: encoder.frames(sent, done.columns, 1), nothing)
        yield Step(lambda: sink.publisher.send(sent, verdicts, "verdicts"), nothing)
        yield Step(lambda: sink.publisher.send(sent, done.columns), nothing)
        yield Step(lambda: sink._store(done, series), next_train)
        yield Step(count, nothing)
        self.seq = int(sink.ring.train_id[token[0], 0]) - FIRST_TRAIN_ID  # the files have those trains

    def whole_us(self) -> tuple[float, float]:
        """Of a block, in the order of WHOLE."""
        return self.together(1).cost_us(), self.together(TOGETHER).cost_us() / TOGETHER

    def together(self, blocks: int) -> Step:
        """Blocks from their tokens to their free slots."""
        tokens: list[Token] = []

        def fill() -> None:
            tokens[:] = [self.fill() for _ in range(blocks)]

        return Step(lambda: self.sink._take(tokens), fill)


@contextmanager
def _filled(n: int) -> Iterator[Filled]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        ring_bytes = max(1 << 20, SLOTS * n * LOAD.message_bytes)
        more: dict[str, Any] = {"block_events": n, "ring_bytes": ring_bytes}
        config = run_config(LOAD, "ipc:///nowhere", folder / "out", (BUNDLE,), **more)
        spec = resolve(config, config.stream[0], -1, folder)
        archive(spec).claim()
        fd = memory.create("bench", layouts(config.stream[0], spec.columns).size_bytes)
        filled = Filled(spec.model_copy(update={"fd": fd}), n)
        yield filled
        filled.sink._close()


def _row(n: int) -> str:
    with _filled(n) as filled:
        steps = [step.cost_us() for step in filled.steps()]
        alone = filled.whole_us()
        with Helper("benchmarks.sink", {"endpoint": filled.sink.publisher.endpoint}):
            heard = filled.whole_us()
    whole = [show(cost) for us in (*alone, *heard) for cost in (us, us / n)]
    return f"| {' | '.join([str(n), *map(show, steps), *whole])} |"


def listen(endpoint: str) -> None:
    """The subscriber: reads all results until the harness closes the pipe."""
    socket = zmq.Context().socket(zmq.SUB)
    socket.set(zmq.SUBSCRIBE, b"")
    socket.connect(endpoint)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin, zmq.POLLIN)
    say({"ready": socket.poll(0) >= 0})
    while sys.stdin.fileno() not in dict(poller.poll()):
        socket.recv_multipart(copy=False)


def main() -> None:
    memory.keep_freed_memory()  # as the stage does
    about: dict[str, Any] = header()
    hardware = about["hardware"]
    print(f"{about['date']}, commit {about['commit']}, {hardware['cpu']}, {hardware['cores']} cores")
    print(f"us of processor time; medians of {REPEATS}; {BUNDLE}, one event in {ONE_IN} with its frame")
    whole = [cell for name in WHOLE for cell in (name, "per event")]
    heard = [f"{cell}, to a subscriber" for cell in whole]
    names = ("events a block", *STEPS, *whole, *heard)
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for n in SIZES:
        print(_row(n), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        listen(**options())
    else:
        main()
