"""From the moment a detector gives a train away to its verdict in another process.

Includes the sender's and the subscriber's sockets: what a user of the verdicts sees. Beside it the same from
the last byte received, the stage's own count to the verdict sent, and the network alone, back to back and on
the same clock (a core that slept runs its first batch slower). Without a network what is left is ours.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.config import Load, Options
from benchmarks.events import threads
from benchmarks.helper import BenchmarkError, Helper
from benchmarks.network import classifier
from benchmarks.running import Running
from benchmarks.table import QUANTILES, Line, measured, quantiles_ms, show
from streamer.ledger import quantile_s

MAX_EVENTS: Final = 64
# The first messages meet cold caches and connections that are just made.
WARM_TRAINS: Final = 10
WARM_TRIES: Final = 3


@dataclass(frozen=True)
class Rhythm:
    """A clock of trains. `share` of the measuring time goes to it."""

    pulses: int
    rate_hz: float
    share: float
    network: bool = True

    @property
    def name(self) -> str:
        return f"latency, {self.rate_hz:g} Hz x {self.pulses}" + ("" if self.network else ", no model")

    def trains(self, options: Options) -> int:
        return max(5, round(self.rate_hz * options.seconds * self.share))


RHYTHMS: Final = (
    Rhythm(1, 120.0, 2.5),
    Rhythm(1, 1000.0, 1.0),
    Rhythm(64, 10.0, 2.5),
    Rhythm(1, 120.0, 1.0, network=False),
    Rhythm(1, 1000.0, 1.0, network=False),
)
# Frames with an axis of pulses, so that one pipeline takes shots and trains.
LOAD: Final = Load("trains", (128, 128), "uint16", 64)
# Back to back, the network needs no longer than this many batches to show its times.
HOT_BATCHES: Final = 200
# Seconds of one repeat, by contender.
Times = dict[str, list[float]]
# Of every train: from giving it away, and from its last byte received, to its verdict at the subscriber.
Heard = tuple[list[float], list[float]]
# Of one repeat: those times, and the buckets of the pipeline's own histogram.
Turn = dict[Rhythm, tuple[Times, list[int]]]


def rows(options: Options) -> Iterator[Line]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bundle = classifier(Path(folder))
        turns = [_turn(bundle, options) for _ in range(options.repeats)]
    for rhythm in RHYTHMS:
        yield from _lines(rhythm, [turn[rhythm] for turn in turns])


def _turn(bundle: Path, options: Options) -> Turn:
    """Times of the pipeline and of the network alone, each in one life for all rhythms."""
    with Helper("benchmarks.sender", LOAD.sender) as sender:
        found, mode = _pipeline(sender, (str(bundle),), options)
        found |= _pipeline(sender, (), options)[0]
    how = {"bundle": str(bundle), "threads": threads(), "batch": MAX_EVENTS, "mode": mode, "endpoint": None}
    with Helper("benchmarks.bare", how) as bare:
        return {
            rhythm: (times | _alone(rhythm, bare, options), own) for rhythm, (times, own) in found.items()
        }


def _alone(rhythm: Rhythm, bare: Helper, options: Options) -> Times:
    if not rhythm.network:
        return {}
    n, batches = rhythm.pulses, rhythm.trains(options)
    request = {"kind": "latency", "n": n, "batches": batches}
    bare.ask(request | {"batches": WARM_TRAINS, "rate_hz": 0.0})
    paced = bare.ask(request | {"rate_hz": rhythm.rate_hz})["seconds"]
    hot = bare.ask(request | {"batches": min(batches, HOT_BATCHES), "rate_hz": 0.0})["seconds"]
    return {"paced": paced, "hot": hot}


def _pipeline(sender: Helper, bundles: tuple[str, ...], options: Options) -> tuple[Turn, str | None]:
    more = {"threads": threads(), "max_events": MAX_EVENTS, "device": "cpu"}
    rhythms = [rhythm for rhythm in RHYTHMS if rhythm.network == bool(bundles)]
    with Running(LOAD, sender.hello["endpoint"], bundles, **more) as running:
        with Helper("benchmarks.subscriber", {"endpoint": running.verdicts}) as subscriber:
            found = {rhythm: _listen(rhythm, sender, subscriber, running, options) for rhythm in rhythms}
        return found, running.mode


def _listen(
    rhythm: Rhythm, sender: Helper, subscriber: Helper, running: Running, options: Options
) -> tuple[Times, list[int]]:
    """Seconds of every train, and what the pipeline's own histogram gained meanwhile."""
    warm(rhythm, sender, subscriber)
    before = running.ledger().latency_counts
    given, received = send(rhythm, sender, subscriber, rhythm.trains(options))
    after = running.ledger().latency_counts
    own = [b - a for a, b in zip(before, after, strict=True)]
    return {"pipeline": given, "received": received}, own


