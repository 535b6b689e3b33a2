"""Phase of a diffractogram by a fully connected network (FCNN-1D).

Architecture of sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification
@4142f1c (notebook FNN1D): 4023-256-512-64-1, layer normalisation and ReLU behind each layer and a
normalisation of the input, 1,204,335 parameters. With three classes the last layer has three outputs.

B batch, N points, L classes.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from models.networks.spectra_head import PhaseNetwork, check_sizes


class SpectraFCNN(PhaseNetwork):
    """[B, 1, N] -> packed [B, L + 1]."""

    def __init__(self, points: int, classes: int, hidden: Sequence[int] = (256, 512, 64)) -> None:
        super().__init__(classes)
        check_sizes("points, classes and hidden", [points, classes, *hidden])
        layers: list[nn.Module] = [nn.LayerNorm(points)]
        for width_in, width_out in pairwise([points, *hidden]):
            layers += [nn.Linear(width_in, width_out), nn.LayerNorm(width_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], classes))

    def logits(self, x_B1N: Tensor) -> Tensor:
        return self.layers(x_B1N.flatten(1))  # type: ignore[no-any-return]
