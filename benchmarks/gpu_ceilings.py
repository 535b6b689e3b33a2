"""What a CUDA device can do at most, measured, and what an event of a bundle costs.

    upload       raw bytes of an event over the measured host-to-device rate from registered memory
    arithmetic   multiply-adds x 2 of an event over the measured rate of a bfloat16 matrix product
    memory       activations in bfloat16, written once and read once (normalisation and activation function
                 within the kernel before them), over the measured copy rate

Knows neither runner nor table. Imports nothing of the stream but its shared memory.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from models.bundle import Bundle
from streamer import memory
from streamer.networks import Networks

REPEATS: Final = 5
# More than the device's cache holds (60 MB on an H200), so that uploads and copies go to memory.
RING_BYTES: Final = 512 << 20
MATRIX: Final = 8192
# Layers that work number by number, or with two numbers a channel: the ceiling is that of fused kernels.
ON_THE_WAY: Final = (_BatchNorm, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Identity, nn.Dropout)


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


def work(bundle: Bundle) -> Work:
    """Counted on the CPU, where the bundle must be: the operations of one event, and the sizes of what its
    layers write, less what a kernel can do on the way. What a network computes outside layers (a Fourier
    transform, a gather) is not counted.
    """
    raw = bundle.golden_input[:1]
    written: list[int] = []
    networks = Networks([bundle]).eval()
    leaves = [m for m in networks.modules() if not list(m.children()) and not isinstance(m, ON_THE_WAY)]

    def note(_module: object, _inputs: object, out: object) -> None:
        if isinstance(out, Tensor):
            written.append(out.numel())

    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        networks(raw)
    for hook in hooks:
        hook.remove()
    # Activations of two bytes, written and read once.
    return Work(raw.nbytes, float(max(1, counter.get_total_flops())), 4.0 * max(1, sum(written)))


def shared_frames(shape: Sequence[int], events: int, dtype: str) -> npt.NDArray[Any]:
    """[slots, events, *shape] in a shared memory of about RING_BYTES: what a ring's frames are."""
    slot_bytes = events * prod(shape) * np.dtype(dtype).itemsize
    slots = max(4, RING_BYTES // slot_bytes)
    whole = np.frombuffer(memory.attach(memory.create("bench", slots * slot_bytes)), dtype)
    return whole.reshape(slots, events, *shape)


def ceilings(upload_bytes_per_s: float) -> Ceilings:
    a = torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(a)
    product_s = _seconds(lambda: torch.matmul(a, a, out=out), 5)
    big = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    half = len(big) // 2
    copy_s = _seconds(lambda: big[:half].copy_(big[half:]), 5)
    return Ceilings(upload_bytes_per_s, 2 * MATRIX**3 / product_s, 2 * half / copy_s)


def upload_rates(frames: npt.NDArray[Any]) -> dict[str, float]:
    """Bytes a second from registered memory to the device, by size of one copy."""
    host = torch.from_numpy(frames.reshape(-1).view(np.uint8))
    device = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    rates = {}
    for size in (32 << 10, 1 << 20, 8 << 20, 64 << 20):
        parts = [host[start : start + size] for start in range(0, len(host) - size + 1, size)][:64]

        def upload(parts: Sequence[Tensor] = parts, size: int = size) -> None:
            for one in parts:
                device[:size].copy_(one, non_blocking=True)

        rates[f"{size >> 10} KiB"] = len(parts) * size / _seconds(upload, 4)
    return rates


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
