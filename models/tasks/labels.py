"""Classes that do not exclude each other: one probability each, and a threshold each.

Owns the loss, the choice of thresholds, and the scores; the classes are those of the training events, the
droplets' or the user's own. N events, L labels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import scores
from models.architectures import ARCHITECTURES
from models.data_sets.data_set import DataSet
from models.manifest import Column, ModelError
from models.networks.consistent import MAX_LABELS, LabelNetwork, nested
from models.preprocess import Preprocess
from models.recipes.recipe import Recipe, Stage
from models.tasks.task import answers, by_name, rounded, turned


class LabelTask:
    """Sigmoid cross-entropy; thresholds by F1 on the validation events.

    Of the recipe's `extra`: `turns` (default true), whether flips and quarter turns leave the labels as they
    are; `consistent` (default false), whether classes that are the droplets' obey their hierarchy.
    """

    kind = "classifier"
    extra_keys = frozenset({"consistent", "turns"})

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        _check(train)
        self.names = train.target_names
        hierarchy = nested(self.names) if recipe.extra.get("consistent", False) else None
        self.options: Mapping[str, Any] = {**recipe.options, "labels": len(self.names)}
        if hierarchy is not None:
            self.options = {**self.options, "hierarchy": hierarchy}
        self.preprocess = Preprocess(recipe.preprocess, tuple(train.inputs.shape[1:]))
        self.module = _network(recipe, self.options)
        self.columns = (Column("p", "float32", self.names), Column("labels", "uint32"))
        self._turns = bool(recipe.extra.get("turns", True))

    def begin(self, stage: Stage, train: DataSet) -> None:
        """Nothing: there is one stage, and nothing to learn before it."""

    def loss(self, batch: DataSet) -> Tensor:
        x = self.preprocess(batch.inputs)
        logits_BL = self.module.logits(turned(x) if self._turns and _square(x) else x)
        return F.binary_cross_entropy_with_logits(logits_BL, batch.targets)

    def finish(self, train: DataSet, validation: DataSet) -> LabelNetwork:  # noqa: ARG002  (interface)
        p_NL = answers(self.preprocess, self.module, validation)[:, : len(self.names)]
        self.module.get_buffer("threshold").copy_(
            _thresholds(self.module, validation.targets.numpy() > 0.5, p_NL)
        )
        return self.module

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        truth_NL = test.targets.numpy() > 0.5
        packed = answers(self.preprocess, network, test)
        p_NL = packed[:, : len(self.names)].astype(np.float64)
        said_NL = scores.from_bits(packed[:, len(self.names)], len(self.names))
        majority_NL = np.broadcast_to(scores.most_frequent_set(train.targets.numpy() > 0.5), truth_NL.shape)
        return {
            **_scored(self.names, truth_NL, said_NL),
            "macro_average_precision": rounded(np.nanmean(_precisions(truth_NL, p_NL))),
            "average_precision": by_name(self.names, _precisions(truth_NL, p_NL)),
            "threshold": by_name(self.names, network.get_buffer("threshold").numpy()),
            **{
                f"baseline_{name}": value
                for name, value in _scored(self.names, truth_NL, majority_NL).items()
                if not isinstance(value, dict)
            },
            # A constant ranks by chance: its average precision is the share of the class.
            "baseline_macro_average_precision": rounded(truth_NL[:, truth_NL.any(0)].mean()),
        }


def _check(train: DataSet) -> None:
    """Raises ModelError for data from which no label can be learned."""
    if not 1 <= len(train.target_names) <= MAX_LABELS:
        raise ModelError(
            f"classes of the training data: expected 1 to {MAX_LABELS}, got {len(train.target_names)}; "
            "keep those that decide something"
        )
    if len(train) < 2 or (train.targets == train.targets[0]).all():
        raise ModelError(
            f"labels of the {len(train)} training events: expected at least two different label sets, got "
            "one; add events of another class"
        )
    if not ((train.targets == 0) | (train.targets == 1)).all():
        raise ModelError("labels of the training events: expected 0 and 1, got others; correct the labels")


def _network(recipe: Recipe, options: Mapping[str, Any]) -> LabelNetwork:
    try:
        network = ARCHITECTURES[recipe.architecture](**options)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"architecture of recipe {recipe.name}: expected one of {tuple(ARCHITECTURES)} and its options, "
            f"got {recipe.architecture!r} ({error}); correct the recipe"
        ) from error
    if not isinstance(network, LabelNetwork):
        raise ModelError(
            f"architecture of recipe {recipe.name}: expected a network of labels, "
            f"got {recipe.architecture!r}; choose droplet_cnn, resnet or vgg"
        )
    return network


def _square(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[2] == x.shape[3]


def _thresholds(network: LabelNetwork, truth_NL: NDArray[np.bool_], p_NL: NDArray[np.float32]) -> Tensor:
    """The best of each class alone; where classes are bound, kinds first, then what lies under them."""
    alone = torch.from_numpy(scores.best_thresholds(truth_NL, p_NL.astype(np.float64))).float()
    if network.consistency is None:
        return alone
    chosen, p = network.get_buffer("threshold"), torch.from_numpy(p_NL)
    chosen.copy_(alone)
    heads = network.consistency.heads
    for label in [*heads, *(i for i in range(len(alone)) if i not in heads)]:
        if truth_NL[:, label].any():
            chosen[label] = _best_alone(network, p, truth_NL, label)
    return chosen.clone()


def _best_alone(network: LabelNetwork, p: Tensor, truth_NL: NDArray[np.bool_], label: int) -> float:
    """The threshold of one class that gives its best F1, the others as they are."""
    chosen, f1 = network.get_buffer("threshold"), []
    for threshold in scores.THRESHOLDS:
        chosen[label] = threshold
        said = network.said(p).numpy() > 0.5
        f1.append(scores.f1_per_label(truth_NL[:, [label]], said[:, [label]])[0])
    best = scores.THRESHOLDS[np.array(f1) >= max(f1) - 1e-12]
    return float(np.median(best))


def _scored(
    names: tuple[str, ...], truth_NL: NDArray[np.bool_], said_NL: NDArray[np.bool_]
) -> dict[str, Any]:
    """What is true of any answer, the network's or the majority's."""
    return {
        "macro_f1": rounded(scores.macro_f1(truth_NL, said_NL)),
        "exact_match": rounded((truth_NL == said_NL).all(1).mean()),
        "bit_accuracy": rounded((truth_NL == said_NL).mean()),
        "f1": by_name(names, scores.f1_per_label(truth_NL, said_NL)),
    }


def _precisions(truth_NL: NDArray[np.bool_], p_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision of each class, [L]; NaN where none occurs."""
    return np.array([scores.average_precision(t, p) for t, p in zip(truth_NL.T, p_NL.T, strict=True)])
