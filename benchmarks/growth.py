"""python -m benchmarks.growth: what an event costs as a run grows, one axis at a time.

--quick          one short turn of the ends of every axis: proves that they run, measures nothing
--only AXIS      spectra, frames, size, streams, subscribers or stored; may be given several times
--repeats N      turns of all points (3)
--seconds S      measuring time of one point in one turn (1)
--picture FILE   a PNG with one panel for each axis; needs matplotlib
--output FOLDER  where the file goes (benchmarks/results; --quick writes none unless this is given)

The whole pipeline without a network: it receives, counts, routes, publishes results and verdicts, records the
results of every event and stores frames. The cost is processor time per event, stage by stage; the rate
beside it is what sources, stages and readers reached together on the cores there are. docs/growth.md says how
to read it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.config import Load, Options
from benchmarks.growth_picture import draw
from benchmarks.growth_run import NONE_OF, Point, Streams
from benchmarks.helper import ROOT, BenchmarkError, Helper
from benchmarks.running import Window
from benchmarks.table import Line, header, measured, print_lines, show, write
from streamer.pipeline import STAGES

QUICK: Final = Options(repeats=1, seconds=0.2, warm_s=0.0, every_load=False)
WARM_S: Final = 0.3
# Messages along the axis of sizes: the frame grows, the message does not, until one frame is larger.
MESSAGE_BYTES: Final = 1 << 20
# A whole run; on a busy machine it has fewer turns, and n says so.
LIMIT_S: Final = 480.0
# A process reads for so many subscribers: they share the cores with what is measured.
SOCKETS: Final = 8


def frames(pulses: int, side_px: int = 128) -> Load:
    return Load(f"{side_px}x{side_px} by {pulses}", (side_px, side_px), "uint16", pulses)


def spectra(pulses: int) -> Load:
    return Load(f"spectra by {pulses}", (1280,), "uint16", pulses)


def _pulses(side_px: int) -> int:
    return max(1, MESSAGE_BYTES // (2 * side_px**2))


# Where the axes meet: a train of 32 frames, which is 1 MiB.
BASE: Final = Point(frames(32))


@dataclass(frozen=True)
class Axis:
    """One question: the points along it by their place, and what the place means."""

    name: str
    title: str
    points: Mapping[float, Point]

    def of(self, options: Options) -> "Axis":
        ends = (min(self.points), max(self.points))
        points = {x: p for x, p in self.points.items() if options.every_load or x in ends}
        return replace(self, points=points)


def _axis(name: str, title: str, points: Mapping[float, Point]) -> Axis:
    return Axis(name, title, dict(sorted(points.items())))


AXES: Final = (
    _axis(
        "spectra",
        "1280-bin spectra per train",
        {n: Point(spectra(n)) for n in (1, 4, 16, 64, 256, 1024, 2048)},
    ),
    _axis("frames", "128x128 frames per train", {n: Point(frames(n)) for n in (1, 4, 16, 32, 128)}),
    _axis(
        "size",
        "side of a frame, px (trains of 1 MiB)",
        {px: Point(frames(_pulses(px), px)) for px in (32, 64, 128, 256, 512, 1024)},
    ),
    _axis("streams", "streams, one ingest process each", {n: replace(BASE, streams=n) for n in (1, 2, 4)}),
    _axis(
        "subscribers", "subscribers to the results", {n: replace(BASE, subscribers=n) for n in (0, 1, 4, 16)}
    ),
    _axis(
        "stored",
        "share of the frames stored",
        {0.0: replace(BASE, one_in=NONE_OF)} | {1 / n: replace(BASE, one_in=n) for n in (100, 10, 2, 1)},
    ),
)


# --- measuring ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """A point once: the window, and the smallest share of published blocks that a subscriber got."""

    window: Window
    delivered: float


class Senders:
    """A source for each stream of each load; all stand still unless they are asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._by_load: dict[Load, list[Helper]] = {}

    def of(self, point: Point) -> list[Helper]:
        senders = self._by_load.setdefault(point.load, [])
        while len(senders) < point.streams:
            sender = self._stack.enter_context(Helper("benchmarks.sender", point.load.sender))
            sender.ask({"trains": None})
            with sender.running():
                pass  # from here on it stands still unless it is measured
            senders.append(sender)
        return senders[: point.streams]


