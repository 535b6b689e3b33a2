"""How much of a spectrum a few numbers cover, and what a linear method gets out of as many.

The covered variance itself is in `models.scores`. N events, D input coordinates, T targets, k latent.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Array = NDArray[np.float64]

# A linear map of a few numbers is settled long before this many events; diffractograms of 4023 points fit in
# memory twice.
BASELINE_EVENTS: Final = 3000


def spread(values_NT: Array) -> Array:
    """Standard deviation of each column, 1 for a constant one."""
    std_T = values_NT.std(0)
    safe_T: Array = np.where(std_T > 0, std_T, 1.0)
    return safe_T


def z_scored(x_ND: Array, like_ND: Array) -> Array:
    """Columns less the mean of those of `like_ND`, over their spread."""
    scaled: Array = (x_ND - like_ND.mean(0)) / spread(like_ND)
    return scaled


def principal_axes(x_ND: Array, k: int) -> Array:
    """The k directions of largest variance, [k, D], rows orthonormal."""
    _, _, axes = np.linalg.svd(x_ND - x_ND.mean(0), full_matrices=False)
    first: Array = axes[:k]
    return first


def component_regression(train: tuple[Array, Array], x_test: Array, k: int) -> Array:
    """Targets [N, T] from the first k principal components of the inputs by least squares."""
    x, y = train[0][:BASELINE_EVENTS], train[1][:BASELINE_EVENTS]
    mean, axes = x.mean(0), principal_axes(x, k)
    design, new = (np.column_stack([(part - mean) @ axes.T, np.ones(len(part))]) for part in (x, x_test))
    said: Array = new @ np.linalg.lstsq(design, y, rcond=None)[0]
    return said


def partial_least_squares(train: tuple[Array, Array], x_test: Array, k: int) -> Array:
    """Targets [N, T] by partial least squares with k components. Raises ModelError without scikit-learn."""
    try:
        from sklearn.cross_decomposition import PLSRegression
    except ImportError as error:
        remedy = "pip install -c constraints.txt '.[train]'"
        raise ModelError(f"partial least squares: scikit-learn is not installed; {remedy}") from error
    model: Any = PLSRegression(n_components=k, scale=False, max_iter=2000)
    model.fit(train[0][:BASELINE_EVENTS], train[1][:BASELINE_EVENTS])
    said: Array = np.asarray(model.predict(x_test), np.float64).reshape(len(x_test), -1)
    return said
