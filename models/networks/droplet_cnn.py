"""Which of 11 non-exclusive shapes a diffraction image shows: a small pre-activation ResNet on raw counts.

After julian-carpenter/airynet @7ad87bb (Zimmermann et al., PRE 99, 063309, 2019): ResNet v2, leaky ReLU 0.2,
the logarithmic activation behind the first convolution only (no bias, no normalisation before it), one
sigmoid a class. Ours is smaller (26.8 M multiply-adds for 128 x 128, theirs 1.8 G for 224 x 224 with
ResNet-18), adds the maximum to the mean in the pooling (a rare fringe is local), and has one threshold a
class instead of 0.5 for all.

With `opposite` it also sees how each place differs from the one opposite to it: tilted bodies break that
symmetry, and a convolution cannot look across the centre.

B batch, C channels, H height, W width, L labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.consistent import LabelNetwork
from models.networks.layout import channels_last
from models.networks.resnet import LOG_ALPHA, SLOPE, stages
from models.steps import signed_log

REDUCTION: Final = 4  # of the first convolution and maximum; the opposite view is averaged as much
OPPOSITE_GAIN: Final = 5.0  # 1 / LOG_ALPHA: a factor of e between opposite places gives about 1


class DropletCNN(LabelNetwork):
    """[B, 1, H, W] counts -> packed [B, L + 1]: probabilities, then the bitmask of those that are said."""

    def __init__(
        self,
        labels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        opposite: bool = False,
        hierarchy: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(labels, hierarchy)
        if len(widths) != len(blocks) or not widths:
            raise ValueError(f"expected as many widths as blocks, got {widths}, {blocks}")
        self.opposite = opposite
        self.stride_px = REDUCTION << (len(widths) - 1)
        # The view takes the place of one filter: 17 channels are half as fast as 16 on a CPU.
        self.first = nn.Conv2d(1, widths[0] - opposite, 5, 2, 2, bias=False)
        parts = stages(widths[0], widths, blocks)
        self.stages = nn.Sequential(*[block for part in parts for block in part.children()])
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(2 * widths[-1], labels)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last stage's activations [B, C, H/16, W/16]: what an explanation looks at."""
        # Pooled before the logarithm, not behind it: it rises everywhere, so the maximum is the same, for a
        # quarter of the logarithms.
        # An empty filter in the view's place: on a CPU the maximum over 15 channels takes three times as long
        # as over 16.
        weight = F.pad(self.first.weight, (0, 0, 0, 0, 0, 0, 0, int(self.opposite)))
        x = F.conv2d(channels_last(x_BCHW), weight, stride=2, padding=2)
        x = signed_log(F.max_pool2d(x, 3, 2, 1), LOG_ALPHA)
        if self.opposite:
            # Both in the same memory order: else the result has the slow one.
            x = torch.cat([x[:, :-1], channels_last(_against_opposite(x_BCHW)).to(x.dtype)], 1)
        return F.leaky_relu(self.norm(self.stages(x)), SLOPE)

    def scores_of(self, features_BCHW: Tensor) -> Tensor:
        pooled_BC = torch.cat([features_BCHW.mean((2, 3)), features_BCHW.amax((2, 3))], 1)
        z_BL: Tensor = self.head(pooled_BC)
        return z_BL


def _against_opposite(x_BCHW: Tensor) -> Tensor:
    """Logarithm of the counts minus that of the place opposite to the centre, [B, 1, H/4, W/4]."""
    # Padded as the convolution and the maximum pad, so that odd sizes agree: ceil(H / 4).
    means = F.avg_pool2d(x_BCHW.float(), REDUCTION, ceil_mode=True)
    decades = signed_log(means, LOG_ALPHA)
    return OPPOSITE_GAIN * (decades - decades.flip(2, 3))
