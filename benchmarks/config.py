"""What every measurement shares: sizes, how long, and the configuration of a measured pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sender import KEY, PULSE_KEY, SOURCE
from streamer.config import RunConfig
from streamer.sockets import free_port


@dataclass(frozen=True)
class Options:
    """How long each contender runs, and how often."""

    repeats: int
    seconds: float
    # Before the measurement; 0: none, and not once round the ring either.
    warm_s: float
    # False: the smallest and the largest messages of a row only.
    every_load: bool = True

    def of(self, loads: Sequence["Load"]) -> Sequence["Load"]:
        return loads if self.every_load else (loads[0], loads[-1])


@dataclass(frozen=True)
class Load:
    """Messages of one shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pulses: int

    @property
    def message_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize * self.pulses

    def messages_in(self, size_bytes: int) -> int:
        return size_bytes // self.message_bytes + 1

    @property
    def sender(self) -> dict[str, Any]:
        return {"shape": self.shape, "dtype": self.dtype, "pulses": self.pulses}


def free_endpoint() -> str:
    """A TCP endpoint of 127.0.0.1 that nobody uses now."""
    return f"tcp://127.0.0.1:{free_port()}"


def run_config(
    load: Load, endpoint: str, folder: Path, bundles: tuple[str, ...] = (), *, store: bool = True, **more: Any
) -> RunConfig:
    """A run that classifies everything it gets and publishes it; with `store` it records every event's
    results, and one frame in 100.

    `more` are settings of the stream.
    """
    axes = "slow fast" if len(load.shape) == 2 else "bin"
    source = {
        "endpoint": endpoint,
        "socket": "PULL",
        "source": SOURCE,
        "key": KEY,
        "pulse_key": PULSE_KEY if load.pulses > 1 else None,
        "axes": f"pulse {axes}" if load.pulses > 1 else axes,
        "shape": load.shape,
        "dtype": load.dtype,
    }
    stream = {
        "name": "bench",
        "source": source,
        "bundles": bundles,
        "route": [{"name": "sample", "one_in": 100}],
        "publish": {"results": free_endpoint(), "verdicts": free_endpoint()},
        "on_overload": "wait",
        "deadline_s": 0.0,  # the source is faster than the model on purpose
        **more,
    }
    output = {"directory": folder, "store": store, "segment_bytes": 64 << 20, "reserve_bytes": 256 << 20}
    quiet = {"metrics": {"serve": False}, "dashboard": {"serve": False}}
    return RunConfig.model_validate({"stream": [stream], "output": output, **quiet})
