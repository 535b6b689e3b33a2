"""What differs between the kinds of model: loss, what is fitted after training, columns, and scores.

`models.train` runs any of them through the interface `Task`. B batch, L labels, Z latent, T targets.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import scores
from models.data_sets import DataSet
from models.manifest import Column
from models.mixture import FitOptions, fit_mixture
from models.networks.droplet_cnn import DropletCNN
from models.networks.ednn import EDNN
from models.networks.vae_encoder import BetaTCVAE, MixtureEncoder, compress, mixture_features
from models.preprocess import Preprocess
from models.recipes import Recipe
from models.simulation.diffractograms import TARGET_NAMES
from models.simulation.labels import CLASSES

EVALUATION_BATCH: Final = 64
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


class Task(Protocol):
    """One kind of model in training. The trained module need not be the network that is shipped."""

    @property
    def preprocess(self) -> Preprocess:
        """The bundle's preprocessing."""
        ...

    @property
    def module(self) -> nn.Module:
        """What gradient descent trains."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """The result columns, in packed order."""
        ...

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Mean loss of one batch."""
        ...

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:
        """Fit what gradient descent does not, and give the network to ship."""
        ...

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        """Scores on held-out events, beside those of a trivial baseline."""
        ...


class ClassifierTask:
    """Sigmoid cross-entropy; thresholds by F1 on the validation events."""

    def __init__(self, recipe: Recipe) -> None:
        self.preprocess = Preprocess(recipe.preprocess, (128, 128))
        self.module = DropletCNN(**recipe.options)
        self.columns = (Column("p", "float32", CLASSES), Column("labels", "uint32"))

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.module.logits(_turned(self.preprocess(raw))), target)

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        p_NL = answers(self.preprocess, self.module, validation)[:, : len(CLASSES)].astype(np.float64)
        thresholds = scores.best_thresholds(validation.targets.numpy() > 0.5, p_NL)
        self.module.get_buffer("threshold").copy_(torch.from_numpy(thresholds))
        return self.module

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        truth_NL, p_NL = (
            test.targets.numpy() > 0.5,
            answers(self.preprocess, network, test)[:, : len(CLASSES)],
        )
        said_NL = p_NL > network.get_buffer("threshold").numpy()
        f1 = scores.f1_per_label(truth_NL, said_NL)
        ap = [scores.average_precision(t, p) for t, p in zip(truth_NL.T, p_NL.T, strict=True)]
        majority_NL = np.broadcast_to(most_frequent_set(train.targets), truth_NL.shape)
        return {
            "macro_f1": _round(f1.mean()),
            "macro_average_precision": _round(np.nanmean(ap)),
            "exact_match": _round((truth_NL == said_NL).all(1).mean()),
            "f1": _named(CLASSES, f1),
            "average_precision": _named(CLASSES, ap),
            "baseline_macro_f1": _round(scores.f1_per_label(truth_NL, majority_NL).mean()),
            "baseline_macro_average_precision": _round(truth_NL.mean()),
            "baseline_exact_match": _round((truth_NL == majority_NL).all(1).mean()),
        }


class MixtureTask:
    """beta-TCVAE; then the mixture on [mu, sigma] of the training events."""

    def __init__(self, recipe: Recipe) -> None:
        options = dict(recipe.options)
        self.fit_options = FitOptions(options.pop("components"), recipe.seed, **_fit_extra(recipe.extra))
        self.preprocess = Preprocess(recipe.preprocess, (128, 128))
        self.module = BetaTCVAE(**options)
        self.network = MixtureEncoder(**recipe.options)
        self.beta = recipe.extra["beta"]
        names = tuple(f"z{i}" for i in range(options["latent"]))
        self.columns = (
            Column("mu", "float32", names),
            Column("log_variance", "float32", names),
            Column("cluster", "int32"),
            Column("log_likelihood", "float32"),
        )

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002  (interface; this one needs no labels)
        return self.module.loss(_turned(self.preprocess(raw)), self.beta)

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        self.network.encoder.load_state_dict(self.module.encoder.state_dict())
        packed = torch.from_numpy(answers(self.preprocess, self.network, train))
        latent = self.network.encoder.head.out_features // 2
        features = mixture_features(packed[:, :latent], packed[:, latent : 2 * latent])
        self.network.mixture.set(fit_mixture(features.numpy(), self.fit_options))
        return self.network

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        packed, truth_N = answers(self.preprocess, network, test), primary_class(test.targets)
        result = _rounded(scores.cluster_scores(truth_N, packed[:, -2].astype(np.int64)))
        result["median_log_likelihood"] = _round(np.median(packed[:, -1]))
        result["percentile_1_log_likelihood"] = _round(np.percentile(packed[:, -1], 1))
        baseline = scores.cluster_scores(truth_N, self._baseline_clusters(train, test))
        return result | {f"baseline_{name}": _round(value) for name, value in baseline.items()}

    def _baseline_clusters(self, train: DataSet, test: DataSet) -> NDArray[np.int64]:
        """The same mixture on as many principal components of the compressed images."""
        images = [compressed_pixels(self.preprocess, data) for data in (train, test)]
        mean = images[0].mean(0)
        _, _, axes = np.linalg.svd(images[0][:2000] - mean, full_matrices=False)
        train_x, test_x = [(x - mean) @ axes[: self.network.packed_width - 2].T for x in images]
        joint = fit_mixture(train_x, self.fit_options).log_joint(test_x)
        clusters: NDArray[np.int64] = joint.argmax(1)
        return clusters


