"""One bundle on the device, in a process of its own: asked by `benchmarks.gpu`, answers in plain values.

Owns how rates and latencies are taken, and the contenders to the runner of the stage:

    served      as the inference stage runs it
    searched    the same, with convolution algorithms tried out (cudnn.benchmark) instead of looked up
    fused       besides that, torch.compile's fused kernels
    compiled    besides that, kernels tried out by torch.compile (max-autotune)

All are captured by hand: torch.compile's own graphs cost more to launch than small networks take
(pytorch#150488).
Imports neither ZeroMQ nor pydantic, which a machine lent for a measurement may not have.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu_ceilings import ceilings, shared_frames, upload_rates, work
from benchmarks.helper import options, say
from models.bundle import BFLOAT16, Bundle, load_bundle, verify_golden
from models.manifest import Column
from streamer.columns import split
from streamer.cuda import CudaRunner, Lane, cast_once, register, under_autocast
from streamer.device import Pending, Runner
from streamer.networks import Networks, channels_last
from streamer.routing import Route, Router
from streamer.rules import Vocabulary

Frames = npt.NDArray[Any]

FRAME_BATCHES: Final = (1, 32, 128, 512)
# Small events need more of them to fill a device, and to pay for the Python of a batch.
SPECTRUM_BATCHES: Final = (1, 256, 2048, 8192)
SMALL_BLOCKS: Final = 256
# Contender -> mode of torch.compile; none: not compiled.
COMPILED: Final = {"searched": "", "fused": "default", "compiled": "max-autotune-no-cudagraphs"}
PERIOD_S: Final = 1e-3  # a block each millisecond


@dataclass(frozen=True)
class Effort:
    """repeats of a rate, seconds of each, blocks of a latency."""

    repeats: int = 3
    window_s: float = 0.3
    blocks: int = 500


class OneSize:
    """Two lanes with one batch size, of any networks: the runner's shape without its load of every size."""

    depth = 2

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], like: Frames) -> None:
        device, dtype = torch.device("cuda"), torch.from_numpy(like[:0]).dtype
        size, *shape = like.shape[1:]
        self.lanes = [Lane(run, (size, *shape), dtype, [size], device) for _ in range(self.depth)]
        self._next = 0

    def submit(self, blocks: Sequence[Frames]) -> Pending:
        self._next = (self._next + 1) % self.depth
        return self.lanes[self._next].submit(blocks)


