"""What a pvapy consumer notes for its source, in a mapped file: its last id, and each answer with its moment.

pvapy is measured one way, so the answers need no way back that would cost it time. Writing one down costs
about a microsecond. Head, int64: last id, ids seen, first id of the row, floats of an answer.
"""

from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.peers.inputs import Array, Packed

LAST, SEEN, FIRST, WIDTH = range(4)
HEAD_BYTES: Final = 64
# Sparse: only what is written takes memory.
BODY_BYTES: Final = 256 << 20
TIME_BYTES: Final = 8
# A row of the table holds no more messages.
MESSAGES: Final = 1 << 18


class Notebook:
    """Both sides of the file; the source begins a row while nothing is under way."""

    def __init__(self, path: Path, new: bool = False) -> None:
        size = HEAD_BYTES + MESSAGES * TIME_BYTES + BODY_BYTES
        whole = np.memmap(path, np.uint8, "w+" if new else "r+", shape=(size,))
        answers_at = HEAD_BYTES + MESSAGES * TIME_BYTES
        self.head = whole[:HEAD_BYTES].view(np.int64)
        self._moments = whole[HEAD_BYTES:answers_at].view(np.float64)
        self._answers = whole[answers_at:].view(np.float32)

    def begin(self, first: int, width: int) -> int:
        """A row whose answers have `width` floats; how many messages there is room for."""
        self._moments[:] = 0.0
        self.head[[LAST, SEEN, FIRST, WIDTH]] = first - 1, 0, first, width
        return min(MESSAGES, BODY_BYTES // (4 * width))

    def note(self, number: int, moment_s: float, packed: Packed) -> None:
        """The consumer's side."""
        at, width = number - int(self.head[FIRST]), int(self.head[WIDTH])
        if at < 0 or packed.size != width:
            return
        self._answers[at * width : (at + 1) * width] = packed.reshape(-1)
        self._moments[at] = moment_s
        self.head[SEEN] += 1
        self.head[LAST] = number

    def read(self, sent: int) -> tuple[Array, Packed]:
        """Moments [sent], 0 of what did not come, and answers [sent, width]."""
        width = int(self.head[WIDTH])
        return self._moments[:sent].copy(), self._answers[: sent * width].reshape(sent, width).copy()
