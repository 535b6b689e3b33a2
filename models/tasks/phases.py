"""Classes that exclude each other, such as the phases along a pressure ramp: one answer an event.

Owns loss, believability weights and scores; the networks are `models.networks.spectra_*` and `binned`.
The classes are those of the training events, the ramp's or the user's own. N events, L classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import phase_scores, scores
from models.architectures import ARCHITECTURES
from models.data_sets.data_set import DataSet
from models.manifest import Column, ModelError
from models.networks.binned import BinnedNetwork
from models.networks.spectra_head import PhaseNetwork, VotingNetwork
from models.phase_baseline import LinearSoftmax, fit_linear, fit_softmax
from models.preprocess import Preprocess
from models.recipes.recipe import Recipe, Stage
from models.simulation import diffractograms
from models.simulation.pressure_ramps import PHASES
from models.spectrum_views import mounted_anew
from models.tasks.task import EVALUATION_BATCH, answers, by_name, rounded

# What says something of an answer that looks at nothing: its P_conf is 1, for it never wavers.
OF_MAJORITY: Final = ("accuracy", "macro_f1", "p_conf", "boundary_error_curves")


class PhaseTask:
    """Cross-entropy of a softmax; the baseline is a linear softmax on the same input.

    Of the recipe's `extra`: `mounted_anew` (default false), whether training spectra are moved and scaled a
    little each time they are seen, as they are between runs.
    """

    kind = "phases"
    extra_keys = frozenset({"mounted_anew"})

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        _check(train)
        self.names, points = train.target_names, train.inputs.shape[1]
        self.options: Mapping[str, Any] = {**recipe.options, "points": points, "classes": len(self.names)}
        self.preprocess = Preprocess(recipe.preprocess, (points,))
        self.network = network_of(recipe, self.options)
        self.module: nn.Module = self.network
        self.columns = (Column("p", "float32", self.names), Column("phase", "int32"))
        self._changes = bool(recipe.extra.get("mounted_anew", False))
        self._linear: LinearSoftmax | None = None

    def begin(self, stage: Stage, train: DataSet) -> None:
        """Nothing: there is one stage, and nothing to learn before it."""

    def loss(self, batch: DataSet) -> Tensor:
        seen = self._changed(batch) if self.module.training else batch
        return self.network.loss(self.preprocess(seen.inputs), seen.targets)

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        if isinstance(self.network, BinnedNetwork):
            self._believe(self.network, train)
        if isinstance(self.network, VotingNetwork):
            shares_NL = self._of_all(self.network, self.network.shares, self._changed(train))
            fit_softmax(self.network.decide, shares_NL, train.targets)
        return self.network

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        packed = answers(self.preprocess, network, test)
        p_NL = packed[:, : len(self.names)].astype(np.float64)
        linear_NL = self._fitted(train)(self.preprocess, test).double().numpy()
        majority_L = np.eye(len(self.names))[int(train.targets.sum(0).argmax())]
        found = self._scored(test, p_NL)
        found |= baseline("linear", self._scored(test, linear_NL))
        majority = self._scored(test, np.broadcast_to(majority_L, p_NL.shape))
        found |= baseline("majority", {key: majority[key] for key in OF_MAJORITY if key in majority})
        if isinstance(network, VotingNetwork):
            share_NL = self._of_all(network, network.shares, test).double().numpy()
            found |= baseline("published_vote", self._scored(test, share_NL))
        if not _whole_runs(test) and self.names == PHASES and test.inputs.shape[1] == diffractograms.POINTS:
            found["measured_right"] = self._measured(network)
        return found

    def _scored(self, test: DataSet, p_NL: NDArray[np.float64]) -> dict[str, Any]:
        """Of any answer, the network's or a baseline's."""
        truth_N, said_N = test.targets.argmax(1).numpy(), p_NL.argmax(1)
        one_hot = np.eye(len(self.names), dtype=bool)
        truth_NL, said_NL = one_hot[truth_N], one_hot[said_N]
        found: dict[str, Any] = {
            "accuracy": rounded((truth_N == said_N).mean()),
            "macro_f1": rounded(scores.macro_f1(truth_NL, said_NL)),
            "f1": by_name(self.names, scores.f1_per_label(truth_NL, said_NL)),
        }
        if _whole_runs(test):
            along = phase_scores.ramp_scores(_runs(test), p_NL, said_N)
            found |= {name: rounded(value) for name, value in along.items()}
        return found

    def _measured(self, network: nn.Module) -> dict[str, Any]:
        """The two measured curves that are public: the only events here that no simulation made."""
        intensity, label = diffractograms.measured()
        data = DataSet(torch.from_numpy(intensity), torch.eye(len(self.names))[label], self.names)
        packed = answers(self.preprocess, network, data)
        p_right = packed[np.arange(len(label)), label]
        return {
            "curves": len(label),
            "right": int((packed[:, -1] == label).sum()),
            "p_right": [rounded(p) for p in p_right],
        }

    def _fitted(self, train: DataSet) -> LinearSoftmax:
        if self._linear is None:
            self._linear = fit_linear(self.preprocess, train)
        return self._linear

    def _changed(self, data: DataSet) -> DataSet:
        """As they are seen in training."""
        if not self._changes:
            return data
        parts = [mounted_anew(raw.float()) for raw in data.inputs.split(EVALUATION_BATCH)]
        return replace(data, inputs=torch.cat(parts))

    def _of_all(self, network: nn.Module, ask: Callable[[Tensor], Tensor], data: DataSet) -> Tensor:
        """What one method of the network gives for all events."""
        network.eval()
        with torch.no_grad():
            return torch.cat([ask(self.preprocess(raw)) for raw in data.inputs.split(EVALUATION_BATCH)])

    def _believe(self, network: BinnedNetwork, train: DataSet) -> None:
        """Weigh each bin by the share of training points that it labels right."""
        votes_NKL = self._of_all(network, network.votes, self._changed(train))
        accuracy_K = (votes_NKL * train.targets[:, None]).sum(2).double().mean(0)
        believed = torch.from_numpy(phase_scores.believability(accuracy_K.numpy())).float()
        network.get_buffer("believability_K").copy_(believed)


def network_of(recipe: Recipe, options: Mapping[str, Any]) -> PhaseNetwork:
    """The recipe's network, untrained. Raises ModelError for one whose classes do not exclude each other."""
    architecture = ARCHITECTURES.get(recipe.architecture)
    known = tuple(name for name, kind in ARCHITECTURES.items() if issubclass(kind, PhaseNetwork))
    if architecture is None or not issubclass(architecture, PhaseNetwork):
        raise ModelError(
            f"architecture of recipe {recipe.name}: expected one of {known}, got {recipe.architecture!r}; "
            "correct the recipe"
        )
    try:
        return architecture(**options)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"options of recipe {recipe.name}: expected those of {recipe.architecture}, got {dict(options)} "
            f"({error}); correct the recipe"
        ) from error


