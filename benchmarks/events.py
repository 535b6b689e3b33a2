"""Events a second through the whole pipeline, and what an event costs beside its model.

The pipeline receives, counts, classifies, publishes results and verdicts, records the results of every event
and stores one frame in a hundred. Beside it the network alone, and a plain ZeroMQ loop around the network,
all from one sender, in the same mode, with the same threads and the same largest batch.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.config import Load, Options
from benchmarks.helper import Helper
from benchmarks.network import classifier
from benchmarks.running import Running, Window
from benchmarks.table import Line, measured, ratio, show
from streamer.pipeline import STAGES

TRAINS: Final = Load("trains of 32", (128, 128), "uint16", 32)
NULL_LOADS: Final = (
    Load("128x128, 1 a message", (128, 128), "uint16", 1),
    Load("128x128, 32 a message", (128, 128), "uint16", 32),
    Load("1280-bin spectra, 256 a message", (1280,), "uint16", 256),
)
BATCH: Final = 32
# A source in memory goes on so long beside the window: its start, and once round the ring.
START_S: Final = 2.0
# Once round it before the window begins.
RING_BYTES: Final = 64 << 20


def threads() -> int:
    """One core is left to the wire and the files."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def pipeline(load: Load, sender: Helper, options: Options, **more: Any) -> tuple[Window, str | None]:
    """One run of the whole pipeline, with every event classified and accounted for at its end."""
    with Running(load, sender.hello["endpoint"], ring_bytes=RING_BYTES, **more) as running:
        ring_events = load.messages_in(RING_BYTES) * load.pulses
        with sender.running():
            window = running.measure(options.seconds, ring_events if options.warm_s else 0)
        running.drain()
        return window, running.mode


# --- with the network ---------------------------------------------------------------------------------


def rows(options: Options) -> Iterator[Line]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Helper("benchmarks.sender", TRAINS.sender) as sender,
    ):
        bundle = classifier(Path(folder))
        sender.ask({"trains": None})
        runs = [_turn(bundle, sender, options) for _ in range(options.repeats)]
    yield from _rates(runs)
    yield from _cost(runs)


def _turn(bundle: Path, sender: Helper, options: Options) -> dict[str, Any]:
    """Each contender once. The pipeline chooses the mode, the others take it."""
    window, mode = pipeline(
        TRAINS, sender, options, bundles=(str(bundle),), threads=threads(), max_events=BATCH, device="cpu"
    )
    how = {"bundle": str(bundle), "threads": threads(), "batch": BATCH, "mode": mode}
    with Helper("benchmarks.bare", how | {"endpoint": None}) as bare:
        alone = bare.ask({"kind": "rate", "seconds": options.seconds})
    with sender.running(), Helper("benchmarks.bare", how | {"endpoint": sender.hello["endpoint"]}) as bare:
        pull = bare.ask({"kind": "pull", "seconds": options.seconds})
    return {"pipeline": window, "alone": alone, "pull": pull, "mode": mode}


def _rates(runs: list[dict[str, Any]]) -> Iterator[Line]:
    row = f"droplet_cnn 128x128, {TRAINS.name}"
    ours = [run["pipeline"].rate for run in runs]
    loops = {name: [_rate(run[name]) for run in runs] for name in ("alone", "pull")}
    values = {"of_alone": ratio(ours, loops["alone"]), "of_pull": ratio(ours, loops["pull"])}
    note = f"{values['of_alone']:.2f} x network alone, {values['of_pull']:.2f} x PULL loop"
    yield Line(row, "whole pipeline", "events/s", measured(ours), note, values)
    mode = f"{runs[0]['mode']}, batch {BATCH}, {threads()} threads"
    yield Line(row, "network alone (CpuRunner)", "events/s", measured(loops["alone"]), mode)
    yield Line(row, "bare PULL loop + network + PUB", "events/s", measured(loops["pull"]), mode)


def _cost(runs: list[dict[str, Any]]) -> Iterator[Line]:
    """What the stages take beside what the network took alone in the same turn."""
    alone = [1e6 * run["alone"]["cpu_s"] / run["alone"]["events"] for run in runs]
    beyond = [run["pipeline"].cpu_us() - network for run, network in zip(runs, alone, strict=True)]
    parts = {stage: measured([run["pipeline"].cpu_us(stage) for run in runs]).median for stage in STAGES}
    parts["network_alone"] = measured(alone).median
    note = ", ".join(f"{name} {show(value)}" for name, value in parts.items())
    yield Line("CPU beyond the model", "whole pipeline", "us/event", measured(beyond), note, parts)


def _rate(counts: Mapping[str, float]) -> float:
    return counts["events"] / counts["seconds"]


# --- without a network --------------------------------------------------------------------------------


def null_rows(options: Options) -> Iterator[Line]:
    """Verdicts and results of every event are published; stored only where the contender says so."""
    for load in options.of(NULL_LOADS):
        with Helper("benchmarks.sender", load.sender) as sender:
            sender.ask({"trains": None})
            turns = [
                {
                    "whole pipeline": pipeline(load, sender, options, store=False)[0],
                    "and stored": pipeline(load, sender, options)[0],
                    "generated in memory": generated(load, options),
                }
                for _ in range(options.repeats)
            ]
        for contender in turns[0]:
            yield _null_line(load, contender, [turn[contender] for turn in turns])


def generated(load: Load, options: Options) -> Window:
    """The same pipeline behind a source that is no network."""
    running = Running(load, "tcp://127.0.0.1:9", ring_bytes=RING_BYTES, store=False)
    running.generate(options.seconds + START_S)
    with running:
        window = running.measure(options.seconds, load.messages_in(RING_BYTES) * load.pulses)
        running.drain()
        return window


def _null_line(load: Load, contender: str, windows: list[Window]) -> Line:
    rates = [window.rate for window in windows]
    cpu = {stage: measured([w.cpu_us(stage) for w in windows]).median for stage in STAGES}
    gigabytes = measured(rates).median * load.message_bytes / load.pulses / 1e9
    note = f"{show(gigabytes)} GB/s; CPU us/event: " + ", ".join(f"{s} {show(v)}" for s, v in cpu.items())
    return Line(f"no model, {load.name}", contender, "events/s", measured(rates), note, cpu)
