"""Phase of a diffractogram by a small 1-D convolutional network.

Architecture of sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification
@4142f1c (SpectralClassification-CNN-2mpool3): three times convolution, batch normalisation, ReLU,
maximum; then one linear layer on all that is left. Published widths 64-64-4, kernels 5-3-3, strides
2-2-1, maxima over 2-3-2: 22,803 parameters, 7 M multiply-adds. Lines are 25 points wide and more, so a
first kernel that is as wide and strides further sees them as well for a fraction of the work: that is
what the recipe ships.

B batch, N points, C channels, n positions, L classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.networks.spectra_head import PhaseNetwork, check_sizes


class SpectraCNN(PhaseNetwork):
    """[B, 1, N] -> packed [B, L + 1]; one entry of each list for each of the convolutions."""

    def __init__(
        self,
        points: int,
        classes: int,
        widths: Sequence[int] = (64, 64, 4),
        kernels: Sequence[int] = (5, 3, 3),
        steps: Sequence[Sequence[int]] = ((2, 2, 1), (2, 3, 2)),
    ) -> None:
        """steps: strides, then lengths of the maxima (1: none)."""
        super().__init__(classes)
        strides, pools = steps
        check_sizes("sizes", [points, classes, *widths, *kernels, *strides, *pools])
        self.norm = nn.LayerNorm(points)
        self.layers = nn.Sequential(*_layers(widths, kernels, strides, pools))
        with torch.no_grad():
            left = self.layers.eval()(torch.zeros(1, 1, points)).numel()
        self.layers.train()
        self.head = nn.Sequential(nn.LayerNorm(left), nn.Linear(left, classes))

    def features(self, x_B1N: Tensor) -> Tensor:
        """The last activations [B, C, n]: what an explanation looks at."""
        return self.layers(self.norm(x_B1N))  # type: ignore[no-any-return]

    def logits_of(self, features_BCn: Tensor) -> Tensor:
        """[B, L] of the features."""
        return self.head(features_BCn.flatten(1))  # type: ignore[no-any-return]

    def logits(self, x_B1N: Tensor) -> Tensor:
        return self.logits_of(self.features(x_B1N))


def _layers(
    widths: Sequence[int], kernels: Sequence[int], strides: Sequence[int], pools: Sequence[int]
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    width_in = 1
    for width, kernel, stride, pool in zip(widths, kernels, strides, pools, strict=True):
        layers += [nn.Conv1d(width_in, width, kernel, stride), nn.BatchNorm1d(width), nn.ReLU()]
        layers += [nn.MaxPool1d(pool)] if pool > 1 else []
        width_in = width
    return layers
