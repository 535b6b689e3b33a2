"""The networks of a stream on a CUDA device: fixed batch sizes, a graph for each, two batches in flight.

Owns page-locked memory, streams, graphs and their batch sizes. The plain loop beside it is
`runner.CpuRunner`. B batch, R packed width.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import BFLOAT16, Bundle, verify_golden
from models.manifest import BundleError
from streamer.device import Packed, Pending, Raw
from streamer.networks import Networks, channels_last

log = logging.getLogger(__name__)

# Addresses that are page-locked: a swap finds the ring as the first runner left it.
_registered: set[int] = set()

# A copy to the device costs the host some 5 us whatever its size; the host copies 64 KiB in that time.
GATHER_BYTES: Final = 64 << 10
_CAST_BY_AUTOCAST: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class CudaRunner:
    """Fixed batch sizes, one CUDA graph each, two batches in flight, an event instead of a synchronise.

    `frames` is the ring's array of frames: its memory is registered with CUDA once (page-locked), so that
    uploads are asynchronous and of raw integers. Preprocessing, networks and the one packed download are in
    the graph; the uploads are outside it, because a batch lies wherever its slots lie.

    A lane is used again `depth` batches later: whoever submits waits for the oldest batch first. What the
    lane holds for it (staging, static input, pinned output) is written on the lane's one stream, in order.
    """

    depth = 2

    def __init__(self, bundles: Sequence[Bundle], frames: Raw, max_events: int, device: torch.device) -> None:
        self._largest, self._next = max_events, 0
        self._lanes: list[Lane] = []
        # Registering, captures, events and pools all go to the device that is current.
        with torch.cuda.device(device):
            register(frames, device)
            networks = channels_last(Networks(bundles)).to(device)
            undo = cast_once(networks, torch.from_numpy(frames[0, :1]).to(device))
            try:
                self._prepare(under_autocast(networks), bundles, frames, device)
            except BundleError as error:
                log.warning("bfloat16 is too coarse, so float32, which is slower: %s", error)
                undo()
                self._prepare(networks, bundles, frames, device)

    def _prepare(
        self, run: Callable[[Tensor], Tensor], bundles: Sequence[Bundle], frames: Raw, device: torch.device
    ) -> None:
        """The lanes, with golden answers. Raises BundleError."""
        self._lanes.clear()
        torch.cuda.synchronize(device)  # what was done so far ran on another stream than the lanes'
        shape, sizes = (self._largest, *frames.shape[2:]), graph_sizes(self._largest)
        dtype = torch.from_numpy(frames[:0]).dtype
        self._lanes += [Lane(run, shape, dtype, sizes, device) for _ in range(self.depth)]
        self._verify(bundles, device)

    def submit(self, blocks: Sequence[Raw]) -> Pending:
        lane = self._lanes[self._next]
        self._next = (self._next + 1) % self.depth
        return lane.submit(blocks)

    def _verify(self, bundles: Sequence[Bundle], device: torch.device) -> None:
        """The golden answers, from the graphs of every lane. Raises BundleError."""
        for lane in self._lanes:
            start = 0
            for bundle in bundles:
                columns = slice(start, start + bundle.manifest.packed_width)
                where = f"{bundle.manifest.name} on {device}"
                verify_golden(bundle, lane.answers(self._largest, columns), BFLOAT16, where)
                start = columns.stop


class Lane:
    """One of the batches in flight: its stream, its static input and output, a graph for each batch size."""

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        sizes: Sequence[int],
        device: torch.device,
    ) -> None:
        self._stream = torch.cuda.Stream(device)
        # By way of bytes: on a device torch fills few of the unsigned types.
        in_bytes = (*shape[:-1], shape[-1] * dtype.itemsize)
        self._input = torch.zeros(in_bytes, dtype=torch.uint8, device=device).view(dtype)
        small = self._input[0].nbytes <= GATHER_BYTES
        self._staging = torch.empty(shape, dtype=dtype, pin_memory=True) if small else None
        self._sizes = sizes
        self._event = torch.cuda.Event()
        self._n, self._size = 0, sizes[0]
        # One memory pool a lane: its graphs never run at once, those of two lanes do. Nothing lives from one
        # graph to the next, so they may be replayed in any order.
        pool = torch.cuda.graph_pool_handle()
        # Largest first: the later graphs fit into the memory that it took.
        graphs = {size: self._capture(run, size, pool) for size in reversed(sizes)}
        self._graphs = {size: graph for size, (graph, _) in graphs.items()}
        self._outputs = {size: output for size, (_, output) in graphs.items()}

    def _capture(
        self, run: Callable[[Tensor], Tensor], size: int, pool: Any
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        raw = self._input[:size]

        def forward() -> Tensor:
            with torch.inference_mode():
                return run(raw)

        with torch.cuda.stream(self._stream):
            width = [forward() for _ in range(3)][-1].shape[1]  # warm-up: libraries choose their kernels
        self._stream.synchronize()
        output = torch.empty((size, width), dtype=torch.float32, pin_memory=True)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a swap captures in its own thread while the stream goes on in another.
        with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
            output.copy_(forward(), non_blocking=True)
        return graph, output

    def submit(self, blocks: Sequence[Raw]) -> Pending:
        n = sum(map(len, blocks))
        if n > len(self._input):
            # Checked before anything is queued: the lane stays as it was.
            raise ValueError(f"a batch on the device: expected at most {len(self._input)} events, got {n}")
        self._n, self._size = n, next(size for size in self._sizes if size >= n)
        with torch.cuda.stream(self._stream):
            self._upload(blocks)
            self._graphs[self._size].replay()
            self._event.record(self._stream)
        return self

    def _upload(self, blocks: Sequence[Raw]) -> None:
        """One copy a block, straight from the ring; many small blocks are put side by side first."""
        if self._staging is not None and gathered(blocks, self._staging.numpy()):
            blocks = [self._staging.numpy()[: self._n]]
        start = 0
        for block in blocks:
            self._input[start : start + len(block)].copy_(torch.from_numpy(block), non_blocking=True)
            start += len(block)

    def done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> Packed:
        self._event.synchronize()
        packed: Packed = self._outputs[self._size][: self._n].numpy().copy()
        return packed

    def answers(self, largest: int, columns: slice) -> Callable[[Tensor], Tensor]:
        """Raw [B, *event] on the CPU -> these columns of the packed results, from this lane's graphs."""

        def run(raw: Tensor) -> Tensor:
            packed = [self.submit([part.numpy()]).wait() for part in raw.split(largest)]
            return torch.from_numpy(np.concatenate(packed)[:, columns])

        return run