def measure(point: Point, senders: Sequence[Helper], options: Options) -> Turn:
    endpoints = [sender.hello["endpoint"] for sender in senders]
    with Streams(point, endpoints) as streams, ExitStack() as readers:
        helpers = _readers(readers, streams.results, point.subscribers)
        with ExitStack() as running:
            for sender in senders:
                running.enter_context(sender.running())
            window = streams.measure(options.seconds, point.ring_events if options.warm_s else 0)
        streams.drain()
        return Turn(window, _delivered(helpers))


def _readers(stack: ExitStack, endpoint: str, subscribers: int) -> list[Helper]:
    """Processes with SOCKETS sockets each, and the rest."""
    counts = [min(SOCKETS, subscribers - first) for first in range(0, subscribers, SOCKETS)]
    how = [{"endpoint": endpoint, "sockets": count, "decode": False} for count in counts]
    return [stack.enter_context(Helper("benchmarks.readers", each)) for each in how]


def _delivered(helpers: Sequence[Helper]) -> float:
    """1.0 without subscribers. Raises BenchmarkError where one got nothing: its cost was not measured."""
    counts = [reader for helper in helpers for reader in helper.ask({})["readers"]]
    if not all(reader["blocks"] for reader in counts):
        raise BenchmarkError(f"a subscriber got no block of results: {counts}")
    return min((reader["blocks"] / reader["published"] for reader in counts), default=1.0)


def rows(axes: Sequence[Axis], options: Options, say: Callable[[str], object]) -> Iterator[Line]:
    """A point that lies on several axes is measured once a turn. `say` takes the progress."""
    points = list(dict.fromkeys(point for axis in axes for point in axis.points.values()))
    turns: dict[Point, list[Turn]] = {point: [] for point in points}
    end_s = time.monotonic() + LIMIT_S
    with ExitStack() as stack:
        senders = Senders(stack)
        for repeat in range(options.repeats):
            start_s = time.monotonic()
            for point in points:
                turns[point].append(measure(point, senders.of(point), options))
            took_s = time.monotonic() - start_s
            say(f"turn {repeat + 1}: {len(points)} points in {took_s:.0f} s")
            if time.monotonic() + took_s > end_s:
                say(f"another turn would not end within {LIMIT_S:g} s: none follows")
                break
    for axis in axes:
        yield from (_line(axis, x, turns[axis.points[x]]) for x in axis.points)


def _line(axis: Axis, x: float, turns: Sequence[Turn]) -> Line:
    windows = [turn.window for turn in turns]
    values = {stage: measured([w.cpu_us(stage) for w in windows]).median for stage in STAGES}
    rate = measured([w.rate for w in windows])
    note = ", ".join(f"{stage} {show(value)}" for stage, value in values.items())
    note += f"; {show(rate.median)} events/s"
    delivered = min(turn.delivered for turn in turns)
    if axis.name == "subscribers" and x:
        note += f"; subscribers got {100 * delivered:.3g} % of the blocks"
    values |= {"x": x, "rate": rate.median, "rate_low": rate.low, "rate_high": rate.high}
    cost = measured([w.cpu_us() for w in windows])
    return Line(axis.title, f"{x:g}", "CPU us/event", cost, note, values | {"delivered": delivered})


# --- the command --------------------------------------------------------------------------------------


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description="Cost of an event as a run grows."
    )
    parser.add_argument("--quick", action="store_true", help="one short turn of the ends of every axis")
    parser.add_argument("--only", action="append", choices=[axis.name for axis in AXES], metavar="AXIS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--picture", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args(arguments)


def _report(about: Mapping[str, Any], lines: Sequence[Line], picture: Path | None) -> None:
    hardware = about["hardware"]
    where = f"{about['date']}, commit {about['commit']}, {hardware['cpu']}, {hardware['cores']} cores"
    where += f", load {hardware['load_before']} before"
    print(f"{where}; no network in the pipeline")
    print_lines(lines)
    if picture is not None:
        draw(lines, picture, where)
        print(f"\ndrawn to {picture}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    asked = _arguments(arguments)
    options = QUICK if asked.quick else Options(asked.repeats, asked.seconds, WARM_S)
    about = header() | {"options": asdict(options)}
    axes = [axis.of(options) for axis in AXES if not asked.only or axis.name in asked.only]
    lines = list(rows(axes, options, lambda text: print(text, file=sys.stderr)))
    _report(about, lines, asked.picture)
    output = asked.output or (None if asked.quick else ROOT / "benchmarks" / "results")
    if output is not None:
        print(f"\nwritten to {write(output, '-growth', about, lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