def _check(train: DataSet) -> None:
    """Raises ModelError for data from which no class can be learned."""
    if train.inputs.ndim != 2:
        raise ModelError(
            f"training events: expected spectra [events, points], got shape {tuple(train.inputs.shape)}; "
            "choose a recipe for images, or name the data set of the spectra"
        )
    if not ((train.targets == 0) | (train.targets == 1)).all() or not (train.targets.sum(1) == 1).all():
        raise ModelError(
            f"targets of the training events: expected exactly one of {train.target_names} to be 1, got "
            "others; correct the labels, or choose a recipe of the task labels"
        )
    check_classes(train)


def check_classes(train: DataSet) -> None:
    """Raises ModelError if all events are of one class."""
    if (train.targets.sum(0) > 0).sum() < 2:
        raise ModelError(
            f"targets of the {len(train)} training events: expected at least two classes to occur, got one; "
            "add events of another class"
        )


def _whole_runs(data: DataSet) -> bool:
    return "boundary" in data.facts and bool((data.facts["boundary"] >= 0).all())


def _runs(data: DataSet) -> phase_scores.Runs:
    names = ("ramp", "curve_number", "boundary", "speed")
    return phase_scores.Runs(*[data.facts[name].numpy() for name in names])


def baseline(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a simpler answer, under names that say whose they are."""
    return {f"baseline_{name}_{key}": value for key, value in found.items() if not isinstance(value, dict)}
