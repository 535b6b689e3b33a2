"""Networks in OpenVINO: each batch size compiled for itself, and a batch made up of those sizes.

Owns the way from a torch module to a compiled network and the cover of a batch. Does not own the choice
(`engines.choice`). OpenVINO reads what torch.jit.trace recorded, through its own front end: `convert_model`
would do the same behind a telemetry client and takes ten times as long.

A network compiled for one batch size is a quarter faster than one for any size, and no size is met for the
first time while the stream runs. B batch, R packed width.
"""

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, TypeAlias

# ruff: noqa: E402
# Its telemetry looks a host of the outside world up and writes to the user's home; without that package
# OpenVINO takes a stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import numpy as np
import openvino as ov  # type: ignore[import-untyped]  # ships no types
import torch
from openvino.frontend import FrontEndManager  # type: ignore[import-untyped]
from openvino.frontend.pytorch.ts_decoder import (  # type: ignore[import-untyped]
    TorchScriptPythonDecoder,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from streamer.engines.plain import Events, Packed, Run, engine_clock

Rewrite: TypeAlias = Callable[..., Tensor | None]

# Best of so many runs says what a size costs; the first chooses kernels and is left out.
RUNS: Final = 3


class OpenVinoSource:
    """The networks as OpenVINO takes them, one model a batch size; float32 and bfloat16 share them."""

    def __init__(self, networks: nn.Module, event_shape: tuple[int, ...]) -> None:
        self.core = ov.Core()
        self.event_shape = event_shape
        self._networks = networks
        self._models: dict[int, Any] = {}

    def model(self, size: int) -> Any:
        """The networks for batches of `size`. Raises OpenVINO's own error for an operation that it lacks."""
        if size not in self._models:
            self._models[size] = self._converted(size)
        return self._models[size]

    def _converted(self, size: int) -> Any:
        example = torch.zeros(size, *self.event_shape)
        # Sizes become constants of the trace: that is wanted here, and torch warns of it.
        with warnings.catch_warnings(), torch.inference_mode(), Rewritten():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(self._networks, (example,), check_trace=False)
            decoder = TorchScriptPythonDecoder(traced, example_input=(example,))
            front_end = FrontEndManager().load_by_framework("pytorch")
            model = front_end.convert(front_end.load(decoder))
        model.reshape(ov.PartialShape([size, *self.event_shape]))
        model.inputs[0].get_node().set_element_type(ov.Type.f32)
        model.validate_nodes_and_infer_types()
        return model


class OpenVinoEngine:
    """One precision on so many threads."""

    def __init__(self, source: OpenVinoSource, name: str, exact: bool, threads: int) -> None:
        self.name, self.exact, self._source = name, exact, source
        self._options = {
            "INFERENCE_PRECISION_HINT": "f32" if exact else "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the wire's thread may be where it would settle
        }
        self._sized: dict[int, _Sized] = {}
        self._covers: list[tuple[int, ...]] = []
        self._cuts: dict[int, list[tuple[int, int, int]]] = {}

    def prepare(self, sizes: Sequence[int]) -> None:
        for size in sizes:
            if size not in self._sized:
                model = self._source.model(size)
                compiled = self._source.core.compile_model(model, "CPU", self._options)
                self._sized[size] = _Sized(compiled, size, self._source.event_shape)
        self._covers = covers({size: sized.seconds for size, sized in self._sized.items()})
        self._cuts = {}

    def run(self, events: Events) -> Packed:
        n = len(events)
        if n not in self._cuts:
            self._cuts[n] = self._cut(n)
        parts = [self._sized[size].run(events[start:end]) for start, end, size in self._cuts[n]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def forms(self) -> Sequence[Run]:
        return [sized.run_all for sized in self._sized.values()]

    def _cut(self, n: int) -> list[tuple[int, int, int]]:
        """First and last event of each part of a batch of n, and the size that runs it."""
        largest = len(self._covers) - 1
        sizes = self._covers[largest] * (n // largest) + self._covers[n % largest]
        ends = accumulate(sizes)
        return [(end - size, min(end, n), size) for end, size in zip(ends, sizes, strict=True)]


class _Sized:
    """The networks compiled for one batch size, with their input and output."""

    def __init__(self, compiled: Any, size: int, event_shape: tuple[int, ...]) -> None:
        self._request = compiled.create_infer_request()
        self._input = np.zeros((size, *event_shape), np.float32)
        self._output = np.zeros(tuple(compiled.outputs[0].shape), np.float32)
        self._request.set_input_tensor(ov.Tensor(self._input, shared_memory=True))
        self._request.set_output_tensor(ov.Tensor(self._output, shared_memory=True))
        self.seconds = self._best_s()

    def run(self, events: Events) -> Packed:
        """Packed [B, R] of up to `size` events; fewer are filled up.

        Copied and converted to float32 in one pass. To hand over the memory where the events lie costs more
        up to 16 events, as OpenVINO prepares anew for it, and as much for 64.
        """
        n = len(events)
        self._input[:n] = events
        self._request.infer(share_outputs=True)  # else it copies them into a dict
        return self._output[:n].copy()

    def run_all(self, events: Events) -> Packed:
        """A batch of any length in this size alone."""
        size = len(self._input)
        return np.concatenate(
            [self.run(events[start : start + size]) for start in range(0, len(events), size)]
        )

    def _best_s(self) -> float:
        clock, best_s = engine_clock(), math.inf
        self.run(self._input)
        for _ in range(RUNS):
            start_s = clock()
            self.run(self._input)
            best_s = min(best_s, clock() - start_s)
        return best_s


def covers(seconds: Mapping[int, float]) -> list[tuple[int, ...]]:
    """For each number of events up to the largest size the sizes that run them soonest, largest first.

    seconds: what a batch of each size takes. The last size of a cover may be filled up.
    """
    best_s: list[float] = [0.0]
    best: list[tuple[int, ...]] = [()]
    for n in range(1, max(seconds) + 1):
        size = min(seconds, key=lambda size: seconds[size] + best_s[max(0, n - size)])
        left = max(0, n - size)
        best_s.append(seconds[size] + best_s[left])
        best.append(tuple(sorted((size, *best[left]), reverse=True)))
    return best


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# --- what OpenVINO is told instead ------------------------------------------------------------------------


class Rewritten(TorchFunctionMode):
    """Says some operations in other words while a network is traced. Values are the same up to rounding."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rewrite = REWRITES.get(func)
        other = rewrite(*args, **kwargs or {}) if rewrite else None
        return func(*args, **kwargs or {}) if other is None else other


def _same_order(x: Tensor, memory_format: torch.memory_format | None = None) -> Tensor | None:
    """The order in memory is the engine's own matter."""
    return None if memory_format is None else x


def _same_places(x: Tensor, size: Sequence[int], stride: Sequence[int], *more: Any) -> Tensor | None:
    """Strides said anew for axes of length 1 (`models.networks.layout`): OpenVINO would gather pixels."""
    moved = [b for n, a, b in zip(x.shape, x.stride(), stride, strict=False) if n > 1 and a != b]
    return None if more or tuple(size) != tuple(x.shape) or moved else x


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    """Not known to OpenVINO 2026.4."""
    return torch.sqrt(x * x + y * y)


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor | None:
    """Not known to OpenVINO 2026.4; of the last two axes."""
    if offset or (dim1, dim2) != (-2, -1) or x.shape[-1] != x.shape[-2]:
        return None
    return _last_sum(x * torch.eye(x.shape[-1]), -1)


def _diag_embed(x: Tensor, *more: Any, **others: Any) -> Tensor | None:
    """Not known to OpenVINO 2026.4."""
    return None if more or others else x.unsqueeze(-1) * torch.eye(x.shape[-1])


def _last_sum(x: Tensor, dim: Any = None, *more: Any, **others: Any) -> Tensor | None:
    """A sum over the last axis as a product with ones.

    OpenVINO 2026.4 answers wrongly for [B, C, N].sum(2) + bias[C]: it joins the two and adds bias[0] to all.
    """
    last = isinstance(dim, int) and dim in (-1, x.ndim - 1) and x.ndim > 2 and x.is_floating_point()
    return (x @ torch.ones(x.shape[-1], 1))[..., 0] if last and not more and not others else None


REWRITES: Final[Mapping[Any, Rewrite]] = {
    torch.Tensor.contiguous: _same_order,
    torch.Tensor.as_strided: _same_places,
    torch.hypot: _hypot,
    torch.Tensor.diagonal: _diagonal,
    torch.diag_embed: _diag_embed,
    torch.Tensor.sum: _last_sum,
}
