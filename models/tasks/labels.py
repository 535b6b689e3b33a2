"""Classes that do not exclude each other: one sigmoid each, and a threshold each.

N events, L labels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models import scores
from models.data_sets.data_set import DataSet
from models.manifest import Column
from models.networks.droplet_cnn import DropletCNN
from models.preprocess import Preprocess
from models.recipes.recipe import Recipe, Stage
from models.tasks.task import answers, by_name, rounded, turned


class LabelTask:
    """Sigmoid cross-entropy; thresholds by F1 on the validation events."""

    kind = "classifier"

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        self.names = train.target_names
        self.options: Mapping[str, Any] = {**recipe.options, "labels": len(self.names)}
        self.preprocess = Preprocess(recipe.preprocess, tuple(train.inputs.shape[1:]))
        self.module = DropletCNN(**self.options)
        self.columns = (Column("p", "float32", self.names), Column("labels", "uint32"))

    def begin(self, stage: Stage, train: DataSet) -> None:
        """Nothing: there is one stage, and nothing to learn before it."""

    def loss(self, batch: DataSet) -> Tensor:
        logits_BL = self.module.logits(turned(self.preprocess(batch.inputs)))
        return F.binary_cross_entropy_with_logits(logits_BL.float(), batch.targets)

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        p_NL = answers(self.preprocess, self.module, validation)[:, : len(self.names)].astype(np.float64)
        thresholds = scores.best_thresholds(validation.targets.numpy() > 0.5, p_NL)
        self.module.get_buffer("threshold").copy_(torch.from_numpy(thresholds))
        return self.module

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        truth_NL = test.targets.numpy() > 0.5
        p_NL = answers(self.preprocess, network, test)[:, : len(self.names)]
        said_NL = p_NL > network.get_buffer("threshold").numpy()
        f1 = scores.f1_per_label(truth_NL, said_NL)
        ap = [scores.average_precision(t, p) for t, p in zip(truth_NL.T, p_NL.T, strict=True)]
        majority_NL = np.broadcast_to(most_frequent_set(train.targets), truth_NL.shape)
        return {
            "macro_f1": rounded(f1.mean()),
            "macro_average_precision": rounded(np.nanmean(ap)),
            "exact_match": rounded((truth_NL == said_NL).all(1).mean()),
            "f1": by_name(self.names, f1),
            "average_precision": by_name(self.names, ap),
            "baseline_macro_f1": rounded(scores.f1_per_label(truth_NL, majority_NL).mean()),
            "baseline_macro_average_precision": rounded(truth_NL.mean()),
            "baseline_exact_match": rounded((truth_NL == majority_NL).all(1).mean()),
        }


def most_frequent_set(targets: Tensor) -> NDArray[np.bool_]:
    """The label set that most events have, bool [L]: what to answer without looking."""
    sets, counts = targets.unique(dim=0, return_counts=True)
    frequent: NDArray[np.bool_] = (sets[counts.argmax()] > 0.5).numpy()
    return frequent
