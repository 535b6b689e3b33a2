"""VGG-16 for diffraction images, fully convolutional, as in airynet.

julian-carpenter/airynet @7ad87bb (Zimmermann et al., PRE 99, 063309, 2019) after Simonyan and Zisserman
(arXiv 1409.1556): 13 convolutions of 3 x 3, a 2 x 2 maximum behind each of the five groups, then fc6 (7 x 7)
and fc7 of 4096 channels and the classes, as convolutions; dropout 0.5, leaky ReLU 0.1, no normalisation; the
logarithmic activation behind the first convolution only. Images larger than 224 give several places, whose
outputs are averaged.

B batch, C channels, H height, W width, L labels.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.consistent import LabelNetwork
from models.networks.layout import channels_last
from models.networks.resnet import LOG_ALPHA, spread_weights
from models.steps import signed_log

SLOPE: Final = 0.1
DROPOUT: Final = 0.5
GROUPS: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width, convolutions
HALVINGS: Final = len(GROUPS)


class VGG(LabelNetwork):
    """[B, 1, H, W] counts -> packed [B, L + 1]; `size_px` is the smallest edge, a multiple of 32.

    fc6 spans size_px / 32 places: 7 of them at 224.
    """

    stride_px = 1 << HALVINGS
    first_px = (stride_px - 1) / 2  # each 2 x 2 maximum lies in the middle of its pixels

    def __init__(
        self, labels: int, size_px: int = 224, dense: int = 4096, hierarchy: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(labels, hierarchy)
        span = size_px >> HALVINGS
        if span < 1 or span << HALVINGS != size_px or dense < 1:
            raise ValueError(
                f"size_px: a multiple of {1 << HALVINGS}, dense: positive, got {size_px}, {dense}"
            )
        self.first = nn.Conv2d(1, GROUPS[0][0], 3, 1, 1, bias=False)
        self.convolutions = nn.ModuleList(_convolutions())
        self.fc6 = nn.Conv2d(GROUPS[-1][0], dense, span)
        self.fc7 = nn.Conv2d(dense, dense, 1)
        self.fc8 = nn.Conv2d(dense, labels, 1)
        spread_weights(self, SLOPE)

    def features(self, x_BCHW: Tensor) -> Tensor:
        x = signed_log(self.first(channels_last(x_BCHW)), LOG_ALPHA)
        left = iter(self.convolutions)
        for group, (_, count) in enumerate(GROUPS):
            for _ in range(count - (group == 0)):
                x = F.leaky_relu(next(left)(x), SLOPE)
            x = F.max_pool2d(x, 2)
        return x

    def scores_of(self, features_BCHW: Tensor) -> Tensor:
        x = features_BCHW
        for layer in (self.fc6, self.fc7):
            x = F.dropout(F.leaky_relu(layer(x), SLOPE), DROPOUT, self.training)
        z_BL: Tensor = self.fc8(x).mean((2, 3))
        return z_BL


def _convolutions() -> list[nn.Module]:
    """All 3 x 3 convolutions but the first."""
    widths = [width for width, count in GROUPS for _ in range(count)]
    return [nn.Conv2d(a, b, 3, 1, 1) for a, b in pairwise(widths)]