def warm(rhythm: Rhythm, sender: Helper, subscriber: Helper) -> None:
    """The first trains. A subscriber that has only just connected may miss the first verdicts: once it has
    heard one, it hears all.
    """
    for _ in range(WARM_TRIES):
        try:
            send(rhythm, sender, subscriber, WARM_TRAINS)
            return
        except BenchmarkError as error:
            missed = error
    raise missed


def send(rhythm: Rhythm, sender: Helper, subscriber: Helper, trains: int) -> Heard:
    """Send so many trains and listen for their verdicts: seconds of every train, to its last verdict.

    Raises BenchmarkError if one has none.
    """
    limit_s = trains / rhythm.rate_hz + 20
    subscriber.tell({"events": trains * rhythm.pulses, "limit_s": limit_s})
    request = {"trains": trains, "rate_hz": rhythm.rate_hz, "pulses": rhythm.pulses}
    sent = sender.ask(request, limit_s)["sent"]
    heard = subscriber.read(limit_s)["seen"]
    seen: Mapping[int, tuple[int, float]] = {train_id: (at_ns, after_s) for train_id, at_ns, after_s in heard}
    if missing := [train_id for train_id, _ in sent if train_id not in seen]:
        raise BenchmarkError(f"{len(missing)} of {trains} trains have no verdict, first {missing[0]}")
    given = [(seen[train_id][0] - sent_ns) * 1e-9 for train_id, sent_ns in sent]
    return given, [seen[train_id][1] for train_id, _ in sent]


def _lines(rhythm: Rhythm, turns: Sequence[tuple[Times, list[int]]]) -> Iterator[Line]:
    all_times = {name: [s for times, _ in turns for s in times[name]] for name in turns[0][0]}
    batch = f"network alone, batch {rhythm.pulses}"
    contenders = {
        "pipeline": "verdict at a subscriber",
        "received": "the same, from the last byte received",
        "paced": f"{batch} at {rhythm.rate_hz:g} Hz",
        "hot": f"{batch} back to back",
    }
    yield _own_line(rhythm, [counts for _, counts in turns])
    for name, contender in contenders.items():
        if name not in all_times:
            continue
        values: dict[str, Any] = quantiles_ms(all_times[name]) | {"n": len(all_times[name])}
        if name == "pipeline" and rhythm.network:
            values["of_paced_network"] = values["p50"] / quantiles_ms(all_times["paced"])["p50"]
            values["of_hot_network"] = values["p50"] / quantiles_ms(all_times["hot"])["p50"]
        medians = measured([float(np.median(times[name])) * 1e3 for times, _ in turns])
        note = _note(values)
        if name == "paced" and medians.median > 1e3 / rhythm.rate_hz:
            note += "; the network alone cannot keep this rate here, so the pipeline's latency is its queue"
        yield Line(rhythm.name, contender, "ms (p50)", medians, note, values)


def _note(values: Mapping[str, float]) -> str:
    note = ", ".join(f"{name.replace('_', '.')} {show(values[name])}" for name in QUANTILES)
    note += f" of {values['n']}"
    if "of_paced_network" in values:
        note += f"; {values['of_paced_network']:.2f} x the network at this rate"
        note += f", {values['of_hot_network']:.2f} x back to back"
    return note


def _own_line(rhythm: Rhythm, turns: Sequence[Sequence[int]]) -> Line:
    """The histogram's quantiles are upper edges of its buckets, a quarter of a 1-2-5 step wide."""
    counts = np.sum(turns, axis=0).tolist()
    values: dict[str, float] = {name: (quantile_s(counts, q) or 0.0) * 1e3 for name, q in QUANTILES.items()}
    values["n"] = sum(counts)
    summary = measured([(quantile_s(turn, 0.5) or 0.0) * 1e3 for turn in turns])
    return Line(rhythm.name, "received -> verdict, own histogram", "ms (p50)", summary, _note(values), values)
