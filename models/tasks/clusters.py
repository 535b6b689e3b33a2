"""An encoder trained without labels, then a mixture on its latent space.

Labels of the events are used for scores alone. What the encoder learns from besides the images is the fact
`again` of simulated events, a second exposure of the same droplet; events without it are their own.

N events, Z latent, D = 2 Z features.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import clustering, scores
from models.data_sets.data_set import DataSet
from models.manifest import Column, ModelError
from models.mixture import FitOptions, fit_mixture
from models.networks.ring_vae import RingMixtureEncoder, RingVAE
from models.networks.tcvae import TCVAE, TCVAEMixture
from models.networks.vae_encoder import mixture_features
from models.preprocess import Preprocess
from models.recipes.recipe import Recipe, Stage
from models.tasks.task import EVALUATION_BATCH, answers, by_name, rounded, turned

log = logging.getLogger(__name__)

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
# Of each architecture: what is trained, and what is shipped. Both have `encoder` and `decoder`.
FAMILIES: Final[Mapping[str, tuple[type[RingVAE | TCVAE], type[nn.Module]]]] = {
    "ring_mixture_encoder": (RingVAE, RingMixtureEncoder),
    "tcvae_mixture": (TCVAE, TCVAEMixture),
}
SCALE_EVENTS: Final = 1000  # from so many events the scale of the numbers is learned, to 3 %
RAMP: Final = 0.5  # share of the steps over which beta rises, as published
USED_NATS: Final = 0.01  # a latent that says less than this of an image is not used
STILL: Final = 0.01  # variance of a latent's mean that counts as none (Burda et al., arXiv 1509.00519)
RESTARTS: Final = 20  # of the mixture: with five, one fit in four was a worse optimum
# The published scores, of the images they were fitted on, not of these: for reference only.
PUBLISHED: Final = {
    "published_in_sample_homogeneity": 0.826,
    "published_in_sample_completeness": 0.872,
    "published_in_sample_adjusted_rand": 0.700,
    "published_in_sample_spectral_homogeneity": 0.204,
    "published_in_sample_spectral_completeness": 0.221,
    "published_in_sample_spectral_adjusted_rand": 0.321,
}


class ClusterTask:
    """beta-TCVAE; then the mixture on [mu, sigma] of the training events."""

    kind = "vae_mixture"
    extra_keys = frozenset({"beta", "regularisation"})

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        self.options: Mapping[str, Any] = dict(recipe.options)
        trained, shipped = FAMILIES[recipe.architecture]
        drawn = {key: value for key, value in recipe.options.items() if key != "components"}
        self.module: RingVAE | TCVAE = trained(**drawn)
        self.network: Any = shipped(**recipe.options)
        self.preprocess = Preprocess(recipe.preprocess, tuple(train.inputs.shape[1:]))
        self.fit_options = FitOptions(
            recipe.options["components"], recipe.seed, RESTARTS, regularisation=recipe.extra["regularisation"]
        )
        self.beta, self.steps = float(recipe.extra["beta"]), 1
        # A buffer, so that a resumed training goes on with the beta it had.
        self.module.register_buffer("step", torch.zeros((), dtype=torch.int64))
        names = tuple(f"z{i}" for i in range(recipe.options["latent"]))
        self.columns = (
            Column("mu", "float32", names),
            Column("log_variance", "float32", names),
            Column("cluster", "int32"),
            Column("log_likelihood", "float32"),
        )

    def begin(self, stage: Stage, train: DataSet) -> None:
        """Learn the scale of the numbers. Raises ModelError for events that cannot be learned from."""
        clustering.require_scikit_learn()
        _check_events(train, self.fit_options.components)
        self.steps = stage.epochs * math.ceil(len(train) / (stage.batch or len(train)))
        some = train.take(torch.arange(min(SCALE_EVENTS, len(train))))
        self.module.learn_scale(*self._exposures(some))

    def loss(self, batch: DataSet) -> Tensor:
        seen, bright = self._exposures(batch)
        beta = self.beta
        if self.module.training:
            step = self.module.get_buffer("step")
            beta = 1 + (self.beta - 1) * min(1.0, int(step) / max(1, RAMP * self.steps))
            step += 1
            seen, bright = turned(torch.cat([seen, bright], 1)).split(seen.shape[1], 1)
        return self.module.loss(seen, bright, beta)

    def _exposures(self, data: DataSet) -> tuple[Tensor, Tensor]:
        """Preprocessed: the images, and what is to be drawn of them."""
        seen = self.preprocess(data.inputs)
        if "again" not in data.facts:
            return seen, seen
        return seen, self.preprocess(data.facts["again"].to(data.inputs.device))

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        self.network.encoder.load_state_dict(self.module.encoder.state_dict())
        self.network.decoder.load_state_dict(self.module.decoder.state_dict())
        features, information_Z = self._latents(answers(self.preprocess, self.network, train))
        _warn_of_collapse(information_Z)
        self.network.mixture.set(fit_mixture(features, self.fit_options))
        network: nn.Module = self.network
        return network

    def _latents(self, packed: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[mu, sigma] [N, D], and what each latent tells of an image in nats, [Z].

        That is its mean KL divergence from the prior, or 0 if its mean is nearly the same for all images.
        """
        latent = self.options["latent"]
        mu, log_variance = (torch.from_numpy(packed[:, i * latent : (i + 1) * latent]) for i in (0, 1))
        information = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).mean(0)
        information = torch.where(mu.var(0, correction=0) < STILL, 0.0, information)
        return mixture_features(mu, log_variance).double().numpy(), information.double().numpy()

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        packed = answers(self.preprocess, network, test)
        features, information_Z = self._latents(packed)
        names = tuple(f"z{i}" for i in range(len(information_Z)))
        result: dict[str, Any] = {
            "median_log_likelihood": rounded(np.median(packed[:, -1])),
            "percentile_1_log_likelihood": rounded(np.percentile(packed[:, -1], 1)),
            "latent_nats": by_name(names, information_Z),
        }
        truth_N = primary_class(test)
        if len(np.unique(truth_N)) < 2:
            return result | {
                "not_scored": "clusters are scored on two classes or more, these events have one"
            }
        trained = answers(self.preprocess, network, train)
        labelled = (self._latents(trained)[0], primary_class(train))
        # in_sample_ is of the training events, as the published scores are.
        found = {
            "": (truth_N, packed[:, -2].astype(np.int64)),
            "baseline_": (truth_N, self._spectral(test)),
            "baseline_pca_": (truth_N, self._principal(train, test)),
            "supervised_neighbours_": (truth_N, clustering.neighbour_classes(*labelled, features)),
            "in_sample_": (labelled[1], trained[:, -2].astype(np.int64)),
        }
        for prefix, (truth, clusters) in found.items():
            values = scores.cluster_scores(truth, clusters)
            result |= {f"{prefix}{name}": rounded(value) for name, value in values.items()}
        six = len(test.target_names) == 6 and set(test.target_names) <= set(PRIMARY)
        return result | (PUBLISHED if six else {})

    def _spectral(self, test: DataSet) -> NDArray[np.int64]:
        """Of the images over their largest pixel, as the publication did it; of bare counts it is worse."""
        pixels = torch.cat([self.preprocess(raw) for raw in test.inputs.split(EVALUATION_BATCH)]).flatten(1)
        pixels = pixels / pixels.amax(1, keepdim=True).clamp_min(1e-6)
        return clustering.spectral_clusters(
            pixels.double().numpy(), self.fit_options.components, self.fit_options.seed
        )

    def _principal(self, train: DataSet, test: DataSet) -> NDArray[np.int64]:
        """As many components on as many principal axes of the logarithms as there are features."""
        pixels = [compressed_pixels(self.preprocess, data) for data in (train, test)]
        # The encoder's regularisation is made for a prior of variance 1; small axes would drown in it.
        options = FitOptions(self.fit_options.components, self.fit_options.seed, self.fit_options.restarts)
        return clustering.principal_clusters(pixels[0], pixels[1], 2 * self.options["latent"], options)


