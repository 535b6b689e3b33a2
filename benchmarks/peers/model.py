"""What every contender runs: the shipped classifier, in the mode that our pipeline chose, on one thread.

The only place that knows how our runner is called. `null` reads two bytes of an event and answers with them:
what is left is the contender itself.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from benchmarks.peers.inputs import Array, Packed
from benchmarks.peers.rows import Events, Network

SHAPES: Final[dict[Events, tuple[int, ...]]] = {"frames": (128, 128), "spectra": (1280,)}
BUNDLE: Final = "droplet_cnn"
# Of every contender: the largest batch that the network sees.
MAX_EVENTS: Final = 32


class Model:
    """Blocks of events in, one packed matrix out. `mode` None: the runner chooses."""

    def __init__(self, network: Network, mode: str | None = None) -> None:
        self._runner = _runner(mode) if network == "cnn" else None

    def answer(self, blocks: Sequence[Array]) -> Packed:
        """uint16 [n, *event] each -> float32 [sum of n, R], in order."""
        if self._runner is None:
            return np.concatenate([block.reshape(len(block), -1)[:, :1] for block in blocks]).astype(
                np.float32
            )
        packed: Packed = self._runner.submit(blocks).wait()
        return packed

    def answer_bytes(self, requests: Sequence[Any], events: Events = "frames") -> list[bytes]:
        """The same for requests as they came, bytes of whole events each; one answer for each request."""
        blocks = [np.frombuffer(request, np.uint16).reshape(-1, *SHAPES[events]) for request in requests]
        packed, answers, start = self.answer(blocks), [], 0
        for block in blocks:
            answers.append(packed[start : start + len(block)].tobytes())
            start += len(block)
        return answers


def _runner(mode: str | None) -> Any:
    """Imports torch: only processes that run the network pay for it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from models.bundle import load_bundle
    from models.shipped import find_bundle
    from streamer.runner import CpuRunner

    # Received bytes cannot be written, and the runner does not.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    torch.set_num_threads(1)
    return CpuRunner([load_bundle(find_bundle(BUNDLE))], MAX_EVENTS, mode)
