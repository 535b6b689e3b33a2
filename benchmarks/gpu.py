"""python -m benchmarks.gpu: what one CUDA device does with the shipped bundles, from a ring in shared memory.

Needs the core dependencies only, and says so in one line where there is no device. Each bundle runs in a
process of its own, with the runner of the inference stage. Beside every rate stands its share of the
roofline: the smallest of what the upload, the arithmetic and the memory of this device allow, measured here.

    upload       raw bytes of an event over the measured host-to-device rate from registered memory
    arithmetic   multiply-adds x 2 of an event over the measured rate of a bfloat16 matrix product
    memory       activations in bfloat16, written once and read once, over the measured copy rate
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.helper import ROOT, BenchmarkError, Helper, options, say
from benchmarks.network import classifier
from benchmarks.table import Line, Measured, header, measured, print_lines, quantiles_ms, show, write
from models.bundle import Bundle, load_bundle
from models.manifest import Column, Manifest
from models.shipped import SHIPPED
from streamer import memory
from streamer.columns import split
from streamer.ring import Ring, RingLayout
from streamer.routing import Route, Router
from streamer.rules import Vocabulary
from streamer.runner import CudaRunner, Networks

REPEATS: Final = 5
# A device settles in some tens of ms; the host's clock is read twice in each window.
WINDOW_S: Final = 0.5
SINGLE_BLOCKS: Final = 1000
FRAME_BATCHES: Final = (1, 8, 32, 64, 128, 256, 512)
# Small events need more of them to fill a device.
SPECTRUM_BATCHES: Final = (1, 64, 256, 1024, 2048)
# More than the device's cache holds (50 MB on an H100), so that uploads and copies go to memory.
RING_BYTES: Final = 512 << 20
MATRIX: Final = 8192


@dataclass(frozen=True)
class Ceilings:
    """What this device can do at most, measured."""

    upload_bytes_per_s: float
    flop_per_s: float
    copy_bytes_per_s: float

    def events_per_s(self, work: "Work") -> dict[str, float]:
        return {
            "upload": self.upload_bytes_per_s / work.upload_bytes,
            "arithmetic": self.flop_per_s / work.flop,
            "memory": self.copy_bytes_per_s / work.memory_bytes,
        }


@dataclass(frozen=True)
class Work:
    """What one event costs."""

    upload_bytes: int
    flop: float
    memory_bytes: float


# --- ceilings -----------------------------------------------------------------------------------------


def _seconds(run: Callable[[], object], times: int) -> float:
    """Median seconds of one `run`, by the device's own clock."""
    run()
    torch.cuda.synchronize()
    taken: list[float] = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(times):
            run()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) * 1e-3 / times)
    return statistics.median(taken)


def ceilings(upload_bytes_per_s: float) -> Ceilings:
    a = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(a)
    product_s = _seconds(lambda: torch.matmul(a, a, out=out), 5)
    big = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    half = len(big) // 2
    copy_s = _seconds(lambda: big[:half].copy_(big[half:]), 5)
    return Ceilings(upload_bytes_per_s, 2 * MATRIX**3 / product_s, 2 * half / copy_s)


def upload_rate(frames: np.ndarray[Any, np.dtype[Any]]) -> dict[str, float]:
    """Bytes a second from the registered ring to the device, by size of one copy."""
    host = torch.from_numpy(frames.reshape(-1).view(np.uint8))
    device = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    rates = {}
    for size in (1 << 20, 8 << 20, 64 << 20):
        starts = range(0, len(host) - size + 1, size)
        part = [host[start : start + size] for start in starts][:8]

        def upload(parts: Sequence[Tensor] = part, size: int = size) -> None:
            for one in parts:
                device[:size].copy_(one, non_blocking=True)

        rates[f"{size >> 20} MiB"] = len(part) * size / _seconds(upload, 4)
    return rates


def work(bundle: Bundle) -> Work:
    """Counted on the CPU: the operations of one event, and the sizes of what its layers write."""
    raw = bundle.golden_input[:1]
    written: list[int] = []
    networks = Networks([bundle]).eval()
    leaves = [module for module in networks.modules() if not list(module.children())]

    def note(_module: object, _inputs: object, out: object) -> None:
        if isinstance(out, Tensor):
            written.append(out.numel())

    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        networks(raw)
    for hook in hooks:
        hook.remove()
    # Activations of two bytes, written and read once.
    return Work(raw.nbytes, float(counter.get_total_flops()), 4.0 * max(1, sum(written)))


# --- one bundle ---------------------------------------------------------------------------------------


