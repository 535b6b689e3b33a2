"""The bare model in a process of its own: makes inputs and right answers, and is the floor of the rate.

`{"seconds": s}` answers with what the network did on prebuilt batches in that time.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.helper import BenchmarkError, options, serve
from benchmarks.peers.inputs import FRAMES, LABELS, Array, Packed, load, save, save_expected, write_spectra
from benchmarks.peers.model import MAX_EVENTS, Model
from models.bundle import BFLOAT16
from models.simulation.bank import droplet_bank
from streamer.engines.choice import OPENVINO
from streamer.engines.plain import MODES

# Of so many simulated frames the first 64 are taken on which all engines agree.
CANDIDATES: Final = 96
BATCHES: Final = (1, 7, MAX_EVENTS)
PLAIN: Final = MODES[0]


class Alone:
    def __init__(self, folder: str, mode: str | None) -> None:
        self._folder = Path(folder)
        frames = self._agreed(np.asarray(droplet_bank(CANDIDATES).images, np.uint16))
        save(self._folder, "frames", frames)
        write_spectra(self._folder)
        frames = load(self._folder, "frames")
        # Probabilities: the largest value of a column is one, so that the share is the tolerance.
        save_expected(self._folder, _in_batches(Model("cnn", PLAIN), frames, MAX_EVENTS), BFLOAT16.share)
        self._model = Model("cnn", mode)
        self._batches = list(frames.reshape(-1, MAX_EVENTS, *frames.shape[1:]))

    def _agreed(self, frames: Array) -> Array:
        """64 frames that every engine here answers alike, in batches of any size: whichever our pipeline
        chooses, a wrong answer is one to another frame. Raises BenchmarkError if there are fewer.
        """
        right = _in_batches(Model("cnn", PLAIN), frames, MAX_EVENTS)
        same = np.ones(len(frames), bool)
        for model in _models():
            for size in BATCHES:
                packed = _in_batches(model, frames, size)
                near = np.abs(packed - right)[:, :LABELS] <= BFLOAT16.share / 2
                same &= near.all(axis=1) & (packed[:, LABELS] == right[:, LABELS])
        if np.count_nonzero(same) < FRAMES:
            raise BenchmarkError(
                f"the engines agree on {same.sum()} of {CANDIDATES} frames, expected {FRAMES}"
            )
        chosen: Array = frames[np.flatnonzero(same)[:FRAMES]]
        return chosen

    def answer(self, request: dict[str, Any]) -> Mapping[str, float]:
        batches, start_s, cpu_s = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < start_s + request["seconds"]:
            self._model.answer([self._batches[batches % len(self._batches)]])
            batches += 1
        seconds, used_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        return {"events": batches * MAX_EVENTS, "seconds": seconds, "cpu_s": used_s}


def _models() -> Iterator[Model]:
    """One of each engine that is to be had here."""
    for mode in (*MODES, *OPENVINO):
        try:
            yield Model("cnn", mode)
        except ValueError as error:  # not installed, or not on this processor
            print(f"{mode}: {error}", file=sys.stderr)


def _in_batches(model: Model, frames: Array, size: int) -> Packed:
    return np.concatenate([model.answer([frames[i : i + size]]) for i in range(0, len(frames), size)])


if __name__ == "__main__":
    alone = Alone(**options())
    serve(alone.answer, {"ready": True})
