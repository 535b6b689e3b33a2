"""What an engine is, and the plain one: torch as it is.

An engine runs all networks of a stream on a CPU. Other libraries are in modules of their own
(`engines.openvino`), the choice among them in `engines.choice`. B batch, R packed width.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Events = npt.NDArray[Any]
Packed = npt.NDArray[np.float32]
Run = Callable[[Events], Packed]

# The plain engine, first, and the same in bfloat16.
MODES: Final = ("float32, channels last", "bfloat16, channels last")


def engine_clock() -> Callable[[], float]:
    """The clock to time an engine with, s. With one thread the processor time of that thread: all engines
    work in the caller's, and whatever else the machine does then counts less.
    """
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


class Engine(Protocol):
    """One way to run all networks of a stream."""

    name: str
    exact: bool
    """Computes in float32; False: in bfloat16, with the wider tolerance."""

    def prepare(self, sizes: Sequence[int]) -> None:
        """Make ready for batches of these sizes. Slow; others work too. Raises whatever its library does."""

    def run(self, events: Events) -> Packed:
        """Events [B, *event] of any number type, contiguous -> packed float32 [B, R], the caller's own."""

    def forms(self) -> Sequence[Run]:
        """Everything that `run` may use for a batch, each as a `run` of any batch: what is to be checked."""


class TorchEngine:
    """Always there, and what all others are compared with."""

    def __init__(self, networks: nn.Module, exact: bool) -> None:
        self._networks, self.name, self.exact = networks, MODES[not exact], exact

    def prepare(self, sizes: Sequence[int]) -> None:
        """Any size is ready."""

    def run(self, events: Events) -> Packed:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=not self.exact):
            packed: Packed = self._networks(torch.from_numpy(events)).float().numpy()
        return packed

    def forms(self) -> Sequence[Run]:
        return [self.run]
