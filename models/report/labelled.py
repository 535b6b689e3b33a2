"""The labelled part of a case: what is true of each class, what was stated, and what was said.

N events, L labels.
"""

from dataclasses import dataclass

import numpy as np

from models.report.case import Float
from models.report.measures import Bool


@dataclass(frozen=True)
class Labelled:
    """The part of a case that the data tell of: truth, probability and what was said, [N, L] each."""

    names: tuple[str, ...]
    truth: Bool
    p: Float
    said: Bool

    def one(self, index: int) -> tuple[Bool, Float]:
        """Truth and probability of one class, [N]."""
        return self.truth[:, index], self.p[:, index]


def from_bits(bits_N: Float, labels: int) -> Bool:
    """The bitmask of the column `labels` as [N, L]."""
    mask = bits_N.astype(np.int64)[:, None]
    on: Bool = (mask >> np.arange(labels)) & 1 == 1
    return on
