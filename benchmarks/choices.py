"""The measurements behind the decision records: `python -m benchmarks.choices [NAME ...]`.

Each function prints one small table, medians of REPEATS, and belongs to the page of its name in
docs/decisions. They measure alternatives, not the product; that is `python -m benchmarks`.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.config import Options
from benchmarks.events import NULL_LOADS, pipeline
from benchmarks.helper import Helper
from models.bundle import load_bundle
from models.shipped import SHIPPED
from streamer.ledger import Page, sink_layout
from streamer.memory import attach, create
from streamer.runner import MODES, CpuRunner

Array = npt.NDArray[Any]

REPEATS = 7


def median_us(function: Callable[[], object], loops: int) -> float:
    """Median over REPEATS of the time of one call, us."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(loops):
            function()
        times.append((time.perf_counter() - start) / loops * 1e6)
    return statistics.median(times)


def ledger() -> None:
    """One commit of the largest page against writing its counters one by one (not safe against kill -9)."""
    layout = sink_layout([f"route{i}" for i in range(5)], 7 * 44)
    page = Page(attach(create("ledger", layout.size_bytes)), layout)
    plain = np.zeros(layout.cells, np.int64)

    def one_by_one() -> None:
        for index in range(12):
            plain[index] += 1

    print(f"cells in the page: {layout.cells}")
    print(f"commit of the whole page: {median_us(page.commit, 10000):.2f} us")
    print(f"12 counters in place:     {median_us(one_by_one, 10000):.2f} us")


def cpu() -> None:
    """Each shipped bundle on a CPU: float32, bfloat16, and compiled, by batch size."""
    print(f"threads: {torch.get_num_threads()}")
    for folder in sorted(SHIPPED.iterdir()):
        if (folder / "manifest.json").is_file():
            _cpu_bundle(folder.name)


def _cpu_bundle(name: str) -> None:
    bundle = load_bundle(SHIPPED / name)
    raw = bundle.golden_input.numpy()
    for mode in MODES:
        run = partial(_wait, CpuRunner([bundle], 64, mode))
        rates = {n: _rate(run, _events(raw, n)) for n in (1, 8, 32, 64)}
        print(f"{name:18s} {mode.name:26s} " + _row(rates))
    _compiled(name, raw)


def _wait(runner: CpuRunner, x: Array) -> Array:
    return runner.submit([x]).wait()


def _compiled(name: str, raw: Array) -> None:
    """torch.compile with bfloat16, one static batch size, as inductor runs it fastest."""
    bundle = load_bundle(SHIPPED / name)

    def plain(x: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = bundle.network(bundle.preprocess(x))
        return packed

    rates, start = {}, time.perf_counter()
    for n in (1, 8, 32):
        fast = torch.compile(plain, dynamic=False)
        x = torch.from_numpy(_events(raw, n))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            fast(x)
            rates[n] = _rate(fast, x)
    took_s = time.perf_counter() - start
    print(
        f"{name:18s} {'bfloat16, compiled':26s} " + _row(rates) + f"   (3 sizes compiled in {took_s:.0f} s)"
    )


def _events(raw: Array, n: int) -> Array:
    return np.resize(raw, (n, *raw.shape[1:]))


def _rate(function: Callable[..., object], x: Array | torch.Tensor) -> float:
    """Events per second, from the median time of a batch."""
    function(x)
    return len(x) / median_us(lambda: function(x), max(1, 64 // len(x))) * 1e6


def _row(rates: dict[int, float]) -> str:
    return "  ".join(f"{n:3d}: {rate:8.0f}/s" for n, rate in rates.items())


def blocks() -> None:
    """One frame a message through the whole pipeline without a model: a block each, or as they come."""
    load, options = NULL_LOADS[0], Options(repeats=5, seconds=2.0, warm_s=0.5)
    rates: dict[str, list[float]] = {"one message a block": [], "as they come": []}
    with Helper("benchmarks.sender", load.sender) as sender:
        sender.ask({"trains": None})
        for _ in range(options.repeats):
            rates["one message a block"].append(pipeline(load, sender, options, block_events=1)[0].rate)
            rates["as they come"].append(pipeline(load, sender, options)[0].rate)
    for name, measured in rates.items():
        spread = f"{min(measured):.0f}-{max(measured):.0f}"
        print(f"{name:22s} {statistics.median(measured):8.0f} events/s ({spread})")


CHOICES = {"ledger": ledger, "cpu": cpu, "blocks": blocks}


def main() -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{date.today()}  {machine}  torch {torch.__version__}  medians of {REPEATS}")
    for name in sys.argv[1:] or CHOICES:
        print(f"\n--- {name}")
        CHOICES[name]()


if __name__ == "__main__":
    main()