class SpectrumTask:
    """Mean squared error of standardised targets."""

    def __init__(self, recipe: Recipe) -> None:
        self.preprocess = Preprocess(recipe.preprocess, (recipe.options["points"],))
        self.module = EDNN(**recipe.options)
        latent = tuple(f"t{i}" for i in range(recipe.options["latent"]))
        self.columns = (Column("latent", "float32", latent), Column("target", "float32", TARGET_NAMES))

    def prepare(self, train: DataSet) -> None:
        """Learn the targets' scale."""
        self.module.get_buffer("target_mean").copy_(train.targets.mean(0))
        self.module.get_buffer("target_std").copy_(train.targets.std(0))

    def loss(self, raw: Tensor, target: Tensor) -> Tensor:
        mean, std = self.module.get_buffer("target_mean"), self.module.get_buffer("target_std")
        _, scaled_BT = self.module.both(self.preprocess(raw))
        return F.mse_loss(scaled_BT, (target - mean) / std)

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        return self.module

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        truth = test.targets.double().numpy()
        said = answers(self.preprocess, network, test)[:, -truth.shape[1] :].astype(np.float64)
        scale = truth.std(0)
        each = [scores.covered_variance(t[:, None], s[:, None]) for t, s in zip(truth.T, said.T, strict=True)]
        return {
            "covered_variance": _round(scores.covered_variance(truth / scale, said / scale)),
            "covered_variance_each": _named(TARGET_NAMES, each),
            "mean_absolute_error": _named(TARGET_NAMES, np.abs(truth - said).mean(0)),
            "baseline_covered_variance": _round(self._baseline(train, test, scale)),
        }

    def _baseline(self, train: DataSet, test: DataSet, scale: NDArray[np.float64]) -> float:
        """A linear map from as many principal components of the curves as the network has latent numbers."""
        x_train, x_test = (self.preprocess(data.inputs)[:, 0].double().numpy() for data in (train, test))
        mean = x_train.mean(0)
        _, _, axes = np.linalg.svd(x_train[:1000] - mean, full_matrices=False)
        pair = [(x - mean) @ axes[: len(self.columns[0].labels)].T for x in (x_train, x_test)]
        a_train, a_test = (np.column_stack([t, np.ones(len(t))]) for t in pair)
        solution = np.linalg.lstsq(a_train, train.targets.double().numpy(), rcond=None)[0]
        return scores.covered_variance(test.targets.double().numpy() / scale, a_test @ solution / scale)


def build_task(recipe: Recipe, train: DataSet) -> Task:
    """The task of the recipe's kind."""
    if recipe.kind == "ednn":
        task = SpectrumTask(recipe)
        task.prepare(train)
        return task
    return ClassifierTask(recipe) if recipe.kind == "classifier" else MixtureTask(recipe)


def answers(preprocess: Preprocess, network: nn.Module, data: DataSet) -> NDArray[np.float32]:
    """Packed float32 [N, R] of all events, in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        parts = [network(preprocess(raw)) for raw in data.inputs.split(EVALUATION_BATCH)]
        packed: NDArray[np.float32] = torch.cat(parts).numpy()
        return packed


def most_frequent_set(targets: Tensor) -> NDArray[np.bool_]:
    """The label set that most events have, bool [L]: what to answer without looking."""
    sets, counts = targets.unique(dim=0, return_counts=True)
    frequent: NDArray[np.bool_] = (sets[counts.argmax()] > 0.5).numpy()
    return frequent


def primary_class(targets: Tensor) -> NDArray[np.int64]:
    """One class an event, index into PRIMARY."""
    ordered = targets[:, [CLASSES.index(name) for name in PRIMARY]] > 0.5
    first: NDArray[np.int64] = ordered.float().argmax(1).numpy()
    return first


def compressed_pixels(preprocess: Preprocess, data: DataSet) -> NDArray[np.float64]:
    """What the encoder sees, in 16 x 16 pixels, flat: [N, 256]."""
    parts = [F.avg_pool2d(compress(preprocess(raw)), 4) for raw in data.inputs.split(EVALUATION_BATCH)]
    pixels: NDArray[np.float64] = torch.cat(parts).flatten(1).double().numpy()
    return pixels


def _turned(x_BCHW: Tensor) -> Tensor:
    """One of the eight flips and quarter turns, as physics knows no up; one draw a batch is enough."""
    draw = int(torch.randint(8, ()))
    x = x_BCHW.transpose(2, 3) if draw & 1 else x_BCHW
    axes = [axis for axis, bit in ((2, 2), (3, 4)) if draw & bit]
    return x.flip(axes) if axes else x


def _fit_extra(extra: Mapping[str, float]) -> dict[str, Any]:
    return {"regularisation": extra["regularisation"]}


def _round(value: Any) -> float:
    return round(float(value), 5)


def _rounded(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: _round(value) for name, value in values.items()}


def _named(names: tuple[str, ...], values: Any) -> dict[str, float | None]:
    """Beside each name its value; null where a class did not occur."""
    return {n: None if np.isnan(v) else _round(v) for n, v in zip(names, values, strict=True)}
