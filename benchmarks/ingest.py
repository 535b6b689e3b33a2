"""How fast the ingest stage takes messages, beside a bare loop and beside the field's own client.

The stage is the real one, in its own process, with its counts, ids and ring; behind it `benchmarks.consumer`
gives the slots back at once. One sender of prebuilt messages serves the three in turn.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.config import Load, Options, run_config
from benchmarks.helper import END_S, Helper, cpu_s, wait_until
from benchmarks.table import Line, measured, ratio, show
from streamer import memory
from streamer.pipeline import resolve
from streamer.plan import Shared, StageSpec, layouts

LOADS: Final = (
    Load("33 kB", (128, 128), "uint16", 1),
    Load("1 MB", (128, 128), "uint16", 32),
    Load("4 MB", (128, 128), "uint16", 128),
    Load("67 MB", (1024, 512), "uint16", 64),  # one module of a megapixel detector, 64 pulses
)
# Beyond the caches, and two of the largest trains.
RING_BYTES: Final = 160 << 20
# What a receiver did: messages, seconds, cpu_s.
Counts = Mapping[str, float]


def _loop(contender: str) -> Callable[[Load, str, Options], Counts]:
    def run(load: Load, endpoint: str, options: Options) -> Counts:
        how = {"endpoint": endpoint, "message_bytes": load.message_bytes, "ring_bytes": RING_BYTES}
        with Helper("benchmarks.receivers", {"contender": contender} | how) as helper:
            return helper.ask({"warm_s": options.warm_s, "seconds": options.seconds})

    return run


def stage(load: Load, endpoint: str, options: Options) -> Counts:
    """The ingest stage; its own page counts."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        config = run_config(load, endpoint, Path(folder) / "out", store=False, ring_bytes=RING_BYTES)
        spec = resolve(config, config.stream[0], -1, Path(folder))
        fd = memory.create("bench", layouts(config.stream[0], spec.columns).size_bytes)
        spec = spec.model_copy(update={"fd": fd})
        path = Path(folder) / "spec.json"
        path.write_text(spec.model_dump_json())
        with Helper("benchmarks.consumer", {"spec_file": str(path)}, [fd]):
            return _run_stage(spec, path, load, options)


def _run_stage(spec: StageSpec, path: Path, load: Load, options: Options) -> Counts:
    page = Shared(spec).reader("ingest")

    def messages() -> int:
        return page.get(page.read(), "accepted")

    argv = [sys.executable, "-m", "streamer.ingest", str(path), str(os.getpid())]
    with _process(argv, spec.fd) as pid:
        # Once round the ring: the first touch of a page is a fault, which the bare loop has behind it too.
        first = load.messages_in(RING_BYTES) if options.warm_s else 1
        wait_until("the ingest stage", lambda: messages() > first, limit_s=30)
        before, start_s, start_cpu_s = messages(), time.perf_counter(), cpu_s(pid)
        time.sleep(options.seconds)
        after, end_s, end_cpu_s = messages(), time.perf_counter(), cpu_s(pid)
    return {"messages": after - before, "seconds": end_s - start_s, "cpu_s": end_cpu_s - start_cpu_s}


@contextmanager
def _process(argv: list[str], fd: int) -> Iterator[int]:
    process = subprocess.Popen(argv, pass_fds=[fd])
    try:
        yield process.pid
    finally:
        process.kill()  # it has counted; what it holds is nobody's
        process.wait(END_S)


CONTENDERS: Final = {
    "ingest stage, stand-in consumer": stage,
    "bare pyzmq + memcpy to a slot": _loop("bare"),
    "karabo_bridge.Client": _loop("official"),
}


def rows(options: Options) -> Iterator[Line]:
    for load in options.of(LOADS):
        with Helper("benchmarks.sender", load.sender) as sender:
            sender.ask({"trains": None})
            runs = [
                {name: run(load, sender.hello["endpoint"], options) for name, run in CONTENDERS.items()}
                for _ in range(options.repeats)
            ]
        yield from _lines(load, runs)


def _lines(load: Load, runs: list[dict[str, Counts]]) -> Iterator[Line]:
    rates = {name: [run[name]["messages"] / run[name]["seconds"] for run in runs] for name in CONTENDERS}
    ours, bare, official = CONTENDERS
    for name, rate in rates.items():
        cpu_us = measured([1e6 * run[name]["cpu_s"] / max(1, run[name]["messages"]) for run in runs]).median
        values = {"messages_per_s": measured(rate).median, "cpu_us_per_message": cpu_us}
        note = f"{show(values['messages_per_s'])} messages/s, CPU {show(cpu_us)} us/message"
        if name == ours:
            values["of_bare"], values["of_official"] = ratio(rate, rates[bare]), ratio(rate, rates[official])
            note += f"; {values['of_bare']:.2f} x bare, {values['of_official']:.2f} x client"
        gigabytes = measured([r * load.message_bytes / 1e9 for r in rate])
        yield Line(f"ingest {load.name}", name, "GB/s", gigabytes, note, values)
