"""Clusterings to compare with: right on clouds that are far apart, and clear about what they cannot do."""

import numpy as np
import pytest

from models.clustering import neighbour_classes, principal_clusters, spectral_clusters
from models.manifest import ModelError
from models.mixture import FitOptions
from models.scores import cluster_scores


def clouds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(120) % 3
    centres = np.array([[0, 0, 0, 0, 0], [8, 0, 0, 0, 0], [0, 8, 0, 0, 0]], np.float64)
    return centres[truth] + rng.normal(size=(120, 5)), truth


def test_far_clouds_are_found() -> None:
    (x, truth), (other, other_truth) = clouds(0), clouds(1)
    options = FitOptions(3, regularisation=1e-3)
    for found in (spectral_clusters(x, 3, 0), principal_clusters(other, x, 2, options)):
        assert cluster_scores(truth, found)["adjusted_rand"] > 0.95
    assert (neighbour_classes(other, other_truth, x) == truth).mean() > 0.98


def test_neighbours_agree_with_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(2)
    train, test, classes = rng.normal(size=(300, 3)), rng.normal(size=(280, 3)), rng.integers(0, 4, 300)
    theirs = KNeighborsClassifier(15).fit(train / train.std(0), classes).predict(test / train.std(0))
    assert (neighbour_classes(train, classes, test) == theirs).mean() > 0.99  # ties may fall otherwise


def test_too_few_events_are_refused() -> None:
    x, truth = clouds()
    with pytest.raises(ModelError, match="3 clusters need more events than that, got 3"):
        spectral_clusters(x[:3], 3, 0)
    with pytest.raises(ModelError, match="expected 15 labelled events or more, got 9"):
        neighbour_classes(x[:9], truth[:9], x)
    with pytest.raises(ModelError, match="more events or fewer components"):
        principal_clusters(x[:3], x, 2, FitOptions(3))
