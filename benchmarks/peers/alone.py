"""The bare model in a process of its own: makes inputs and right answers, and is the floor of the rate.

`{"seconds": s}` answers with what the network did on prebuilt batches in that time.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.helper import BenchmarkError, options, serve
from benchmarks.peers.inputs import FRAMES, LABELS, Array, Packed, load, save, save_expected, write_spectra
from benchmarks.peers.model import MAX_EVENTS, Model
from models.bundle import BFLOAT16, FLOAT32
from models.simulation.bank import droplet_bank

# Of so many simulated frames those are taken whose label does not hang on the last digits.
CANDIDATES: Final = 96
BATCHES: Final = (1, 7, MAX_EVENTS)


class Alone:
    def __init__(self, folder: str, mode: str | None) -> None:
        self._folder, self._model = Path(folder), Model("cnn", mode)
        share = BFLOAT16.share if mode is None or "float32" not in mode else FLOAT32.share
        frames = self._settled(np.asarray(droplet_bank(CANDIDATES).images, np.uint16))
        save(self._folder, "frames", frames)
        write_spectra(self._folder)
        frames = load(self._folder, "frames")
        # Probabilities: the largest value of a column is one.
        save_expected(self._folder, self._in_batches(frames, MAX_EVENTS), share)
        self._batches = list(frames.reshape(-1, MAX_EVENTS, *frames.shape[1:]))

    def _settled(self, frames: Array) -> Array:
        """64 frames whose label is the same in batches of any size. BenchmarkError if there are fewer."""
        labels = [self._in_batches(frames, size)[:, LABELS] for size in BATCHES]
        same = np.flatnonzero((labels[0] == labels[1]) & (labels[0] == labels[2]))
        if len(same) < FRAMES:
            raise BenchmarkError(f"{len(same)} of {CANDIDATES} frames have a clear label, expected {FRAMES}")
        chosen: Array = frames[same[:FRAMES]]
        return chosen

    def _in_batches(self, frames: Array, size: int) -> Packed:
        parts = [self._model.answer([frames[i : i + size]]) for i in range(0, len(frames), size)]
        return np.concatenate(parts)

    def answer(self, request: dict[str, Any]) -> Mapping[str, float]:
        batches, start_s, cpu_s = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < start_s + request["seconds"]:
            self._model.answer([self._batches[batches % len(self._batches)]])
            batches += 1
        seconds, used_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        return {"events": batches * MAX_EVENTS, "seconds": seconds, "cpu_s": used_s}


if __name__ == "__main__":
    alone = Alone(**options())
    serve(alone.answer, {"ready": True})
