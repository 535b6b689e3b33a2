"""The numbers behind the pictures of a report, in numpy, beyond those of `models.scores`.

N events, L labels, Z latent dimensions, T targets, P points of a curve. NaN stands where a number has no
meaning (the precision of what was never said); `plain` makes null of it for JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.int64]

CALIBRATION_BINS: Final = 10  # tenths of probability, as reliability diagrams have them
MAX_CURVE_POINTS: Final = 400  # of a curve: more than a picture of this width can show


@dataclass(frozen=True)
class Counts:
    """Of each label how often it was rightly said, wrongly said, wrongly not said, rightly not said, [L]."""

    hits: Index
    false_alarms: Index
    missed: Index
    rejected: Index

    @property
    def support(self) -> Index:
        """Events that have the label."""
        total: Index = self.hits + self.missed
        return total

    @property
    def precision(self) -> Float:
        """Right among said."""
        return _ratio(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> Float:
        """Right among true."""
        return _ratio(self.hits, self.hits + self.missed)


def counts(truth_NL: Bool, said_NL: Bool) -> Counts:
    """The four fields of each label's 2 x 2 table."""
    return Counts(
        (truth_NL & said_NL).sum(0),
        (~truth_NL & said_NL).sum(0),
        (truth_NL & ~said_NL).sum(0),
        (~truth_NL & ~said_NL).sum(0),
    )


def co_occurrence(truth_NL: Bool, said_NL: Bool) -> Float:
    """[L, L]: of the events that have label i the share for which label j was said; NaN rows for none."""
    return _ratio(truth_NL.T.astype(np.int64) @ said_NL.astype(np.int64), truth_NL.sum(0)[:, None])


def confusion(truth_N: Index, said_N: Index, classes: int) -> Index:
    """[C, C] events: rows the true class, columns what was said."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (truth_N, said_N), 1)
    return table


def contingency(truth_N: Index, cluster_N: Index) -> tuple[Index, Index]:
    """[classes, clusters] events, and the numbers of the clusters that occur."""
    clusters, column = np.unique(cluster_N, return_inverse=True)
    table = np.zeros((int(truth_N.max()) + 1, len(clusters)), np.int64)
    np.add.at(table, (truth_N, column.reshape(-1)), 1)
    return table, clusters.astype(np.int64)


@dataclass(frozen=True)
class Curve:
    """What each threshold gives, from the highest down, [P]; an event is said or kept if p >= threshold."""

    threshold: Float
    precision: Float
    recall: Float
    removed: Float

    def thinned(self) -> "Curve":
        """At most MAX_CURVE_POINTS of the points, first and last among them."""
        size = len(self.threshold)
        keep = np.unique(np.linspace(0, size - 1, min(size, MAX_CURVE_POINTS)).astype(np.int64))
        return Curve(self.threshold[keep], self.precision[keep], self.recall[keep], self.removed[keep])


def curve(truth_N: Bool, p_N: Float) -> Curve:
    """Precision, recall and removed share at each threshold that occurs; recall NaN if no event is true."""
    order = np.argsort(-p_N, kind="stable")
    ranked, p = truth_N[order], p_N[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    hits, said = np.cumsum(ranked)[last_of_ties], last_of_ties + 1
    return Curve(p[last_of_ties], hits / said, _ratio(hits, ranked.sum()), 1 - said / len(p))


@dataclass(frozen=True)
class Reliability:
    """Events by stated probability, [bins]: how many, what was stated, what share was true (NaN if none)."""

    events: Index
    stated: Float
    true_share: Float

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of stated and true, weighted by events."""
        gap = np.abs(np.nan_to_num(self.stated) - np.nan_to_num(self.true_share))
        return float((gap * self.events).sum() / max(1, self.events.sum()))


def reliability(truth_N: Bool, p_N: Float, bins: int = CALIBRATION_BINS) -> Reliability:
    """Bins of equal width from 0 to 1; the last contains 1."""
    index = np.clip((p_N * bins).astype(np.int64), 0, bins - 1)
    events = np.bincount(index, minlength=bins)
    stated = np.bincount(index, weights=p_N, minlength=bins)
    true = np.bincount(index, weights=truth_N.astype(np.float64), minlength=bins)
    return Reliability(events, _ratio(stated, events), _ratio(true, events))


def kl_per_dimension(mu_NZ: Float, log_variance_NZ: Float) -> Float:
    """[Z] mean Kullback-Leibler divergence from N(0, 1), nats: near 0 where a dimension says nothing."""
    each: Float = 0.5 * (np.square(mu_NZ) + np.exp(log_variance_NZ) - 1 - log_variance_NZ).mean(0)
    return each


def principal_axes(x_ND: Float, count: int) -> tuple[Float, Float]:
    """The first `count` principal axes [count, D] and the share of the variance of each, [count]."""
    _, widths, axes = np.linalg.svd(x_ND - x_ND.mean(0), full_matrices=False)
    share = np.square(widths) / max(float(np.square(widths).sum()), np.finfo(np.float64).tiny)
    return axes[:count], share[:count]


def covered_each(truth_NT: Float, said_NT: Float) -> Float:
    """[T] covered variance of each target; NaN where the target does not vary."""
    error = np.square(truth_NT - said_NT).sum(0)
    spread = np.square(truth_NT - truth_NT.mean(0)).sum(0)
    return 1 - _ratio(error, spread)


def plain(value: Any) -> Any:
    """For JSON: numpy and NaN become lists, numbers of 5 digits behind the point, and null."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.bool_ | bool) or value is None or isinstance(value, str):
        return bool(value) if isinstance(value, np.bool_) else value
    if isinstance(value, int | np.integer):
        return int(value)
    number = float(value)
    return round(number, 5) if np.isfinite(number) else None


def named(names: Sequence[str], values: Any) -> dict[str, Any]:
    """Beside each name its value, as JSON takes it."""
    return {name: plain(value) for name, value in zip(names, values, strict=True)}


def _ratio(part: Any, whole: Any) -> Float:
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    result: Float = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result
