"""Clusterings that need no trained network, to hold a trained one against; and the nearest neighbours.

Spectral clustering of the raw images is the comparison of Zimmermann's clustering study
(julian-carpenter/beta-TCVAE @572d9e3); a mixture on principal components is the plainest of its kind.
Neighbours use labels: they say how much of the classes a latent space holds at all, so that what clustering
loses can be told from what the encoder lost.

N events, P pixels, D features.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError
from models.mixture import FitOptions, fit_mixture

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
LINKS: Final = 10  # scikit-learn's own choice of neighbours
FAINT: Final = 1e-3  # all links of an event to those not near it: parts without any would have no order
NEIGHBOURS: Final = 15  # of a few thousand labelled events; 5 to 30 give the same within a percent


def require_scikit_learn() -> None:
    """Raises ModelError that says how to install it; to be called before hours of training, not after."""
    try:
        import sklearn  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise ModelError(
            "clustering: the comparison with spectral clustering needs scikit-learn, it is not installed; "
            "pip install -c constraints.txt '.[train]'"
        ) from error


def spectral_clusters(x_NP: Array, clusters: int, seed: int) -> Labels:
    """Spectral clustering of the events themselves: it can say nothing of others."""
    require_scikit_learn()
    from sklearn.cluster import SpectralClustering

    if len(x_NP) <= clusters:
        raise ModelError(
            f"clustering: {clusters} clusters need more events than that, got {len(x_NP)}; give more events"
        )
    method = SpectralClustering(clusters, affinity="precomputed", random_state=seed)
    found: Labels = method.fit_predict(_graph(x_NP)).astype(np.int64)
    return found


def _graph(x_NP: Array) -> Array:
    """Links between near events, [N, N]: the mean of "b is near a" and "a is near b", 1 on the diagonal."""
    squares = np.square(x_NP).sum(1)
    distance = squares[:, None] - 2 * x_NP @ x_NP.T + squares
    near = np.argpartition(distance, min(LINKS, len(x_NP) - 1), axis=1)[:, : LINKS + 1]
    linked = np.full(distance.shape, FAINT / len(x_NP))
    np.put_along_axis(linked, near, 1.0, axis=1)
    graph: Array = 0.5 * (linked + linked.T)
    np.fill_diagonal(graph, 1.0)
    return graph


def principal_clusters(train_NP: Array, test_NP: Array, axes: int, options: FitOptions) -> Labels:
    """A mixture on `axes` principal components of the training events, asked about the test events."""
    mean = train_NP.mean(0)
    # The axes of 2000 events are those of all: each has far fewer numbers that matter.
    _, _, directions = np.linalg.svd(train_NP[:2000] - mean, full_matrices=False)
    train_ND, test_ND = ((x - mean) @ directions[:axes].T for x in (train_NP, test_NP))
    scale = max(float(train_ND.std()), 1e-12)
    joint = fit_mixture(train_ND / scale, options).log_joint(test_ND / scale)
    clusters: Labels = joint.argmax(1)
    return clusters


def neighbour_classes(train_ND: Array, classes_N: Labels, test_ND: Array) -> Labels:
    """The most frequent class among the nearest training events; features in units of their spread."""
    if len(train_ND) < NEIGHBOURS:
        raise ModelError(
            f"neighbours: expected {NEIGHBOURS} labelled events or more, got {len(train_ND)}; give more"
        )
    spread = train_ND.std(0).clip(1e-12)
    train, test = train_ND / spread, test_ND / spread
    votes = np.zeros((len(test), classes_N.max() + 1))
    for start in range(0, len(test), 256):  # 256 x 6000 distances are 12 MB
        part = test[start : start + 256]
        squares = np.square(part).sum(1)[:, None] - 2 * part @ train.T + np.square(train).sum(1)
        near = np.argpartition(squares, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        rows = np.repeat(np.arange(start, start + len(part)), NEIGHBOURS)
        np.add.at(votes, (rows, classes_N[near].ravel()), 1)
    found: Labels = votes.argmax(1)
    return found