def primary_class(data: DataSet) -> NDArray[np.int64]:
    """One class an event, index into those of PRIMARY that the data know; into all if they know none."""
    known: list[str] = [name for name in PRIMARY if name in data.target_names]
    names = known or list(data.target_names)
    ordered = data.targets[:, [data.target_names.index(name) for name in names]] > 0.5
    first: NDArray[np.int64] = ordered.float().argmax(1).numpy()
    return first


def compressed_pixels(preprocess: Preprocess, data: DataSet) -> NDArray[np.float64]:
    """ln(1 + counts) over its maximum in an eighth of the pixels a side, flat."""
    parts = []
    for raw in data.inputs.split(EVALUATION_BATCH):
        decades = torch.log1p(F.avg_pool2d(preprocess(raw), 2, ceil_mode=True).clamp_min(0))
        bounded = decades / decades.amax((1, 2, 3), keepdim=True).clamp_min(1.0)
        parts.append(F.avg_pool2d(bounded, 4, ceil_mode=True))
    pixels: NDArray[np.float64] = torch.cat(parts).flatten(1).double().numpy()
    return pixels


def _check_events(train: DataSet, components: int) -> None:
    if len(train) <= components:
        raise ModelError(
            f"training events: expected more than the {components} components of the mixture, "
            f"got {len(train)}; give more events or fewer components"
        )
    if not train.inputs.is_floating_point():
        return
    bad = sum(int((~torch.isfinite(part).flatten(1).all(1)).sum()) for part in train.inputs.split(256))
    if bad:
        raise ModelError(
            f"training events: expected finite pixels, {bad} of {len(train)} events have others; "
            "mask those pixels (`mask` in the preprocessing) or drop the events"
        )


def _warn_of_collapse(information_Z: NDArray[np.float64]) -> None:
    """A warning, no error: the training is paid for, and the scores tell what it is worth."""
    used = int((information_Z >= USED_NATS).sum())
    if used < min(2, len(information_Z)):
        log.warning(
            "latent space: expected at least two latents that tell %s nats of an image, got %d (%s): it has "
            "collapsed; lower `beta`, train longer, or look whether the preprocessed images differ at all",
            USED_NATS,
            used,
            ", ".join(f"{value:.4f}" for value in information_Z),
        )
