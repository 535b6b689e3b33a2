"""The interface of a kind of model in training, and what all kinds share.

N events, R packed width, T targets.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data_sets.data_set import DataSet
from models.manifest import Column
from models.preprocess import Preprocess
from models.recipes.recipe import Recipe, Stage

# Large enough for full speed on a CPU, small enough that activations of a 128 x 128 frame stay in its cache.
EVALUATION_BATCH: Final = 64


class Task(Protocol):
    """One kind of model in training, made from (recipe, training events).

    The trained module need not be the network that is shipped.
    """

    kind: str
    """Of the manifest, an attribute of the class; says which columns there are and what they mean."""

    extra_keys: frozenset[str]
    """What `recipe.extra` may hold, an attribute of the class."""

    def __init__(self, recipe: Recipe, train: DataSet) -> None: ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Of the architecture, with what the training events decided, such as the number of classes."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """The bundle's preprocessing, for events of the shape of the training events."""
        ...

    @property
    def module(self) -> nn.Module:
        """What gradient descent trains."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """The result columns, in packed order."""
        ...

    def begin(self, stage: Stage, train: DataSet) -> None:
        """A stage of the recipe starts: choose its loss, learn the scale of the data."""
        ...

    def loss(self, batch: DataSet) -> Tensor:
        """Mean loss of one batch; `module` is in training mode while fitting and in evaluation mode else."""
        ...

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:
        """Fit what gradient descent does not, and give the network to ship."""
        ...

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        """Scores on held-out events, those of a trivial answer beside them as baseline_..."""
        ...


def answers(preprocess: Preprocess, network: nn.Module, data: DataSet) -> NDArray[np.float32]:
    """Packed float32 [N, R] of all events, in evaluation mode, on the CPU."""
    network.eval()
    with torch.inference_mode():
        parts = [network(preprocess(raw)) for raw in data.inputs.split(EVALUATION_BATCH)]
        packed: NDArray[np.float32] = torch.cat(parts).float().numpy()
        return packed


def turned(x_BCHW: Tensor) -> Tensor:
    """One of the eight flips and quarter turns, as physics knows no up; one draw a batch is enough."""
    draw = int(torch.randint(8, ()))
    x = x_BCHW.transpose(2, 3) if draw & 1 else x_BCHW
    axes = [axis for axis, bit in ((2, 2), (3, 4)) if draw & bit]
    return x.flip(axes) if axes else x


def rounded(value: Any) -> float:
    """Five digits: more say nothing about a few thousand events."""
    return round(float(value), 5)


def by_name(names: tuple[str, ...], values: Any) -> dict[str, float | None]:
    """Beside each name its value; null where it has no meaning: a class that did not occur."""
    return {n: None if np.isnan(v) else rounded(v) for n, v in zip(names, values, strict=True)}
