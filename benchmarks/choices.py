"""The measurements behind the decision records: `python -m benchmarks.choices [NAME ...]`.

Each function prints one small table for a page in docs/decisions: ledger for ledger-in-pages, cpu for
cpu-inference, blocks for blocks, messages for ingest. Medians of REPEATS, or of as many as it says. They
measure alternatives, not the product; that is `python -m benchmarks`.
"""

import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.config import Options
from benchmarks.events import NULL_LOADS, pipeline
from benchmarks.helper import Helper
from benchmarks.messages import costs
from models.bundle import Bundle, load_bundle
from models.shipped import SHIPPED
from streamer.engines.choice import OPENVINO
from streamer.engines.plain import MODES, engine_clock
from streamer.ledger import Page, sink_layout
from streamer.memory import attach, create
from streamer.networks import Networks
from streamer.runner import CpuRunner

Array = npt.NDArray[Any]

REPEATS = 7


def median_us(
    function: Callable[[], object], loops: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median over REPEATS of the time of one call, us."""
    times = []
    for _ in range(REPEATS):
        start = clock()
        for _ in range(loops):
            function()
        times.append((clock() - start) / loops * 1e6)
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


# --- how networks run on a CPU --------------------------------------------------------------------------

CPU_BATCHES = (1, 8, 32, 64)
# Of the whole table: torch.compile and AOTInductor take a C++ compiler up to a minute a network; what is not
# begun by then is named.
CPU_TABLE_S = 300.0
ONNX_OPSET = 17  # the first with all that these networks use

Run: TypeAlias = Callable[[Array], Array]


def cpu() -> None:
    """Each shipped bundle in each engine, by batch size: ours first, then those that would need compiling."""
    start_s = time.perf_counter()
    print(f"threads: {torch.get_num_threads()}; events/s by batch size; s: until ready for these sizes")
    names = sorted(path.parent.name for path in SHIPPED.glob("*/manifest.json"))
    names.sort(key=lambda name: name != "droplet_cnn")  # first what is looked at most
    for name in names:
        for mode in (*MODES, *(OPENVINO if _there("openvino") else ())):
            _contender(name, mode, partial(_ours, mode))
        if _there("onnxruntime", "onnx", "openvino"):
            _contender(name, "ONNX Runtime, float32", _onnx)
    for package in ("openvino", "onnxruntime", "onnx"):
        if not _there(package):
            print(f"{package} is not installed: left out")
    _compiled_contenders(names, start_s)


def _compiled_contenders(names: Sequence[str], start_s: float) -> None:
    """bfloat16 of all networks first: where it pays, it is what the choice is measured against."""
    missed = []
    for exact, precision in ((False, "bfloat16"), (True, "float32")):
        for name in names:
            for how, make in (("torch.compile", _compiled), ("AOTInductor", _ahead_of_time)):
                if time.perf_counter() - start_s < CPU_TABLE_S:
                    _contender(name, f"{how}, {precision}", partial(make, exact))
                else:
                    missed.append(f"{name} {how} {precision}")
    if missed:
        print(f"not begun within {CPU_TABLE_S:.0f} s: {'; '.join(missed)}")


def _there(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def _contender(name: str, engine: str, make: Callable[[Bundle, Array], dict[int, Run]]) -> None:
    """One row: `make` gives what runs a batch of each size."""
    bundle = load_bundle(SHIPPED / name)
    raw, start_s = bundle.golden_input.numpy(), time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # compilers and exporters warn of what they are about to lose
            runs = make(bundle, raw)
    except Exception as error:  # an engine that cannot run this network is a result
        print(f"{name:17s} {engine:26s} refused: {' '.join(str(error).split())[:110]}", flush=True)
        return
    took_s = time.perf_counter() - start_s
    rates = {n: _rate(run, _events(raw, n)) for n, run in runs.items()}
    got = runs[8](_events(raw, 8)) if 8 in runs else runs[32](_events(raw, 32))[:8]
    print(f"{name:17s} {engine:26s} {_row(rates)}  {took_s:4.1f} s  {_judged(bundle, got)}", flush=True)


def _judged(bundle: Bundle, got: Array) -> str:
    """How far the answers lie from the golden ones, as a share of each column's largest; and the labels."""
    want, start, worst, same = bundle.golden_output.numpy(), 0, 0.0, True
    for column in bundle.manifest.columns:
        part = slice(start, start + column.width)
        start, off = part.stop, np.abs(got[:, part] - want[:, part]).max()
        if column.dtype == "float32":
            worst = max(worst, float(off / max(np.abs(want[:, part]).max(), 1e-6)))
        else:
            same = same and off == 0
    return f"off by {worst:.0e}, labels {'equal' if same else 'DIFFER'}"


def _ours(mode: str, bundle: Bundle, _raw: Array) -> dict[int, Run]:
    """As the stream runs it; one that would be refused there is refused here."""
    runner = CpuRunner([bundle], max(CPU_BATCHES), mode)
    return dict.fromkeys(CPU_BATCHES, lambda x: runner.submit([x]).wait())


def _onnx(bundle: Bundle, raw: Array) -> dict[int, Run]:
    """A file and a session a batch size, on as many threads."""
    import onnxruntime  # type: ignore[import-untyped]  # ships no types
    from torch.onnx import register_custom_op_symbolic  # type: ignore[attr-defined]  # not in its __all__

    from streamer.engines.openvino import Rewritten

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    register_custom_op_symbolic("aten::expm1", _expm1, ONNX_OPSET)
    networks = Networks([bundle]).eval()
    runs: dict[int, Run] = {}
    for n in CPU_BATCHES:
        example = torch.from_numpy(_events(raw, n).astype(np.float32))
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            with torch.inference_mode(), Rewritten():
                traced = torch.jit.freeze(torch.jit.trace(networks, (example,), check_trace=False))
            torch.onnx.export(traced, (example,), file.name, dynamo=False, opset_version=ONNX_OPSET)
            session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
        runs[n] = partial(_run_session, session, session.get_inputs()[0].name)
    return runs


def _expm1(graph: Any, x: Any) -> Any:
    """exp(x) - 1, as the exporter knows no other way."""
    return graph.op("Sub", graph.op("Exp", x), graph.op("Constant", value_t=torch.tensor(1.0)))


def _run_session(session: Any, name: str, x: Array) -> Array:
    packed: Array = session.run(None, {name: x.astype(np.float32, copy=False)})[0]
    return packed


def _compiled(exact: bool, bundle: Bundle, raw: Array) -> dict[int, Run]:
    """Inductor at its fastest: static sizes, weights frozen."""
    torch.compiler.reset()
    fast = torch.compile(_Cast(bundle, exact), dynamic=False, options={"freezing": True})
    run = partial(_run_torch, fast)
    for n in (1, 32):
        run(_events(raw, n))
    return dict.fromkeys((1, 32), run)


def _ahead_of_time(exact: bool, bundle: Bundle, raw: Array) -> dict[int, Run]:
    """A shared library of one static size, 32, as freezing needs it."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        example = torch.from_numpy(_events(raw, 32))
        exported = torch.export.export(_Cast(bundle, exact), (example,))
        path = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/network.pt2")
        return {32: partial(_run_torch, torch._inductor.aoti_load_package(path))}


def _run_torch(run: Callable[[torch.Tensor], torch.Tensor], x: Array) -> Array:
    with torch.inference_mode():
        packed: Array = run(torch.from_numpy(x)).numpy()
    return packed


class _Cast(torch.nn.Module):
    """A bundle's networks with the precision inside, as a compiler wants it."""

    def __init__(self, bundle: Bundle, exact: bool) -> None:
        super().__init__()
        self.networks, self.exact = Networks([bundle]).eval(), exact

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=not self.exact):
            packed: torch.Tensor = self.networks(raw).float()
        return packed


