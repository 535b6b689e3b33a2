"""Encoder-decoders between structure and spectrum: what is fitted, what is shipped, how it is scored.

`StructureTask` trains a network in the direction in which it runs (EDNN both ways; NNCA and ECA from
structure to spectrum). `InverseTask` trains an NNCA or an emulator from structure to spectrum on the same
events and ships its inverse, which runs from spectrum to structure.

N events, D input points, k latent, T targets.
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
from models.manifest import Column, ModelError
from models.networks.eca import ECA, DirectionFit, fit_directions
from models.networks.ednn import EDNN, set_scale, standardised
from models.networks.nnca import NNCA, VectorCoder, departure
from models.networks.spectrum_inverse import SpectrumInverse
from models.preprocess import Preprocess
from models.recipes.recipe import Recipe, Stage
from models.structure_scores import component_regression, partial_least_squares, spread, z_scored
from models.tasks.task import answers, by_name, rounded

ARCHITECTURES: Final[Mapping[str, type[EDNN] | type[NNCA] | type[ECA]]] = {
    "ednn": EDNN,
    "nnca": NNCA,
    "eca": ECA,
}
Coder = EDNN | NNCA | ECA
Array = NDArray[np.float64]
# Scores of single targets are for structures of a few coordinates, not for the points of a spectrum.
MOST_NAMED: Final = 32

EXTRA: Final[Mapping[str, Any]] = {"shared_scale": False, "eca": {}}  # of a recipe, where it says nothing


class StructureTask:
    """Mean squared error of standardised targets.

    Keys of `recipe.extra`: `shared_scale` (true: one scale for all targets, as spectra need), `eca` (options
    of the fit of its directions).
    """

    kind = "encoder_decoder"
    extra_keys = frozenset(EXTRA)

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        _check(train)
        self._extra = _extra(recipe)
        self.preprocess = Preprocess(recipe.preprocess, tuple(train.inputs.shape[1:]))
        points = self.preprocess(train.inputs[:1]).flatten(1).shape[1]
        self.options = {**recipe.options, "points": points, "targets": train.targets.shape[1]}
        self.module: Coder = _build(ARCHITECTURES, recipe.architecture, self.options)
        self.columns = _columns(self.options["latent"], train.target_names)

    def begin(self, stage: Stage, train: DataSet) -> None:  # noqa: ARG002  (interface)
        """Learn the scales; from here on NNCA's vectors stay orthonormal."""
        set_scale(self.module, "target", train.targets, self._extra["shared_scale"])
        if hasattr(self.module, "input_mean"):
            set_scale(self.module, "input", self.preprocess(train.inputs).flatten(1), shared=False)
        if isinstance(self.module, NNCA):
            self.module.constrain()

    def loss(self, batch: DataSet) -> Tensor:
        return _loss(self.module, self.preprocess(batch.inputs), batch.targets)

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        finish_vectors(self.module, (self.preprocess(train.inputs), train.targets), self._extra["eca"])
        return self.ship(train)

    def ship(self, train: DataSet) -> nn.Module:  # noqa: ARG002  (as InverseTask's)
        """The network to ship, its vectors being final."""
        return self.module

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        said = answers(self.preprocess, network, test)
        result = scored(said[:, self.options["latent"] :], test, self._extra["shared_scale"])
        if isinstance(network, VectorCoder):
            result |= _structure_cover(network, self.preprocess(test.inputs).flatten(1))
        return result | _baselines(self, train, test)

    @property
    def shared_scale(self) -> bool:
        """Whether errors of all targets count in one unit."""
        return bool(self._extra["shared_scale"])


class InverseTask:
    """An emulator of the preprocessed spectra, trained from their structures; its inverse is shipped.

    `recipe.architecture` is "spectrum_inverse", the emulator of its option `search` "nnca" or "eca".
    """

    kind = "encoder_decoder"
    extra_keys = frozenset(EXTRA)
    shared_scale = False  # structures: each coordinate counts in its own spread

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        _check(train)
        self._extra, self._seed = _extra(recipe), recipe.seed
        self.preprocess = Preprocess(recipe.preprocess, tuple(train.inputs.shape[1:]))
        points = self.preprocess(train.inputs[:1]).flatten(1).shape[1]
        self.options = {**recipe.options, "points": points, "targets": train.targets.shape[1]}
        table = {"spectrum_inverse": SpectrumInverse}
        self.network: SpectrumInverse = _build(table, recipe.architecture, self.options)
        self.module = self.network.emulator
        self.columns = _columns(self.options["latent"], train.target_names)

    def begin(self, stage: Stage, train: DataSet) -> None:  # noqa: ARG002  (interface)
        """Learn both scales; from here on NNCA's vectors stay orthonormal."""
        set_scale(self.module, "input", train.targets, shared=False)
        set_scale(self.module, "target", self._spectra(train), shared=True)
        if isinstance(self.module, NNCA):
            self.module.constrain()

    def loss(self, batch: DataSet) -> Tensor:
        return _loss(self.module, batch.targets, self._spectra(batch))

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        finish_vectors(self.module, (train.targets, self._spectra(train)), self._extra["eca"])
        return self.ship(train)

    def ship(self, train: DataSet) -> nn.Module:
        """The inverse, its bank drawn from the training structures; the vectors being final."""
        self.network.to(self.module.vectors.device)
        bank = len(self.network.get_buffer("bank_latent"))
        generator = torch.Generator().manual_seed(self._seed)
        drawn = torch.randint(len(train), (bank,), generator=generator)
        with torch.no_grad():
            self.network.prepare(self.module.encode(train.targets[drawn].to(self.module.vectors.device)))
        return self.network

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        said = answers(self.preprocess, network, test)
        result = scored(said[:, self.options["latent"] :], test, self.shared_scale)
        return result | {"orthonormality": departure(self.module.vectors)} | _baselines(self, train, test)

    def _spectra(self, data: DataSet) -> Tensor:
        spectra_NT: Tensor = self.preprocess(data.inputs).flatten(1)
        return spectra_NT


