"""Cost of the asymmetric-least-squares baseline: batched on the device, against scipy's sparse solution.

    python -m benchmarks.baseline

Prints microseconds of CPU time a spectrum on one thread, and the largest difference in shares of a spectrum's
range. Not part of the table of stream benchmarks: no stream runs here.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.baseline import BaselineSubtraction
from models.simulation import pressure_ramps

Array = NDArray[np.float64]
BATCHES: Final = (1, 32, 256)
SPARSE_SPECTRA: Final = 8
TRIALS: Final = 3
SMOOTHNESS, ASYMMETRY, ITERATIONS = 1e5, 0.002, 10  # as published


def sparse_baseline(
    y: Array, smoothness: float = SMOOTHNESS, asymmetry: float = ASYMMETRY, iterations: int = ITERATIONS
) -> Array:
    """Every point an unknown, scipy's sparse LU: how the published code does it."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    n, w = len(y), np.ones(len(y))
    bend = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n), dtype=np.float64)
    penalty = smoothness * (bend.T @ bend)
    for _ in range(iterations):
        z = spsolve((sparse.diags_array(w) + penalty).tocsc(), w * y)
        w = np.where(y > z, asymmetry, 1 - asymmetry)
    return np.asarray(z, np.float64)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    argparse.ArgumentParser(prog="python -m benchmarks.baseline").parse_args(arguments)
    torch.set_num_threads(1)
    raw = pressure_ramps.make(max(BATCHES), 900_000, {"raw": True})["inputs"]
    step = BaselineSubtraction(raw.shape[1], SMOOTHNESS, ASYMMETRY, ITERATIONS)
    few = raw[:SPARSE_SPECTRA].astype(np.float64)
    expected = np.stack([sparse_baseline(spectrum) for spectrum in few])
    apart = np.abs(step.baseline(torch.from_numpy(few)).numpy() - expected).max(1) / np.ptp(few, axis=1)
    print(f"largest difference: {apart.max():.1e} of a spectrum's range")
    cost_us = _cpu_us(lambda: [sparse_baseline(spectrum) for spectrum in few]) / len(few)
    print(f"scipy, sparse           {cost_us:9.0f} us a spectrum")
    for batch in BATCHES:
        x = torch.from_numpy(raw[:batch])[:, None]
        print(f"on the device, {batch:4d}     {_cpu_us(partial(step, x)) / batch:9.0f} us a spectrum")
    return 0


def _cpu_us(work: Callable[[], object]) -> float:
    """The least of a few trials behind a first one that warms up."""
    work()
    costs = []
    for _ in range(TRIALS):
        begun_s = time.process_time()
        work()
        costs.append(time.process_time() - begun_s)
    return min(costs) * 1e6


if __name__ == "__main__":
    sys.exit(main())
