"""Thresholds with a promise: at least this recall, with at least this confidence. Pure numpy.

Owns the arithmetic of one class: scores of held-out events in, a threshold or the number of events that are
missing out. Not the measuring of scores (`models.veto`) and not the rules of the stream.

The bound is distribution-free (order statistics; Wilks, Ann. Math. Statist. 12 (1941) 91, as it is written
for quantiles in David and Nagaraja, Order Statistics, section 7.1). An event is kept if its score is at least
the threshold. Let q be the largest number that a share R of all positive events reaches. At least a share
1 - R of them has a score <= q. So the r-th smallest of n drawn positives is <= q, and keeps at least R, with
a probability of at least P(Bin(n, 1 - R) >= r). Taken is the largest r for which that is >= C. Ties only add
to it. Positives must be drawn as those of the beam time are: the promise is about events like these.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Array = NDArray[np.float64]
# Sums of probabilities are right to about 1e-12; a confidence that is met but for this much counts as met.
_ROUNDING: Final = 1e-9
# A promise below says nothing; a recall above needs millions of positives (3.0e6 at confidence 0.95).
LEAST: Final = 1e-3
MOST: Final = 1 - 1e-6
_BISECTIONS: Final = 50  # halvings of 0 .. 1: to 1e-15, and 1 - 2^-50 is still a number below 1


class TooFewError(ModelError):
    """The positive events are too few for any threshold to hold the promise."""


@dataclass(frozen=True)
class Promise:
    """`threshold` keeps, of events like the `positives`, at least `recall` with `confidence`."""

    threshold: float
    recall: float
    confidence: float
    positives: int
    rank: int  # the threshold is the rank-th smallest score of the positives

    @property
    def kept_share(self) -> float:
        """What it keeps of the very events it was taken from, but for ties: above `recall`, never below."""
        return (self.positives - self.rank + 1) / self.positives


def promise(positive_scores: Array, recall: float, confidence: float) -> Promise:
    """The highest threshold that holds the promise. Raises TooFewError, ModelError.

    `positive_scores`: [n], of events that have the class. NaN: the stream keeps such an event, so it counts
    as the highest score.
    """
    check_share("recall", recall)
    check_share("confidence", confidence)
    n = len(positive_scores)
    rank = largest_rank(n, recall, confidence)
    if rank == 0:
        raise TooFewError(_too_few(n, recall, confidence))
    ordered = np.sort(np.where(np.isnan(positive_scores), np.inf, positive_scores))
    threshold = float(ordered[rank - 1])
    if not math.isfinite(threshold):
        raise ModelError(
            f"threshold: {np.isnan(positive_scores).sum()} of {n} positive events have no finite score; "
            "mend the network or the data, the stream would keep every such event"
        )
    return Promise(threshold, recall, confidence, n, rank)


def check_share(name: str, value: float) -> None:
    """Raises ModelError if `value` does not lie between 0 and 1, or so near to them that it says nothing."""
    if not LEAST <= value <= MOST:  # also true for NaN
        raise ModelError(
            f"{name}: expected a number between 0 and 1, from {LEAST} to {MOST}, got {value}; 0.99 and 0.95 "
            "are usual"
        )


def positives_needed(recall: float, confidence: float) -> int:
    """The smallest n for which the smallest score of all can be promised: 1 - R^n >= C."""
    return math.ceil(math.log1p(-confidence) / math.log(recall) - _ROUNDING)


def largest_rank(n: int, recall: float, confidence: float) -> int:
    """max{r : P(Bin(n, 1 - R) >= r) >= C}; 0 if there is none."""
    below = np.cumsum(binomial(n, 1 - recall))[:n]  # below[r - 1] = P(fewer than r), for r = 1 .. n
    return int(np.count_nonzero(below <= (1 - confidence) * (1 + _ROUNDING)))


def binomial(n: int, share: float) -> Array:
    """P(Bin(n, share) = k) for k = 0 .. n, [n + 1]; 0 < share < 1. Through logarithms: none overflows."""
    return _chances(log_choose(n), share)


def _chances(log_choose_N: Array, share: float) -> Array:
    n = len(log_choose_N) - 1
    k = np.arange(n + 1)
    chances: Array = np.exp(log_choose_N + k * math.log(share) + (n - k) * math.log1p(-share))
    return chances


def log_choose(n: int) -> Array:
    """ln of n over k for k = 0 .. n."""
    k = np.arange(1, n + 1)
    return np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])


def interval(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a share of which `hits` of `n` were seen (Clopper and Pearson 1934)."""
    tail, choose = (1 - confidence) / 2, log_choose(n)
    low, high = 0.0, 1.0
    if hits > 0:
        low = _last(lambda share: bool(_chances(choose, share)[hits:].sum() <= tail))
    if hits < n:
        high = _last(lambda share: bool(_chances(choose, share)[: hits + 1].sum() >= tail))
    return low, high


def _last(holds: Callable[[float], bool]) -> float:
    """Where in 0 .. 1 a statement that holds from 0 on ceases to."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _too_few(n: int, recall: float, confidence: float) -> str:
    needed = positives_needed(recall, confidence)
    text = f"too few events: {n} have the class, {needed} are needed to promise recall {recall:g} "
    text += f"with confidence {confidence:g}"
    if n == 0:
        return f"{text}; give held-out data that hold the class"
    possible = math.floor(1e4 * (1 - confidence) ** (1 / n)) / 1e4
    if possible < LEAST:
        return f"{text}; give {needed - n} more"
    return f"{text}; give {needed - n} more, or ask for a recall of at most {possible:g}"
