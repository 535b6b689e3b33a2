"""The networks of one stream on one device: raw events in, one packed matrix of results out.

Owns the device: how the bundles share one upload, one preprocessing where they agree, and one download.
Knows no sockets, no slots and no rules. Two runners with one interface: the CPU's is a plain loop around an
engine (`engines.choice`), the CUDA one has the same shape with fixed batch sizes, a graph for each, and two
batches in flight.

B batch, R packed width.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.bundle import BFLOAT16, Bundle, verify_golden
from models.manifest import BundleError
from streamer.engines.choice import fastest, named

Raw = npt.NDArray[Any]
Packed = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

# Once: torch's own number is what the last load has set.
_CORES = len(os.sched_getaffinity(0))

# Addresses that are page-locked: a swap finds the ring as the first runner left it.
_registered: set[int] = set()

# A copy to the device costs the host some 5 us whatever its size; the host copies 64 KiB in that time.
GATHER_BYTES: Final = 64 << 10
_CAST_BY_AUTOCAST: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Pending(Protocol):
    """A batch under way."""

    def done(self) -> bool: ...

    def wait(self) -> Packed:
        """The packed results [B, R]."""


class Runner(Protocol):
    """What inference needs of a device."""

    depth: int
    """Batches that may be under way at once."""

    def submit(self, blocks: Sequence[Raw]) -> Pending:
        """Begin a batch: the events of all blocks in order, each [n, *event]."""


class Networks(nn.Module):
    """All bundles of a stream as one module: raw [B, *event] -> packed float32 [B, R].

    Bundles whose preprocessing is the same share it.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        super().__init__()
        self._keys = [bundle.preprocess_key for bundle in bundles]
        self._steps = nn.ModuleDict({bundle.preprocess_key: bundle.preprocess for bundle in bundles})
        self._networks = nn.ModuleList(bundle.network for bundle in bundles)

    def forward(self, raw: Tensor) -> Tensor:
        ready = {key: steps(raw) for key, steps in self._steps.items()}
        packed = [net(ready[key]) for key, net in zip(self._keys, self._networks, strict=True)]
        return torch.cat(packed, dim=1)


@dataclass(frozen=True)
class Finished:
    """A batch that is ready: what the CPU gives."""

    packed: Packed

    def done(self) -> bool:
        return True

    def wait(self) -> Packed:
        return self.packed


class NoRunner:
    """A stream without bundles: every event gets an empty row, and the routes decide on ids and scalars."""

    depth = 1

    def submit(self, blocks: Sequence[Raw]) -> Pending:
        return Finished(np.empty((sum(map(len, blocks)), 0), np.float32))


class CpuRunner:
    """The plain loop around an engine. `mode` None: the one that is fastest here (`streamer.engines`)."""

    depth = 1

    def __init__(self, bundles: Sequence[Bundle], max_events: int, mode: str | None = None) -> None:
        networks = channels_last(Networks(bundles))
        if mode is None:
            self._engine = fastest(networks, bundles, max_events)
        else:
            self._engine = named(mode, networks, bundles, max_events)
        self._max_events = max_events
        self._buffer: Raw = np.empty((0, *bundles[0].manifest.input_shape))

    @property
    def mode(self) -> str:
        return self._engine.name

    def submit(self, blocks: Sequence[Raw]) -> Pending:
        parts = [self._engine.run(self._gathered(part)) for part in batches(blocks, self._max_events)]
        return Finished(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _gathered(self, blocks: Sequence[Raw]) -> Raw:
        """The events side by side: where they lie if they do already, else copied."""
        first, n = blocks[0], sum(map(len, blocks))
        if len(blocks) == 1 and first.flags.carray:
            return first
        if self._buffer.dtype != first.dtype or len(self._buffer) < n:
            self._buffer = np.empty((n, *first.shape[1:]), first.dtype)
        return np.concatenate(blocks, out=self._buffer[:n])


def batches(blocks: Sequence[Raw], max_events: int) -> Iterator[list[Raw]]:
    """The blocks in order, in groups of at most `max_events` events; only a larger block is cut."""
    group: list[Raw] = []
    for block in blocks:
        for start in range(0, len(block), max_events):
            part = block[start : start + max_events]
            if sum(map(len, group)) + len(part) > max_events:
                yield group
                group = []
            group.append(part)
    yield group


def channels_last(networks: Networks) -> Networks:
    """Convolutions are faster with the channels of a pixel side by side (docs/decisions/cpu-inference.md)."""
    for parameter in networks.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return networks.eval()


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


@dataclass(frozen=True)
class Wanted:
    """How the networks of a stream shall run."""

    max_events: int
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    threads: int = 0  # of a CPU; 0: the cores less one
    engine: str | None = None  # of a CPU: one that was chosen before; None: choose


def make_runner(bundles: Sequence[Bundle], frames: Raw, wanted: Wanted) -> Runner:
    """The runner for a device. Raises BundleError when golden answers differ."""
    if not bundles:
        return NoRunner()
    device = wanted.device
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        largest = max(wanted.max_events, frames.shape[1])  # a block is never cut, so the largest must fit
        return CudaRunner(bundles, frames, largest, torch.device("cuda" if device == "auto" else device))
    torch.set_num_threads(wanted.threads or default_threads())
    try:
        return CpuRunner(bundles, wanted.max_events, wanted.engine)
    except (ValueError, BundleError) as error:
        if wanted.engine is None:
            raise
        log.warning("the engine chosen before is not used again: %s", error)
    return CpuRunner(bundles, wanted.max_events)


def default_threads() -> int:
    """All cores but one, which the wire and the files need."""
    return max(1, _CORES - 1)