@dataclass
class Bench:
    """Events in a ring [slots, events, *event], a runner over it, and routes behind it."""

    frames: Frames
    runner: Runner
    columns: Sequence[Column]
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        self.router = Router([Route("sample", None, 100)], Vocabulary(self.columns), 1, "bench")
        events = max(SMALL_BLOCKS, self.frames.shape[1])
        self.train_id, self.pulse_id = np.ones(events, np.uint64), np.arange(events, dtype=np.uint64)

    def rates(self, batch: int) -> list[float]:
        """Events a second to their verdicts, in batches of one block."""
        return self._repeated(lambda step: [self.frames[step % len(self.frames), :batch]])

    def small(self) -> list[float]:
        """The same in batches of blocks of one event, each in another slot or place."""
        slots, events = self.frames.shape[:2]
        n = min(SMALL_BLOCKS, events)
        return self._repeated(lambda step: [self.frames[(step + i) % slots, i : i + 1] for i in range(n)])

    def _repeated(self, blocks: Callable[[int], list[Frames]]) -> list[float]:
        return [self._rate(blocks) for _ in range(self.effort.repeats)]

    def _rate(self, blocks: Callable[[int], list[Frames]]) -> float:
        """With as many batches under way as the stage keeps."""
        events, step, pending = 0, 0, []
        start_s = time.perf_counter()
        while time.perf_counter() < start_s + self.effort.window_s:
            pending.append(self.runner.submit(blocks(step)))
            step += 1
            if len(pending) == self.runner.depth:
                events += self._decide(pending.pop(0))
        events += sum(self._decide(one) for one in pending)
        return events / (time.perf_counter() - start_s)

    def _decide(self, pending: Pending) -> int:
        packed = pending.wait()
        n = len(packed)
        self.router.decide(split(packed, self.columns), self.train_id[:n], self.pulse_id[:n])
        return n

    def verdict_seconds(self, n: int) -> list[float]:
        """From a block in the ring to its verdicts, one block each PERIOD_S, or as fast as it goes."""
        seconds, due_s = [], time.perf_counter()
        for step in range(self.effort.blocks):
            while time.perf_counter() < due_s:
                pass  # the due time is nearer than a sleep is exact
            begin_s = time.perf_counter()
            self._decide(self.runner.submit([self.frames[step % len(self.frames), :n]]))
            seconds.append(time.perf_counter() - begin_s)
            due_s = max(due_s + PERIOD_S, time.perf_counter())
        return seconds[len(seconds) // 10 :]  # the first ones warm up


def batches(bundle: Bundle) -> tuple[int, ...]:
    return FRAME_BATCHES if len(bundle.manifest.input_shape) > 1 else SPECTRUM_BATCHES


def filled(bundle: Bundle, events: int) -> Frames:
    """A ring with the golden events, again and again."""
    frames = shared_frames(bundle.manifest.input_shape, events, bundle.manifest.input_dtype)
    golden = bundle.golden_input.numpy()
    frames[:] = golden[np.arange(events) % len(golden)]
    return frames


def served(folder: Path) -> Mapping[str, Any]:
    """The runner of the stage: rates by batch, latencies, and what an event costs."""
    bundle = load_bundle(folder)
    per_event = work(bundle)  # before the runner takes the bundle to the device
    sizes = batches(bundle)
    frames = filled(bundle, sizes[-1])
    runner = CudaRunner([bundle], frames, sizes[-1], torch.device("cuda"))
    return found(Bench(frames, runner, bundle.manifest.columns), sizes) | {
        "name": bundle.manifest.name,
        "work": asdict(per_event),
    }


def found(bench: Bench, sizes: Sequence[int]) -> dict[str, Any]:
    return {
        "rates": {str(batch): bench.rates(batch) for batch in sizes},
        "small": bench.small(),
        "latency_s": {str(n): bench.verdict_seconds(n) for n in (1, 64)},
    }


def contender(folder: Path, kind: str) -> Mapping[str, Any]:
    """The largest batch as a key of COMPILED. Raises BundleError for wrong answers."""
    bundle = load_bundle(folder)
    largest = batches(bundle)[-1]
    frames, device = filled(bundle, largest), torch.device("cuda")
    register(frames, device)
    networks = channels_last(Networks([bundle])).to(device)
    cast_once(networks, torch.from_numpy(frames[0, :1]).to(device))
    torch.cuda.synchronize()
    torch.backends.cudnn.benchmark = True
    run: Callable[[torch.Tensor], torch.Tensor] = networks
    if COMPILED[kind]:
        run = torch.compile(networks, mode=COMPILED[kind], dynamic=False)
    runner = OneSize(under_autocast(run), frames)
    for lane in runner.lanes:
        verify_golden(bundle, lane.answers(largest, slice(None)), BFLOAT16, f"{folder.name} {kind}")
    bench = Bench(frames, runner, bundle.manifest.columns)
    return {"batch": largest, "rates": bench.rates(largest)}


def device() -> Mapping[str, Any]:
    """What the device is and can do at most."""
    frames = shared_frames((128, 128), 512, "uint16")
    frames[:] = 1  # every page is there
    register(frames, torch.device("cuda"))
    uploads = upload_rates(frames)
    limits = ceilings(max(uploads.values()))
    about = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "torch": torch.__version__}
    return about | {"uploads": uploads, "ceilings": asdict(limits)}


def answer(kind: str, folder: Path) -> Mapping[str, Any]:
    """Whatever fails is an answer too: the table names the reason."""
    try:
        if kind == "device":
            return device()
        return served(folder) if kind == "served" else contender(folder, kind)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return {"error": f"{type(error).__name__}: {first[:200]}"}


def main() -> None:
    """One line when ready, one line with the answer; whatever else writes to stdout goes to stderr."""
    asked = options()
    say({"ready": os.getpid()})
    sys.stdin.readline()
    with contextlib.redirect_stdout(sys.stderr):
        result = answer(asked["kind"], Path(asked["folder"]))
    say(result)


if __name__ == "__main__":
    main()
