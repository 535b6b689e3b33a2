"""A Gaussian mixture with full covariances: fitted in numpy float64, evaluated in torch inside the network.

Expectation-maximisation in log space with k-means++ starts, after the structure of scikit-learn's
mixture/_gaussian_mixture.py (precisions kept as Cholesky factors); written anew so that serving needs no
scikit-learn and a bundle no pickle.

N events, D features, K components, B batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.manifest import ModelError

Array = NDArray[np.float64]
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class FitOptions:
    """How to fit: `regularisation` is added to every variance, in squared units of the features."""

    components: int
    seed: int = 0
    restarts: int = 5  # k-means++ starts differ by a few nats; five find the best or near it
    max_iterations: int = 300
    tolerance: float = 1e-4  # nats an event: below it another step changes no assignment that matters
    regularisation: float = 1e-4


@dataclass(frozen=True)
class Mixture:
    """log_weights [K], means [K, D], precision_factors [K, D, D] with precision = factor factor^T."""

    log_weights: Array
    means: Array
    precision_factors: Array
    mean_log_likelihood: float

    def log_joint(self, x_ND: Array) -> Array:
        """log(weight_k N(x | k)), [N, K]."""
        y_NKD = np.einsum("nd,kde->nke", x_ND, self.precision_factors)
        y_NKD -= np.einsum("kd,kde->ke", self.means, self.precision_factors)
        log_det_K = np.log(np.diagonal(self.precision_factors, axis1=1, axis2=2)).sum(1)
        squares_NK: Array = np.square(y_NKD).sum(2)
        joint_NK: Array = -0.5 * (squares_NK + x_ND.shape[1] * LOG_2PI) + log_det_K + self.log_weights
        return joint_NK


def log_sum_exp(a_NK: Array) -> Array:
    """log(sum(exp)) over the last axis, safe for large negatives."""
    top = a_NK.max(-1)
    result: Array = top + np.log(np.exp(a_NK - top[..., None]).sum(-1))
    return result


def fit_mixture(x_ND: Array, options: FitOptions) -> Mixture:
    """The best of `restarts` fits by mean log-likelihood; raises ModelError when the data cannot carry it."""
    x = np.ascontiguousarray(x_ND, np.float64)
    _check_data(x, options)
    rng = np.random.default_rng(options.seed)
    fits = [_fit_once(x, options, rng) for _ in range(options.restarts)]
    return max(fits, key=lambda fit: fit.mean_log_likelihood)


def _check_data(x: Array, options: FitOptions) -> None:
    if x.ndim != 2 or options.components < 1 or options.restarts < 1:
        raise ModelError(
            f"mixture: expected [N, D] data, components and restarts >= 1, got {x.shape} and {options}"
        )
    if len(x) <= options.components:
        raise ModelError(
            f"mixture: {options.components} components need more events than that, got {len(x)}; "
            "give more events or fewer components"
        )
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(1).sum())
        raise ModelError(
            f"mixture: expected finite features, {bad} of {len(x)} events are not; drop those events"
        )


def _fit_once(x: Array, options: FitOptions, rng: np.random.Generator) -> Mixture:
    responsibility = _kmeans_start(x, options.components, rng)
    before = -math.inf
    mixture = _maximise(x, responsibility, options, before)
    for _ in range(options.max_iterations):
        joint = mixture.log_joint(x)
        total = log_sum_exp(joint)
        now = float(total.mean())
        mixture = _maximise(x, np.exp(joint - total[:, None]), options, now)
        if now - before < options.tolerance:
            break
        before = now
    return mixture


def _kmeans_start(x: Array, components: int, rng: np.random.Generator) -> Array:
    """Hard responsibilities from k-means++ centres (Arthur and Vassilvitskii 2007) and ten k-means steps."""
    centres = x[rng.integers(len(x))][None]
    for _ in range(components - 1):
        distance = _squared_distances(x, centres).min(1)
        share = distance / distance.sum() if distance.sum() > 0 else None
        centres = np.vstack([centres, x[rng.choice(len(x), p=share)]])
    for _ in range(10):
        nearest = _squared_distances(x, centres).argmin(1)
        members = [x[nearest == k] for k in range(components)]
        centres = np.stack([m.mean(0) if len(m) else centres[k] for k, m in enumerate(members)])
    one_hot: Array = np.eye(components)[_squared_distances(x, centres).argmin(1)]
    return one_hot


def _squared_distances(x: Array, centres: Array) -> Array:
    distances: Array = np.square(x[:, None] - centres[None]).sum(2)
    return distances


def _maximise(x: Array, responsibility_NK: Array, options: FitOptions, score: float) -> Mixture:
    count_K = responsibility_NK.sum(0) + 10 * np.finfo(np.float64).eps
    means = responsibility_NK.T @ x / count_K[:, None]
    covariances = np.stack(
        [
            ((x - m) * r[:, None]).T @ (x - m) / n
            for m, r, n in zip(means, responsibility_NK.T, count_K, strict=True)
        ]
    )
    covariances += options.regularisation * np.eye(x.shape[1])
    return Mixture(np.log(count_K / count_K.sum()), means, _precision_factors(covariances, options), score)


def _precision_factors(covariances: Array, options: FitOptions) -> Array:
    """Upper-triangular factors U with U U^T = covariance^-1."""
    try:
        lower = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError as error:
        raise ModelError(
            f"mixture: a covariance is not positive definite with regularisation {options.regularisation}: "
            "a component has fallen onto a few events, or features repeat each other; "
            "use fewer components or more regularisation"
        ) from error
    factors: Array = np.linalg.inv(lower).transpose(0, 2, 1)
    return factors


class MixtureHead(nn.Module):
    """A fitted mixture: features [B, D] -> component [B] (int64) and log-likelihood [B] (float32)."""

    def __init__(self, components: int, features: int) -> None:
        super().__init__()
        if components < 1 or features < 1:
            raise ValueError(f"components and features must be positive, got {components} and {features}")
        self.register_buffer("means", torch.zeros(components, features))
        self.register_buffer("factors", torch.eye(features).repeat(components, 1, 1))
        self.register_buffer(
            "offsets", torch.zeros(components)
        )  # log weight + log determinant - D/2 log 2 pi

    def set(self, mixture: Mixture) -> None:
        """Take the constants of a fit."""
        log_det_K = np.log(np.diagonal(mixture.precision_factors, axis1=1, axis2=2)).sum(1)
        offsets = mixture.log_weights + log_det_K - 0.5 * mixture.means.shape[1] * LOG_2PI
        self.get_buffer("means").copy_(torch.from_numpy(mixture.means))
        self.get_buffer("factors").copy_(torch.from_numpy(mixture.precision_factors))
        self.get_buffer("offsets").copy_(torch.from_numpy(offsets))

    def forward(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x_BD.device.type, enabled=False):  # differences of large squares need float32
            centred_BKD = x_BD.float()[:, None] - self.get_buffer("means")
            y_BKD = torch.einsum("bkd,kde->bke", centred_BKD, self.get_buffer("factors"))
            joint_BK = self.get_buffer("offsets") - 0.5 * y_BKD.square().sum(2)
            return joint_BK.argmax(1), torch.logsumexp(joint_BK, 1)
