"""The networks of one stream on one device: raw events in, one packed matrix of results out.

Owns the plain loop of a CPU around an engine (`engines.choice`), and the choice of the device: the other one
is `cuda`. Knows no sockets, no slots and no rules. B batch, R packed width.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from models.bundle import Bundle
from models.manifest import BundleError
from streamer.cuda import CudaRunner
from streamer.device import Finished, NoRunner, Pending, Raw, Runner
from streamer.engines.choice import fastest, named
from streamer.networks import Networks, channels_last

log = logging.getLogger(__name__)

# Once: torch's own number is what the last load has set.
_CORES = len(os.sched_getaffinity(0))


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


class Wanted(NamedTuple):
    """How networks shall run. On a CPU: threads 0 is the cores less one, engine None is to choose."""

    max_events: int
    device: str = "auto"  # or cpu, cuda, cuda:N
    threads: int = 0
    engine: str | None = None


def make_runner(bundles: Sequence[Bundle], frames: Raw, wanted: Wanted) -> Runner:
    """The runner for a device. Raises BundleError when golden answers differ."""
    if not bundles:
        return NoRunner()
    device = wanted.device
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        largest = max(wanted.max_events, frames.shape[1])  # a block is never cut, so the largest must fit
        return CudaRunner(bundles, frames, largest, torch.device("cuda" if device == "auto" else device))
    torch.set_num_threads(wanted.threads or default_threads())
    if wanted.engine is not None:
        try:
            return CpuRunner(bundles, wanted.max_events, wanted.engine)
        except (ValueError, BundleError) as error:
            log.warning("the engine chosen before is not used again: %s", error)
    return CpuRunner(bundles, wanted.max_events)


def default_threads() -> int:
    """All cores but one, which the wire and the files need."""
    return max(1, _CORES - 1)