def graph_sizes(largest: int) -> list[int]:
    """Batch sizes with a graph of their own, ascending: powers of two, from 8 on the middle between two, and
    the largest itself. A batch is padded to the next one: a train of 352 to nothing, not to 512.
    """
    powers = [1 << power for power in range(largest.bit_length())]
    middles = [power + power // 2 for power in powers if power >= 8]
    return sorted({size for size in (*powers, *middles) if size < largest} | {largest})


def gathered(blocks: Sequence[Raw], staging: Raw) -> bool:
    """Put blocks that are small on average side by side into `staging`; False if they are left where they
    lie."""
    if len(blocks) < 2 or sum(block.nbytes for block in blocks) > GATHER_BYTES * len(blocks):
        return False
    np.concatenate(blocks, out=staging[: sum(map(len, blocks))])
    return True


def under_autocast(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same in bfloat16 where that is enough; packed float32 as before."""

    def coarse(raw: Tensor) -> Tensor:
        with torch.autocast(raw.device.type, torch.bfloat16, cache_enabled=False):
            return run(raw).float()

    return coarse


def cast_once(networks: nn.Module, raw: Tensor) -> Callable[[], None]:
    """Keep the weights of convolutions and linear layers in bfloat16 where autocast would cast them; gives
    what undoes it.

    Autocast casts weights that need no gradient in every call (its cache holds only those that do), so every
    replay of a graph would: a kernel for each weight, and its bytes twice. The numbers are the same. A layer
    that runs with autocast off keeps float32; so does one that a network calls by its weight.
    """
    layers = [module for module in networks.modules() if isinstance(module, _CAST_BY_AUTOCAST)]
    under: dict[nn.Module, bool] = {}

    def note(module: nn.Module, _inputs: Any) -> None:
        under[module] = under.get(module, True) and torch.is_autocast_enabled(raw.device.type)

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.inference_mode():
            under_autocast(networks)(raw)
    finally:
        for hook in hooks:
            hook.remove()
    cast = [layer for layer, always in under.items() if always]
    kept = [(p, p.data) for layer in cast for p in layer.parameters(recurse=False)]
    for parameter, data in kept:
        parameter.data = data.to(torch.bfloat16)

    def undo() -> None:
        for parameter, data in kept:
            parameter.data = data

    return undo


def register(frames: Raw, device: torch.device) -> None:
    """Page-lock the memory of `frames` for CUDA. Slow, so once, before the stage is ready.

    torch has no call that locks memory in place (pytorch#32167), so the runtime's own is used.
    """
    whole = frames.base if isinstance(frames.base, np.ndarray) else frames
    if whole.ctypes.data in _registered:
        return
    code = int(torch.cuda.cudart().cudaHostRegister(whole.ctypes.data, whole.nbytes, 0))
    _registered.add(whole.ctypes.data)
    if code:
        log.warning("cudaHostRegister gave error %d: uploads will be slower (unlocked memory)", code)
        # The runtime keeps the error for the next kernel to report as its own; this kernel takes it.
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=device)
