"""What inference needs of a device: batches of raw events in, packed results out. And a stream that has none.

Imports no torch: a stream without bundles starts, and starts again, in a quarter of the time.
B batch, R packed width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Raw = npt.NDArray[Any]
Packed = npt.NDArray[np.float32]


class Pending(Protocol):
    """A batch under way."""

    def done(self) -> bool: ...

    def wait(self) -> Packed:
        """The packed results [B, R]."""


class Runner(Protocol):
    """What inference needs of a device."""

    depth: int
    """Batches that may be under way at once."""

    def submit(self, blocks: Sequence[Raw]) -> Pending:
        """Begin a batch: the events of all blocks in order, each [n, *event]."""


@dataclass(frozen=True)
class Finished:
    """A batch that is ready: what the CPU gives."""

    packed: Packed

    def done(self) -> bool:
        return True

    def wait(self) -> Packed:
        return self.packed


class NoRunner:
    """A stream without bundles: every event gets an empty row, and the routes decide on ids and scalars."""

    depth = 1

    def submit(self, blocks: Sequence[Raw]) -> Pending:
        return Finished(np.empty((sum(map(len, blocks)), 0), np.float32))
