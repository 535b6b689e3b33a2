"""An encoder trained without labels, then a mixture on its latent space.

N events, Z latent.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import scores
from models.data_sets.data_set import DataSet
from models.manifest import Column
from models.mixture import FitOptions, fit_mixture
from models.networks.vae_encoder import BetaTCVAE, MixtureEncoder, compress, mixture_features
from models.preprocess import Preprocess
from models.recipes.recipe import Recipe, Stage
from models.tasks.task import EVALUATION_BATCH, answers, rounded, turned

# The class an image counts as when clusters are scored: the first of these that it has.
PRIMARY: Final = (
    "Empty",
    "Layered",
    "DoubleRings",
    "NewtonRings",
    "Streak",
    "Bent",
    "Asymmetric",
    "Prolate",
    "Elliptical",
    "Round",
)


class ClusterTask:
    """beta-TCVAE; then the mixture on [mu, sigma] of the training events."""

    kind = "vae_mixture"

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        self.options: Mapping[str, Any] = dict(recipe.options)
        drawn = {key: value for key, value in recipe.options.items() if key != "components"}
        self.fit_options = FitOptions(
            recipe.options["components"], recipe.seed, regularisation=recipe.extra["regularisation"]
        )
        self.preprocess = Preprocess(recipe.preprocess, tuple(train.inputs.shape[1:]))
        self.module = BetaTCVAE(**drawn)
        self.network = MixtureEncoder(**recipe.options)
        self.beta = recipe.extra["beta"]
        names = tuple(f"z{i}" for i in range(recipe.options["latent"]))
        self.columns = (
            Column("mu", "float32", names),
            Column("log_variance", "float32", names),
            Column("cluster", "int32"),
            Column("log_likelihood", "float32"),
        )

    def begin(self, stage: Stage, train: DataSet) -> None:
        """Nothing: there is one stage, and nothing to learn before it."""

    def loss(self, batch: DataSet) -> Tensor:
        return self.module.loss(turned(self.preprocess(batch.inputs)), self.beta)

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        self.network.encoder.load_state_dict(self.module.encoder.state_dict())
        packed = torch.from_numpy(answers(self.preprocess, self.network, train))
        latent = self.options["latent"]
        features = mixture_features(packed[:, :latent], packed[:, latent : 2 * latent])
        self.network.mixture.set(fit_mixture(features.numpy(), self.fit_options))
        return self.network

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        packed, truth_N = answers(self.preprocess, network, test), primary_class(test)
        clusters = scores.cluster_scores(truth_N, packed[:, -2].astype(np.int64))
        result = {name: rounded(value) for name, value in clusters.items()}
        result["median_log_likelihood"] = rounded(np.median(packed[:, -1]))
        result["percentile_1_log_likelihood"] = rounded(np.percentile(packed[:, -1], 1))
        baseline = scores.cluster_scores(truth_N, self._baseline_clusters(train, test))
        return result | {f"baseline_{name}": rounded(value) for name, value in baseline.items()}

    def _baseline_clusters(self, train: DataSet, test: DataSet) -> NDArray[np.int64]:
        """The same mixture on as many principal components of the compressed images."""
        images = [compressed_pixels(self.preprocess, data) for data in (train, test)]
        mean = images[0].mean(0)
        _, _, axes = np.linalg.svd(images[0][:2000] - mean, full_matrices=False)
        train_x, test_x = [(x - mean) @ axes[: self.network.packed_width - 2].T for x in images]
        joint = fit_mixture(train_x, self.fit_options).log_joint(test_x)
        clusters: NDArray[np.int64] = joint.argmax(1)
        return clusters


def primary_class(data: DataSet) -> NDArray[np.int64]:
    """One class an event, index into those of PRIMARY that the data know."""
    names = [name for name in PRIMARY if name in data.target_names]
    ordered = data.targets[:, [data.target_names.index(name) for name in names]] > 0.5
    first: NDArray[np.int64] = ordered.float().argmax(1).numpy()
    return first


def compressed_pixels(preprocess: Preprocess, data: DataSet) -> NDArray[np.float64]:
    """What the encoder sees, in 16 x 16 pixels, flat: [N, 256]."""
    parts = [F.avg_pool2d(compress(preprocess(raw)), 4) for raw in data.inputs.split(EVALUATION_BATCH)]
    pixels: NDArray[np.float64] = torch.cat(parts).flatten(1).double().numpy()
    return pixels
