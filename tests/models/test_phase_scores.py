"""Scores of ramps against values worked out by hand and the published table."""

import numpy as np
import pytest

from models.manifest import ModelError
from models.phase_scores import (
    Runs,
    believability,
    boundary,
    confidence,
    ramp_scores,
    transition,
)


def labels(text: str) -> np.ndarray:
    return np.array([int(letter) for letter in text], np.int64)


def test_believability_is_the_published_table() -> None:
    # European-XFEL-examples/panosc-ml-spectra-classification @1bf5af2, printed for 15 bins
    accuracy = [0.6304, 0.6560, 0.6717, 0.6437, 0.7300, 0.6437, 0.5124, 0.6164]
    accuracy += [0.7810, 0.6608, 0.6230, 0.7115, 0.7303, 0.6251, 0.5069]
    weights = [0.136, 0.183, 0.213, 0.160, 0.330, 0.160, 0, 0.111]
    weights += [0.441, 0.192, 0.123, 0.292, 0.331, 0.127, 0]
    assert believability(np.array(accuracy)) == pytest.approx(weights, abs=6e-4)
    assert believability(np.array([0.55, 1.0])) == pytest.approx([0.0, 1.0], abs=1e-4)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("0000011111", 1.0),
        ("0001111111", 1.0),  # any single switch: order, not truth
        ("0000101111", 0.8),  # c0 = 3, c1 = 6: two curves between
        ("1000001111", 0.4),  # no leading run, c0 = -1, c1 = 6: six curves of ten
        ("0000000000", 1.0),
        ("1111111111", 1.0),
        ("0000211111", 0.9),  # another class wavers too
        ("1111100000", 0.0),
    ],
)
def test_confidence_by_hand(said: str, expected: float) -> None:
    assert confidence(labels(said)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("0000011111", 5),
        ("0001011111", 3),  # after 3 and after 5 one label contradicts; the middle of two is the first
        ("1111111111", 0),
        ("0000000000", 10),
        ("0010000111", 7),
        ("0002211", 4),  # after 3, 4 or 5: labels of a third class have no say
    ],
)
def test_boundary_contradicts_the_fewest_labels(said: str, expected: int) -> None:
    assert boundary(labels(said)) == expected


def test_boundary_of_one_switch_is_exact() -> None:
    for place in range(11):
        assert boundary(labels("0" * place + "1" * (10 - place))) == place


@pytest.mark.parametrize(("centre", "scale"), [(150.0, 4.0), (60.3, 1.5), (200.0, 10.0)])
def test_transition_of_a_logistic(centre: float, scale: float) -> None:
    p = 1 / (1 + np.exp(-(np.arange(300) - centre) / scale))
    place, width = transition(p)
    assert place == pytest.approx(centre + 0.5, abs=0.1)  # so many curves lie before the crossing
    assert width == pytest.approx(2 * np.log(9) * scale, rel=0.05)


def test_transition_of_a_step_lies_between_the_curves() -> None:
    place, width = transition((np.arange(200) >= 80).astype(float))
    assert place == pytest.approx(80, abs=0.3)
    assert width < 1.5


def test_an_empty_ramp_is_refused() -> None:
    for score in (confidence, boundary, transition):
        with pytest.raises(ModelError, match="at least one curve"):
            score(np.zeros(0, np.int64))


def test_scores_over_two_runs_in_any_order() -> None:
    said = np.concatenate([labels("0000111111"), labels("0000000111")])
    p = np.eye(3)[said]
    runs = Runs(
        ramp=np.repeat([4, 9], 10),
        curve_number=np.tile(np.arange(10), 2),
        boundary=np.repeat([4, 5], 10),
        speed=np.repeat([1.0, 2.0], 10),
    )
    order = np.random.default_rng(0).permutation(20)
    mixed = Runs(*[getattr(runs, name)[order] for name in ("ramp", "curve_number", "boundary", "speed")])
    scores = ramp_scores(mixed, p[order], said[order])
    assert scores["p_conf"] == 1.0
    assert scores["boundary_error_curves"] == pytest.approx(1.0)  # 0 and 2
    assert scores["boundary_error_curves_worst"] == 2.0
    assert scores["boundary_error_places"] == pytest.approx(2.0)  # 0 and 2 curves of 2 places
    assert scores["runs_within_5_curves"] == 1.0
