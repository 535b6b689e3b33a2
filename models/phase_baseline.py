"""A linear layer with a softmax: what a classifier of spectra must beat, and what says what votes mean.

N events, L classes.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.data_sets.data_set import DataSet
from models.preprocess import Preprocess

STEPS: Final = 60  # of L-BFGS: the loss has settled to 1 %
DECAY: Final = 1e-4  # of the squared weights: without it separable classes let them grow for ever
BATCH: Final = 256
EPSILON: Final = 1e-6


@dataclass(frozen=True)
class LinearSoftmax:
    """Logistic regression on the preprocessed spectra, each point less `mean` over `std`, both [points]."""

    mean: Tensor
    std: Tensor
    layer: nn.Linear

    def __call__(self, preprocess: Preprocess, data: DataSet) -> Tensor:
        """Probabilities [N, L]."""
        with torch.no_grad():
            parts = [preprocess(raw).flatten(1) for raw in data.inputs.split(BATCH)]
            scaled = [(part - self.mean) / self.std for part in parts]
            return torch.cat([self.layer(part).softmax(1) for part in scaled])


def fit_linear(preprocess: Preprocess, train: DataSet) -> LinearSoftmax:
    """The linear softmax of least cross-entropy on the training events."""
    with torch.no_grad():
        x = torch.cat([preprocess(raw).flatten(1) for raw in train.inputs.split(BATCH)])
    mean, std = x.mean(0), x.std(0) + EPSILON
    layer = nn.Linear(x.shape[1], train.targets.shape[1])
    _descend(layer, x.sub_(mean).div_(std), train.targets)
    return LinearSoftmax(mean, std, layer.requires_grad_(False))


def fit_softmax(layer: nn.Linear, x: Tensor, targets: Tensor) -> None:
    """Set `layer` to the linear softmax of least cross-entropy from features x [N, F] to one-hot [N, L]."""
    mean, std = x.mean(0), x.std(0) + EPSILON
    scaled = nn.Linear(x.shape[1], targets.shape[1])
    _descend(scaled, (x - mean) / std, targets)
    with torch.no_grad():
        layer.weight.copy_(scaled.weight / std)
        layer.bias.copy_(scaled.bias - layer.weight @ mean)


def _descend(layer: nn.Linear, x: Tensor, targets: Tensor) -> None:
    """From zero, so that the result is the same each time; the loss is convex."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(layer(x), targets) + DECAY * layer.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
