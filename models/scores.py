"""How good a model is, in numpy: scores for labels, for clusters, and for targets.

Of classes that exclude each other one label is true. NaN stands where a score has no meaning. N events, L
labels, T targets. Definitions follow scikit-learn's of the same names (checked in the tests); the covered
variance is that of Vladyka et al. (antonvladyka/eca @3aa67b9).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bool = NDArray[np.bool_]
THRESHOLDS: Final = np.arange(0.05, 0.951, 0.01)  # those that are tried; beyond, few events decide


def f1_per_label(truth_NL: Bool, said_NL: Bool) -> Array:
    """2 TP / (2 TP + FP + FN) of each label, [L]; NaN where the label neither occurs nor is said."""
    hits = (truth_NL & said_NL).sum(0)
    total = truth_NL.sum(0) + said_NL.sum(0)
    f1: Array = np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)
    return f1


def macro_f1(truth_NL: Bool, said_NL: Bool) -> float:
    """Mean F1 over the labels that occur or are said; NaN if none does. The others are those of NaN above."""
    f1 = f1_per_label(truth_NL, said_NL)
    return float(np.nanmean(f1)) if not np.isnan(f1).all() else float("nan")


def most_frequent_set(truth_NL: Bool) -> Bool:
    """The label set [L] that most of these events have: what an answer says that never looks."""
    sets, frequency = np.unique(truth_NL, axis=0, return_counts=True)
    best: Bool = sets[frequency.argmax()]
    return best


def from_bits(bits_N: NDArray[Any], labels: int) -> Bool:
    """The bitmask of the column `labels` as [N, L]."""
    on: Bool = (bits_N.astype(np.int64)[:, None] >> np.arange(labels)) & 1 == 1
    return on


def average_precision(truth_N: Bool, score_N: Array) -> float:
    """Mean precision over the true events, ranked by score; NaN if none is true."""
    if not truth_N.any():
        return float("nan")
    order = np.argsort(-score_N, kind="stable")
    ranked, scores = truth_N[order], score_N[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = np.cumsum(ranked)[last_of_ties]
    precision = hits / (last_of_ties + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / ranked.sum())


def best_thresholds(truth_NL: Bool, p_NL: Array) -> Array:
    """For each label the threshold of highest F1, from 0.05 to 0.95 in steps of 0.01; 0.5 if none occurs."""
    f1_GL = np.nan_to_num([f1_per_label(truth_NL, p_NL > threshold) for threshold in THRESHOLDS])
    # The middle of the best ones: the edge of a plateau is the first to fail on other data.
    middle = [np.median(THRESHOLDS[f1 >= f1.max() - 1e-12]) for f1 in f1_GL.T]
    thresholds: Array = np.where(truth_NL.any(0), middle, 0.5)
    return thresholds


def cluster_scores(truth_N: NDArray[np.int64], cluster_N: NDArray[np.int64]) -> dict[str, float]:
    """Homogeneity, completeness (both from conditional entropies) and adjusted Rand index."""
    table = np.zeros((truth_N.max() + 1, cluster_N.max() + 1))
    np.add.at(table, (truth_N, cluster_N), 1)
    joint, rows, columns = _entropy(table), _entropy(table.sum(1)), _entropy(table.sum(0))
    return {
        "homogeneity": 1.0 if rows == 0 else 1 - (joint - columns) / rows,
        "completeness": 1.0 if columns == 0 else 1 - (joint - rows) / columns,
        "adjusted_rand": _adjusted_rand(table),
    }


def _entropy(counts: Array) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _adjusted_rand(table: Array) -> float:
    def pairs(counts: Array) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = rows * columns / pairs(table.sum(keepdims=True))
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def covered_variance(truth_NT: Array, said_NT: Array) -> float:
    """1 - tr[(Y - Y')^T (Y - Y')] / tr[(Y - mean)^T (Y - mean)]: 1 perfect, 0 as good as the mean."""
    return float(1 - np.square(truth_NT - said_NT).sum() / np.square(truth_NT - truth_NT.mean(0)).sum())
