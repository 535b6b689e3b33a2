"""pvapy: the processor that pvapy-hpc-consumer loads, with the model in its process().

The consumer reads the channel and calls it for every update; pvapy has no batches. Two fields are read by
name: reshapeNtNdArray, its own helper, reads four more and costs some ten microseconds a frame.
"""

import time
from pathlib import Path
from typing import Any

from pvapy.hpc.adImageProcessor import AdImageProcessor  # type: ignore[import-not-found]  # its own environment

from benchmarks.peers.model import SHAPES, Model
from benchmarks.peers.notebook import Notebook


class Answers(AdImageProcessor):  # type: ignore[misc]  # a class without types
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.model = Model(config["network"], config["mode"] or None)
        self.shape = SHAPES[config["events"]]
        self.notebook = Notebook(Path(config["notebook"]))

    def process(self, update: Any) -> Any:
        image = update["value"][0]["ushortValue"]
        packed = self.model.answer([image.reshape(-1, *self.shape)])
        self.notebook.note(update["uniqueId"], time.monotonic(), packed)
        return update