def finish_vectors(module: Coder | VectorCoder, data: tuple[Tensor, Tensor], fit: Mapping[str, Any]) -> None:
    """After the descent: plain vectors of NNCA, or the directions of ECA on its emulator.

    data: structure and spectrum in their own units; fit: options of DirectionFit.
    """
    module.eval()
    if isinstance(module, NNCA):
        module.release()
    if isinstance(module, ECA):
        device = module.vectors.device
        z_ND = standardised(module, "input", data[0].flatten(1).to(device))
        y_NT = standardised(module, "target", data[1].to(device))
        module.set_directions(
            fit_directions(module.emulator, (z_ND, y_NT), len(module.vectors), DirectionFit(**fit))
        )


def scored(said_NT: NDArray[np.float32], test: DataSet, shared_scale: bool) -> dict[str, Any]:
    """Covered variance of all targets, and of each with its mean absolute error where they are few."""
    truth, said = test.targets.double().numpy(), said_NT.astype(np.float64)
    result: dict[str, Any] = {"covered_variance": rounded(covered(truth, said, shared_scale))}
    if truth.shape[1] <= MOST_NAMED:
        each = [_of_one(t, s) for t, s in zip(truth.T, said.T, strict=True)]
        result["covered_variance_each"] = by_name(test.target_names, each)
        result["mean_absolute_error"] = by_name(test.target_names, np.abs(truth - said).mean(0))
    return result


def _of_one(truth_N: Array, said_N: Array) -> float:
    """Covered variance of one target; NaN where the truth does not vary."""
    if np.ptp(truth_N) == 0:
        return float("nan")
    return scores.covered_variance(truth_N[:, None], said_N[:, None])


def covered(truth_NT: Array, said_NT: Array, shared_scale: bool) -> float:
    """The trace form; targets of different units count in their spread, a constant one in its own unit."""
    scale = 1.0 if shared_scale else spread(truth_NT)
    return scores.covered_variance(truth_NT / scale, said_NT / scale)


def _loss(module: Coder | VectorCoder, x: Tensor, y_NT: Tensor) -> Tensor:
    return F.mse_loss(module.predict_scaled(x).float(), standardised(module, "target", y_NT))


def _structure_cover(network: VectorCoder, x_ND: Tensor) -> dict[str, Any]:
    """How much of the structures themselves the vectors cover, and how orthonormal these are."""
    with torch.no_grad():
        pair = x_ND, network.expand(network.encode(x_ND))
        z, back = (standardised(network, "input", part).double().numpy() for part in pair)
    return {
        "covered_structure_variance": rounded(scores.covered_variance(z, back)),
        "orthonormality": departure(network.vectors),
    }


def _baselines(task: StructureTask | InverseTask, train: DataSet, test: DataSet) -> dict[str, Any]:
    """Linear maps through as many numbers: principal components, partial least squares."""
    x_train, x_test = (task.preprocess(data.inputs).flatten(1).double().numpy() for data in (train, test))
    if task.preprocess.spec["steps"] == []:  # a structure: coordinates of different units
        x_train, x_test = z_scored(x_train, x_train), z_scored(x_test, x_train)
    y_train, y_test = train.targets.double().numpy(), test.targets.double().numpy()
    scale = 1.0 if task.shared_scale else spread(y_train)
    pair, k = (x_train, y_train / scale), task.options["latent"]
    linear, pls = component_regression(pair, x_test, k), partial_least_squares(pair, x_test, k)
    return {
        "baseline_covered_variance": rounded(covered(y_test, linear * scale, task.shared_scale)),
        "baseline_pls_covered_variance": rounded(covered(y_test, pls * scale, task.shared_scale)),
    }


def _columns(latent: int, names: tuple[str, ...]) -> tuple[Column, ...]:
    labels = tuple(f"t{i}" for i in range(latent))
    return Column("latent", "float32", labels), Column("target", "float32", names)


def _extra(recipe: Recipe) -> dict[str, Any]:
    return {**EXTRA, **recipe.extra}


def _build(table: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> Any:
    if name not in table:
        raise ModelError(
            f"architecture of a structure recipe: expected one of {tuple(table)}, got {name!r}; correct it"
        )
    try:
        return table[name](**options)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"options of {name}: expected {error}; got {dict(options)}; correct the recipe"
        ) from error


def _check(train: DataSet) -> None:
    """Raises ModelError for values that no regression can learn from."""
    for what, values in (("inputs", train.inputs), ("targets", train.targets)):
        bad = int((~values.float().isfinite().flatten(1).all(1)).sum())
        if bad:
            got = f"{bad} of {len(train)} events with NaN or infinity"
            raise ModelError(f"training {what}: expected finite numbers, got {got}; leave those events out")
    if len(train) < 2 or bool((train.targets == train.targets[:1]).all()):
        raise ModelError(
            f"training targets: expected different values, got {len(train)} events that are all alike; "
            "give events that differ in structure"
        )