class Bench:
    """A ring of events in shared memory and the runner of the inference stage over it."""

    def __init__(self, folder: Path) -> None:
        self.bundle = load_bundle(folder)
        manifest = self.bundle.manifest
        self.batches = FRAME_BATCHES if len(manifest.input_shape) > 1 else SPECTRUM_BATCHES
        self.frames = _ring(manifest, self.batches[-1])
        golden = self.bundle.golden_input.numpy()
        for slot in self.frames:
            slot[:] = np.resize(golden, slot.shape)
        device = torch.device("cuda")
        self.runner = CudaRunner([self.bundle], self.frames, self.batches[-1], device)
        self.router = _router(manifest.columns)

    def rates(self, batch: int) -> list[float]:
        return [self._rate(batch) for _ in range(REPEATS)]

    def _rate(self, batch: int) -> float:
        """Events a second with as many batches under way as the stage keeps."""
        events, step, pending = 0, 0, []
        start_s = time.perf_counter()
        while time.perf_counter() < start_s + WINDOW_S:
            pending.append(self.runner.submit([self.frames[step % len(self.frames), :batch]]))
            step += 1
            if len(pending) == self.runner.depth:
                events += len(pending.pop(0).wait())
        events += sum(len(one.wait()) for one in pending)
        return events / (time.perf_counter() - start_s)

    def verdict_seconds(self, n: int) -> list[float]:
        """From a block in the ring to its verdicts, one block at a time."""
        columns, seconds = self.bundle.manifest.columns, []
        train_id, pulse_id = np.ones(n, np.uint64), np.arange(n, dtype=np.uint64)
        for step in range(SINGLE_BLOCKS):
            begin_s = time.perf_counter()
            packed = self.runner.submit([self.frames[step % len(self.frames), :n]]).wait()
            self.router.decide(split(packed, columns), train_id, pulse_id)
            seconds.append(time.perf_counter() - begin_s)
        return seconds[SINGLE_BLOCKS // 10 :]  # the first ones warm up


def _ring(manifest: Manifest, events: int) -> np.ndarray[Any, np.dtype[Any]]:
    dtype = np.dtype(manifest.input_dtype)
    slot_bytes = events * int(np.prod(manifest.input_shape)) * dtype.itemsize
    layout = RingLayout(max(4, RING_BYTES // slot_bytes), events, manifest.input_shape, dtype)
    frames: np.ndarray[Any, np.dtype[Any]] = Ring(
        memory.attach(memory.create("bench", layout.size_bytes)), layout
    ).frames
    return frames


def _router(columns: Sequence[Column]) -> Router:
    return Router([Route("sample", None, 100)], Vocabulary(columns), 1, "bench")


def measure(folder: str) -> Mapping[str, Any]:
    """Everything about one bundle, in plain values."""
    bench = Bench(Path(folder))
    uploads = upload_rate(bench.frames)
    limits = ceilings(max(uploads.values()))
    per_event = work(bench.bundle)
    return {
        "name": bench.bundle.manifest.name,
        "uploads": uploads,
        "ceilings": asdict(limits),
        "work": asdict(per_event),
        "limits": limits.events_per_s(per_event),
        "rates": {str(batch): bench.rates(batch) for batch in bench.batches},
        "latency": {str(n): quantiles_ms(bench.verdict_seconds(n)) for n in (1, 64)},
    }


# --- the table ----------------------------------------------------------------------------------------


def lines(found: Mapping[str, Any]) -> Iterator[Line]:
    name, limits = found["name"], found["limits"]
    bound = min(limits, key=lambda kind: float(limits[kind]))
    for size, rate in found["uploads"].items():
        yield Line("upload from the registered ring", size, "GB/s", _one(rate / 1e9))
    for batch, rates in found["rates"].items():
        summary = measured(rates)
        share = summary.median / limits[bound]
        note = f"{share:.0%} of the roofline, {show(limits[bound])} events/s by {bound}"
        yield Line(name, f"batch {batch}", "events/s", summary, note, {"share": share, **limits})
    for n, quantiles in found["latency"].items():
        note = ", ".join(f"{key.replace('_', '.')} {show(value)}" for key, value in quantiles.items())
        row = f"{name}: block of {n}, ring to verdict"
        yield Line(row, "CudaRunner + routes", "ms (p50)", _one(quantiles["p50"]), note, quantiles)


def _one(value: float) -> Measured:
    return Measured(value, value, value, 1)


def bundles(folder: Path) -> list[Path]:
    """Every shipped bundle; the classifier with fresh weights where none is."""
    shipped = sorted(path.parent for path in SHIPPED.glob("*/manifest.json"))
    return shipped or [classifier(folder)]


def main() -> int:
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to measure here (python -m benchmarks measures the CPU)")
        return 0
    about = header() | {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    table: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for path in bundles(Path(folder)):
            try:
                with Helper("benchmarks.gpu", {"folder": str(path)}) as helper:
                    table += lines(helper.hello)
            except BenchmarkError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
    print(f"{about['date']}, commit {about['commit']}, {about['gpu']}, torch {torch.__version__}")
    print_lines(table)
    print(f"\nwritten to {write(ROOT / 'benchmarks' / 'results', '-gpu', about, table)}")
    return 0 if table else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        say(measure(**options()))
    else:
        sys.exit(main())
