"""python -m benchmarks.memory: does a run that goes on for days keep its memory?

--minutes M      how long (10)
--output FOLDER  where the file goes (benchmarks/results; a run that is too short to judge writes none
                 unless this is given)

A pipeline with the shipped classifier at a rate that it keeps with ease, 300 frames a second by 32, two
subscribers that decode every block as dashboards do, every result and one frame in ten stored. Once a second
/proc is asked what each process holds. A line is drawn through the last 80 % of the time by least squares.
Before that a burst fills the ring and every queue in front of it once: allocators keep what a queue needed,
and a queue that fills for the first time in the fifth minute is no leak.

Judged is anonymous memory (RssAnon): what a process allocated itself. The shared ring (RssShmem) and mapped
files (RssFile) stand in its resident size too, as far as it has touched them, and are bounded by their size.
The command ends with 1 when a process of ours grows by more than LIMIT_KB_PER_MIN and by more than three
standard errors. A run below JUDGED_MINUTES is not judged: starting is not leaking.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.config import Load
from benchmarks.helper import ROOT, BenchmarkError, Helper
from benchmarks.running import Running
from benchmarks.table import Line, Measured, header, write
from models.shipped import find_bundle
from streamer.pipeline import STAGES

BUNDLE: Final = "droplet_cnn"
LOAD: Final = Load("trains of 32", (128, 128), "uint16", 32)
# A third of what one core classifies: what grows is then no queue.
FRAMES_PER_S: Final = 300.0
SUBSCRIBERS: Final = 2
# One frame in ten, and fewer in a long run: what is stored stays below so many bytes.
ONE_IN: Final = 10
STORED_BYTES: Final = 4 << 30
# Seven seconds of frames.
RING_BYTES: Final = 64 << 20
# The ring and the kernel's buffers, and some more.
BURST_TRAINS: Final = 3 * RING_BYTES // LOAD.message_bytes
# Faster than anything takes them: the source waits for the pipeline.
BURST_HZ: Final = 1e4
# For the frames of a burst on a machine that is ten times slower.
BURST_S: Final = 120.0
# The source is asked for so many seconds of trains at a time.
CHUNK_S: Final = 10
SKIPPED_SHARE: Final = 0.2
# 72 MB in a shift of 12 hours, which no machine that runs this notices. Below it lie the pages that
# allocators touch late, which in ten minutes cannot be told from a leak.
LIMIT_KB_PER_MIN: Final = 100.0
STANDARD_ERRORS: Final = 3.0
# Of a line through points of which hardly two are independent: its error is large, not infinite.
MIN_FREEDOM: Final = 0.1
JUDGED_MINUTES: Final = 5.0
# Of /proc/PID/status and /proc/PID/smaps_rollup, kB.
FIELDS: Final = ("VmRSS", "RssAnon", "RssFile", "RssShmem", "Pss")
ANONYMOUS: Final = FIELDS.index("RssAnon")
# Stands for the facility: it is shown, not judged.
SOURCE: Final = "source"
Numbers = NDArray[np.float64]


class Watched(Running):
    """A pipeline whose processes can be looked at."""

    def pids(self) -> dict[str, int]:
        """By name: the three stages, and this process, which holds the supervisor."""
        children = self._pipeline.streams["bench"].children
        return {"supervisor": os.getpid()} | {stage: children[stage].pid for stage in STAGES}


# --- looking and judging ------------------------------------------------------------------------------


def held_kb(pid: int) -> list[float]:
    """What a process holds now, in the order of FIELDS, kB. Raises BenchmarkError if it has ended."""
    found: dict[str, float] = {}
    for name in ("status", "smaps_rollup"):
        try:
            text = Path(f"/proc/{pid}/{name}").read_text()
        except OSError as error:
            raise BenchmarkError(f"process {pid} ended while its memory was watched: {error}") from error
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key in FIELDS:
                found[key] = float(value.split()[0])
    return [found[name] for name in FIELDS]


def slope(times_s: Numbers, values: Numbers) -> tuple[float, float]:
    """Least squares: growth per minute and its standard error.

    Neighbouring seconds are not independent: a step stays. So as many points count as would be independent
    by the correlation of neighbours, n (1 - r) / (1 + r) (Santer et al., J. Geophys. Res. 105, 7337, 2000).
    One step, wherever it lies, is then below three standard errors; steps that go on are far above.
    """
    if len(times_s) < 3:
        raise ValueError(f"a line with an error needs 3 points, got {len(times_s)}")
    x = (times_s - times_s.mean()) / 60.0
    y = values - values.mean()
    spread = float(x @ x)
    growth = float(x @ y) / spread
    rest = y - growth * x
    squares = float(rest @ rest)
    r = max(0.0, float(rest[1:] @ rest[:-1]) / squares) if squares else 0.0
    independent = len(x) * (1 - r) / (1 + r)
    return growth, math.sqrt(squares / max(MIN_FREEDOM, independent - 2) / spread)


def leaks(growth: float, error: float) -> bool:
    return growth > LIMIT_KB_PER_MIN and growth > STANDARD_ERRORS * error


def lines_of(names: Sequence[str], times_s: Numbers, held: Numbers) -> Iterator[Line]:
    """One line a process, and their sum without the source. `held` is [time, process, field], kB."""
    late = times_s >= times_s[0] + SKIPPED_SHARE * (times_s[-1] - times_s[0])
    ours = held[:, [name != SOURCE for name in names]].sum(1, keepdims=True)
    everything = np.concatenate([held, ours], axis=1)[late]
    for index, name in enumerate([*names, "all but the source"]):
        yield _line(name, times_s[late], everything[:, index])


def _line(name: str, times_s: Numbers, held: Numbers) -> Line:
    values: dict[str, float] = {}
    for index, field in enumerate(FIELDS):
        growth, error = slope(times_s, held[:, index])
        values |= {f"{field}_kb_per_min": growth, f"{field}_error": error, f"{field}_kb": held[-1, index]}
    growth, error = values["RssAnon_kb_per_min"], values["RssAnon_error"]
    summary = Measured(growth, growth - error, growth + error, len(times_s))
    return Line("memory", name, "kB/min of RssAnon, plus and minus its standard error", summary, "", values)


# --- the run ------------------------------------------------------------------------------------------


def one_in(seconds: float) -> int:
    """One frame in so many is stored."""
    all_bytes = FRAMES_PER_S * seconds * LOAD.message_bytes / LOAD.pulses
    return max(ONE_IN, math.ceil(all_bytes / STORED_BYTES))


def watch(seconds: int) -> tuple[list[str], Numbers, Numbers, float]:
    """Names of the processes, times in s, what they held [time, process, field] in kB, frames a second."""
    with ExitStack() as stack:
        source = stack.enter_context(Helper("benchmarks.sender", LOAD.sender))
        how: dict[str, Any] = {"device": "cpu", "threads": 1, "max_events": 32, "ring_bytes": RING_BYTES}
        how["route"] = [{"name": "sample", "one_in": one_in(seconds)}]
        # By its folder's name: writing a fresh one would load torch into this process, which is watched.
        bundles = (str(find_bundle(BUNDLE)),)
        running = stack.enter_context(Watched(LOAD, source.hello["endpoint"], bundles, **how))
        reader = {"endpoint": str(running.settings.publish.results), "sockets": 1, "decode": True}
        readers = [stack.enter_context(Helper("benchmarks.readers", reader)) for _ in range(SUBSCRIBERS)]
        pids = running.pids() | {f"subscriber {n + 1}": helper.pid for n, helper in enumerate(readers)}
        source.ask({"trains": BURST_TRAINS, "rate_hz": BURST_HZ}, BURST_S)
        running.drain()
        before, start_s = running.ledger().outcomes, time.monotonic()
        times_s, held = _look(seconds, list((pids | {SOURCE: source.pid}).values()), source)
        running.drain()
        rate = (running.ledger().outcomes - before) / (time.monotonic() - start_s)
        _check(readers)
    return [*pids, SOURCE], times_s, held, rate


def _look(seconds: int, pids: Sequence[int], source: Helper) -> tuple[Numbers, Numbers]:
    """Once a second. The arrays are written full first: this process is watched too."""
    times_s, held = np.full(seconds, np.nan), np.full((seconds, len(pids), len(FIELDS)), np.nan)
    start_s = time.monotonic()
    for tick in range(seconds):
        if tick % CHUNK_S == 0:
            if tick:
                source.read()
            source.tell(_trains(min(CHUNK_S, seconds - tick)))
        time.sleep(max(0.0, start_s + tick - time.monotonic()))
        times_s[tick], held[tick] = time.monotonic() - start_s, [held_kb(pid) for pid in pids]
    source.read()
    return times_s, held


def _trains(seconds: int) -> Mapping[str, float]:
    rate_hz = FRAMES_PER_S / LOAD.pulses
    return {"trains": max(1, round(rate_hz * seconds)), "rate_hz": rate_hz}


def _check(readers: Sequence[Helper]) -> None:
    """Raises BenchmarkError unless every block reached every subscriber."""
    counts = [count for helper in readers for count in helper.ask({})["readers"]]
    if any(not count["blocks"] or count["blocks"] != count["published"] for count in counts):
        raise BenchmarkError(f"a subscriber missed blocks at a rate that it should keep: {counts}")


# --- the command --------------------------------------------------------------------------------------


def _print(lines: Sequence[Line]) -> None:
    print("\n| process | RssAnon | RSS | of it shared | PSS | RSS grows by | RssAnon grows by |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        v = line.values
        sizes = [f"{v[f'{field}_kb'] / 1024:.1f} MiB" for field in ("RssAnon", "VmRSS", "RssShmem", "Pss")]
        grows = [f"{v[f'{f}_kb_per_min']:+.1f} ± {v[f'{f}_error']:.1f} kB/min" for f in ("VmRSS", "RssAnon")]
        print(f"| {' | '.join([line.contender, *sizes, *grows])} |")


def verdict(lines: Sequence[Line], minutes: float) -> tuple[int, str]:
    """Exit code and the sentence for it."""
    if minutes < JUDGED_MINUTES:
        return 0, f"not judged: {minutes:g} minutes, and starting up takes the first {JUDGED_MINUTES:g}"
    rule = f"more than {LIMIT_KB_PER_MIN:g} kB/min and {STANDARD_ERRORS:g} standard errors"
    bad = [
        line.contender
        for line in lines
        if line.contender != SOURCE and leaks(line.values["RssAnon_kb_per_min"], line.values["RssAnon_error"])
    ]
    return (
        (1, f"memory grows: {', '.join(bad)} ({rule})")
        if bad
        else (0, f"memory is flat: nothing grows {rule}")
    )


def _series(names: Sequence[str], held: Numbers) -> dict[str, str]:
    """Anonymous memory every CHUNK_S seconds, MiB, as one line of text a process."""
    mib = held[::CHUNK_S, :, ANONYMOUS].T / 1024
    return {name: " ".join(f"{value:.1f}" for value in row) for name, row in zip(names, mib, strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Memory of a long run.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=None)
    asked = parser.parse_args(arguments)
    about = header() | {"options": {"minutes": asked.minutes, "frames_per_s": FRAMES_PER_S}}
    names, times_s, held, rate = watch(max(CHUNK_S, round(60 * asked.minutes)))
    lines = list(lines_of(names, times_s, held))
    code, sentence = verdict(lines, asked.minutes)
    hardware = about["hardware"]
    print(f"{about['date']}, commit {about['commit']}, {hardware['cpu']}, {hardware['cores']} cores")
    print(f"{BUNDLE}, {rate:.0f} frames/s for {times_s[-1] / 60:.1f} minutes, {SUBSCRIBERS} subscribers")
    _print(lines)
    print(f"\n{sentence}")
    folder = asked.output or (ROOT / "benchmarks" / "results" if asked.minutes >= JUDGED_MINUTES else None)
    if folder is not None:
        about |= {"verdict": sentence, "frames_per_s": rate, "rss_anon_mib": _series(names, held)}
        print(f"written to {write(folder, '-memory', about, lines)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
