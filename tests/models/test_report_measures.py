"""Numbers of a report against values worked out by hand."""

import numpy as np
import pytest
import torch

from models.report import measures
from models.report.axes import target_axis
from models.report.case import exclusive

TRUTH = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]], bool)
SAID = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]], bool)


def test_counts_of_a_hand_made_table() -> None:
    found = measures.counts(TRUTH, SAID)
    assert found.hits.tolist() == [2, 1]
    assert found.false_alarms.tolist() == [1, 1]
    assert found.missed.tolist() == [1, 1]
    assert found.rejected.tolist() == [1, 2]
    assert found.support.tolist() == [3, 2]
    np.testing.assert_allclose(found.precision, [2 / 3, 1 / 2])
    np.testing.assert_allclose(found.recall, [2 / 3, 1 / 2])


def test_co_occurrence_is_the_share_said_where_true() -> None:
    # Label 0 is true for events 0, 1, 4: label 0 said in two of them, label 1 in none.
    # Label 1 is true for events 1, 2: label 0 said in both, label 1 in event 2.
    np.testing.assert_allclose(measures.co_occurrence(TRUTH, SAID), [[2 / 3, 0], [1, 1 / 2]])
    nobody = np.zeros_like(TRUTH)
    assert np.isnan(measures.co_occurrence(nobody, SAID)).all()


def test_curve_counts_what_each_threshold_keeps() -> None:
    # In order of p: true, false, (true, false tied), true.
    truth = np.array([True, False, True, False, True])
    p = np.array([0.9, 0.8, 0.5, 0.5, 0.1])
    found = measures.curve(truth, p)
    np.testing.assert_allclose(found.threshold, [0.9, 0.8, 0.5, 0.1])
    np.testing.assert_allclose(found.precision, [1, 1 / 2, 2 / 4, 3 / 5])
    np.testing.assert_allclose(found.recall, [1 / 3, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found.removed, [4 / 5, 3 / 5, 1 / 5, 0])
    assert np.isnan(measures.curve(np.zeros(5, bool), p).recall).all()


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    p = np.linspace(0, 1, 5000)
    thinned = measures.curve(p > 0.5, p).thinned()
    assert len(thinned.threshold) == measures.MAX_CURVE_POINTS
    assert (thinned.threshold[0], thinned.threshold[-1]) == (1.0, 0.0)


def test_reliability_bins_and_their_error() -> None:
    truth = np.array([False, True, True, True])
    p = np.array([0.05, 0.15, 0.95, 1.0])
    found = measures.reliability(truth, p)
    assert found.events.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    np.testing.assert_allclose(found.true_share[[0, 1, 9]], [0, 1, 1])
    np.testing.assert_allclose(found.stated[[0, 1, 9]], [0.05, 0.15, 0.975])
    assert found.error == pytest.approx((0.05 + 0.85 + 2 * 0.025) / 4)


def test_kl_of_a_unit_gaussian_is_zero_and_of_a_shifted_one_half() -> None:
    mu, log_variance = np.array([[0.0, 1.0], [0.0, -1.0]]), np.zeros((2, 2))
    np.testing.assert_allclose(measures.kl_per_dimension(mu, log_variance), [0, 0.5])
    narrow = np.full((2, 2), np.log(0.25))
    expected = 0.5 * (0.25 - 1 + np.log(4))
    np.testing.assert_allclose(measures.kl_per_dimension(np.zeros((2, 2)), narrow), [expected, expected])


def test_covered_variance_of_each_target() -> None:
    truth = np.array([[0.0, 5.0], [2.0, 5.0]])
    found = measures.covered_each(truth, np.array([[0.0, 5.0], [1.0, 5.0]]))
    assert found[0] == pytest.approx(0.5)  # 1 - 1 / 2
    assert np.isnan(found[1])  # a constant has nothing to cover


def test_confusion_and_contingency() -> None:
    table = measures.confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    assert table.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    by_cluster, clusters = measures.contingency(np.array([0, 0, 1]), np.array([7, 2, 7]))
    assert clusters.tolist() == [2, 7]
    assert by_cluster.tolist() == [[1, 1], [0, 1]]


def test_plain_has_no_nan_and_no_numpy() -> None:
    found = measures.plain(
        {"a": np.array([0.1234567, np.nan]), "b": (np.int64(3), np.bool_(True)), "c": None}
    )
    assert found == {"a": [0.12346, None], "b": [3, True], "c": None}
    assert type(found["b"][0]) is int
    assert type(found["b"][1]) is bool


def test_exclusive_takes_one_hot_columns_or_the_sets_that_occur() -> None:
    index, names = exclusive(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), ("a", "b"))
    assert (index.tolist(), names) == ([1, 0], ("a", "b"))
    index, names = exclusive(torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), ("a", "b"))
    assert [names[i] for i in index] == ["a+b", "a", "none"]


def test_targets_named_by_energy_lie_along_it() -> None:
    axis = target_axis(("531.000 eV", "531.055 eV"))
    assert (axis.values.tolist(), axis.label) == ([531.0, 531.055], "energy (eV)")
    assert target_axis(("ramp", "d_111")).label == "target"