def _events(raw: Array, n: int) -> Array:
    return np.resize(raw, (n, *raw.shape[1:]))


def _rate(run: Run, x: Array) -> float:
    """Events per second, from the median time of a batch; on one thread its processor time."""
    run(x)
    return len(x) / median_us(lambda: run(x), max(1, 64 // len(x)), engine_clock()) * 1e6


def _row(rates: dict[int, float]) -> str:
    cells = [f"{n:2d}: {rates[n]:6.0f}/s" if n in rates else " " * 12 for n in CPU_BATCHES]
    return "  ".join(cells)


def blocks() -> None:
    """One frame a message through the whole pipeline without a model, by the events that a block may hold."""
    load, options = NULL_LOADS[0], Options(repeats=3, seconds=1.0, warm_s=0.5)
    rates: dict[int, list[float]] = {1: [], 8: [], 32: [], 128: []}
    with Helper("benchmarks.sender", load.sender) as sender:
        sender.ask({"trains": None})
        for _ in range(options.repeats):
            for events, measured in rates.items():
                measured.append(pipeline(load, sender, options, block_events=events)[0].rate)
    for events, measured in rates.items():
        spread = f"{min(measured):.0f}-{max(measured):.0f}"
        print(f"at most {events:3d} events a block {statistics.median(measured):8.0f} events/s ({spread})")


def message_costs() -> None:
    """A camera's message of one 33 kB frame in ingest, without the kernel; processor time."""
    turns = [costs() for _ in range(REPEATS)]
    for what in turns[0]:
        print(f"{what:50s} {statistics.median(turn[what] for turn in turns):6.1f} us")


CHOICES = {"ledger": ledger, "cpu": cpu, "blocks": blocks, "messages": message_costs}


def main() -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{date.today()}  {machine}  torch {torch.__version__}  medians of {REPEATS}")
    for name in sys.argv[1:] or CHOICES:
        print(f"\n--- {name}")
        CHOICES[name]()


if __name__ == "__main__":
    main()
