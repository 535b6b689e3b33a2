"""python -m benchmarks.gpu [NAME ...]: what a CUDA device does with bundles, from shared memory to verdicts.

Says so in one line where there is no device. Measured are the networks of the aims (`gpu_networks`) and every
shipped bundle, each in a process of its own with the runner of the inference stage (`gpu_bundle`). Beside
every rate stand its share of the roofline (the smallest of what upload, arithmetic and memory of this device
allow: `gpu_ceilings`) and its aim. Ends within 8 minutes: contenders that no time is left for are named; with
names of bundles only those are measured, and there is time for all.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.gpu_ceilings import Ceilings, Work
from benchmarks.gpu_networks import AIMS_HZ, NETWORKS, build
from benchmarks.helper import ROOT, BenchmarkError, Helper
from benchmarks.table import Line, Measured, header, measured, print_lines, quantiles_ms, show, write
from models.shipped import SHIPPED

TOTAL_S: Final = 450.0  # of the 480 that a run may take: the rest is for starts and ends of processes
SERVED_S: Final = 60.0  # loading, capturing some 20 graphs twice, 8 s of measuring
# Compiling takes half a minute, with trying kernels out minutes where there is much to try. The order is that
# of what the result says: where time is short, the last ones are left out.
CONTENDERS_S: Final = {"fused": 60.0, "compiled": 90.0, "searched": 45.0}
LEAST_S: Final = 20.0  # a process that gets less cannot even load


@dataclass
class Run:
    """Processes one after the other, within the time of the whole."""

    give_up_s: float
    left_out: dict[str, str] = field(default_factory=dict)

    def ask(self, kind: str, folder: Path, limit_s: float) -> dict[str, Any] | None:
        """The answer of one process, or None with the reason in `left_out`."""
        what = f"{folder.name} {kind}".strip()
        limit_s = min(limit_s, self.give_up_s - time.monotonic())
        if limit_s < LEAST_S:
            self.left_out[what] = "no time left"
            return None
        try:
            with Helper("benchmarks.gpu_bundle", {"kind": kind, "folder": str(folder)}) as helper:
                answer = helper.ask({}, limit_s)
        except BenchmarkError as error:
            answer = {"error": f"{error} ({limit_s:.0f} s)"}
        if "error" in answer:
            self.left_out[what] = answer["error"]
            return None
        return answer


def bundles(folder: Path) -> list[Path]:
    """Those of the aims, built into `folder`, and every shipped one."""
    return build(folder) + sorted(path.parent for path in SHIPPED.glob("*/manifest.json"))


def measure(run: Run, paths: list[Path]) -> tuple[dict[str, Any], list[Line]]:
    """About the device, and the table. First all as the stage serves them, then the contenders."""
    about = run.ask("device", Path(), SERVED_S)
    if about is None:
        return {}, []
    limits, table, work = Ceilings(**about["ceilings"]), list(device_lines(about)), {}
    for path in paths:
        found = run.ask("served", path, SERVED_S)
        if found is not None:
            work[path.name] = Work(**found["work"])
            table += lines(found, limits)
    names = [network.name for network in NETWORKS]
    for kind, most_s in CONTENDERS_S.items():
        for path in (path for path in paths if path.name in names and path.name in work):
            found = run.ask(kind, path, most_s)
            if found is not None:
                what = f"batch {found['batch']}, {kind}"
                table.append(rate_line(path.name, what, found["rates"], limits.events_per_s(work[path.name])))
    return about, table


# --- the table ----------------------------------------------------------------------------------------


def device_lines(about: Mapping[str, Any]) -> Iterator[Line]:
    for size, rate in about["uploads"].items():
        yield Line("upload from registered memory", size, "GB/s", _one(rate / 1e9))
    found = about["ceilings"]
    yield Line("matrix product, bfloat16", "torch", "TFLOP/s", _one(found["flop_per_s"] / 1e12))
    yield Line("copy on the device, read + written", "torch", "GB/s", _one(found["copy_bytes_per_s"] / 1e9))


def lines(found: Mapping[str, Any], ceilings: Ceilings) -> Iterator[Line]:
    """One bundle as the stage serves it."""
    name, work = found["name"], Work(**found["work"])
    limits = ceilings.events_per_s(work)
    for batch, rates in found["rates"].items():
        yield rate_line(name, f"batch {batch}", rates, limits)
    yield Line(name, "batch of blocks of 1", "events/s", measured(found["small"]))
    for n, seconds in found["latency_s"].items():
        quantiles = quantiles_ms(seconds)
        note = ", ".join(f"{key.replace('_', '.')} {show(value)}" for key, value in quantiles.items())
        row = f"{name}: block of {n} each ms, ring to verdict"
        yield Line(row, "served", "ms (p50)", _one(quantiles["p50"]), note, quantiles)
    note = f"{show(work.upload_bytes)} bytes up, {show(work.memory_bytes)} bytes in the device's memory"
    yield Line(f"{name}: an event", "counted", "MFLOP", _one(work.flop / 1e6), note)


def rate_line(name: str, contender: str, rates: list[float], limits: Mapping[str, float]) -> Line:
    """A rate with its share of the roofline, and of the aim where there is one."""
    summary = measured(rates)
    bound = min(limits, key=lambda kind: limits[kind])
    values = {"share": summary.median / limits[bound], **limits}
    note = f"{values['share']:.0%} of the roofline, {show(limits[bound])} events/s by {bound}"
    if name in AIMS_HZ:
        values["aim"] = AIMS_HZ[name]
        note += f"; {summary.median / values['aim']:.2f} of the aim, {show(values['aim'])}"
    return Line(name, contender, "events/s", summary, note, values)


def _one(value: float) -> Measured:
    return Measured(value, value, value, 1)


def main(asked: Sequence[str]) -> int:
    """`asked`: names of bundles; none: all of them."""
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to measure here (python -m benchmarks measures the CPU)")
        return 0
    about, run = header(), Run(time.monotonic() + TOTAL_S)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        paths = [path for path in bundles(Path(folder)) if path.name in asked or not asked]
        if not paths:
            print(f"expected names of {[path.name for path in bundles(Path(folder))]}, got {list(asked)}")
            return 2
        device, table = measure(run, paths)
    about |= device | {"left_out": run.left_out}
    print(f"{about['date']}, commit {about['commit']}, {about.get('gpu')}, torch {torch.__version__}")
    print_lines(table)
    for what, why in run.left_out.items():
        print(f"left out: {what}: {why}")
    print(f"\nwritten to {write(ROOT / 'benchmarks' / 'results', '-gpu', about, table)}")
    return 0 if table else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
