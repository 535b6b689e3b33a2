"""Scores against scikit-learn on random data."""

import numpy as np
import pytest
from sklearn import metrics

from models import scores


def test_label_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, p = rng.random((200, 5)) < 0.3, rng.random((200, 5)).round(1)  # rounded: with ties
    expected = metrics.f1_score(truth, p > 0.5, average=None, zero_division=0)
    assert scores.f1_per_label(truth, p > 0.5) == pytest.approx(expected)
    for t, q in zip(truth.T, p.T, strict=True):
        assert scores.average_precision(t, q) == pytest.approx(metrics.average_precision_score(t, q))


def test_macro_f1_is_the_mean_over_what_occurs_or_is_said() -> None:
    truth = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], bool)
    said = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]], bool)
    assert scores.f1_per_label(truth, said) == pytest.approx([2 / 3, 1, 0, np.nan], nan_ok=True)
    assert scores.macro_f1(truth, said) == pytest.approx((2 / 3 + 1 + 0) / 3)
    # Without a list of labels scikit-learn takes those of truth and answer together.
    expected = metrics.f1_score(truth.argmax(1), said.argmax(1), average="macro")
    assert scores.macro_f1(truth, said) == pytest.approx(expected)
    assert np.isnan(scores.macro_f1(truth[:, 3:], said[:, 3:]))


def test_most_frequent_set_and_bitmask() -> None:
    sets = np.array([[1, 0], [1, 0], [0, 1]], bool)
    assert scores.most_frequent_set(sets).tolist() == [True, False]
    assert scores.from_bits(np.array([0.0, 5.0, 2.0]), 3).tolist() == [
        [False, False, False],
        [True, False, True],
        [False, True, False],
    ]


def test_average_precision_of_nothing_is_nan() -> None:
    assert np.isnan(scores.average_precision(np.zeros(3, bool), np.ones(3)))


def test_cluster_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 300)
    found = np.where(rng.random(300) < 0.7, truth, rng.integers(0, 6, 300))
    got = scores.cluster_scores(truth, found)
    assert got["homogeneity"] == pytest.approx(metrics.homogeneity_score(truth, found))
    assert got["completeness"] == pytest.approx(metrics.completeness_score(truth, found))
    assert got["adjusted_rand"] == pytest.approx(metrics.adjusted_rand_score(truth, found))


def test_best_threshold_separates_and_defaults_to_half() -> None:
    truth = np.array([[0, 0], [0, 0], [1, 0], [1, 0]], bool)
    p = np.array([[0.1, 0.9], [0.2, 0.1], [0.6, 0.1], [0.7, 0.1]])
    thresholds = scores.best_thresholds(truth, p)
    assert 0.2 < thresholds[0] < 0.6
    assert thresholds[1] == 0.5


def test_covered_variance_is_one_for_the_truth_and_zero_for_the_mean() -> None:
    truth = np.random.default_rng(2).normal(size=(40, 3))
    assert scores.covered_variance(truth, truth) == 1
    assert scores.covered_variance(truth, np.broadcast_to(truth.mean(0), truth.shape)) == pytest.approx(0)
