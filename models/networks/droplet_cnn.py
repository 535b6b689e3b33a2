"""Which of 11 non-exclusive shapes a diffraction image shows: a small pre-activation ResNet on raw counts.

After julian-carpenter/airynet @7ad87bb (Zimmermann et al., PRE 99, 063309, 2019): ResNet v2, leaky ReLU 0.2,
the logarithmic activation behind the first convolution only (no bias, no normalisation before it), one
sigmoid a class. Ours is smaller (26.8 M multiply-adds for 128 x 128, theirs 1.8 G for 224 x 224 with
ResNet-18), adds the maximum to the mean in the pooling (a rare fringe is local), and has one threshold a
class instead of 0.5 for all.

B batch, C channels, H height, W width, L labels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.layout import channels_last
from models.preprocess import signed_log

SLOPE = 0.2  # leaky ReLU, as airynet
LOG_ALPHA = 0.2  # as airynet
MAX_LABELS = 24  # the bitmask travels in a float32, exact below 2**24


class Block(nn.Module):
    """Pre-activation residual block (He et al. 2016); the skip strides with a 1 x 1 convolution."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        same = stride == 1 and width_in == width_out
        self.skip = nn.Identity() if same else nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        activated = F.leaky_relu(self.norm1(x_BCHW), SLOPE)
        skip = x_BCHW if isinstance(self.skip, nn.Identity) else self.skip(activated)
        inner = F.leaky_relu(self.norm2(self.conv1(activated)), SLOPE)
        return skip + self.conv2(inner)  # type: ignore[no-any-return]


class DropletCNN(nn.Module):
    """[B, 1, H, W] counts -> packed [B, L + 1]: probabilities, then the bitmask of those above threshold."""

    def __init__(self, labels: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        if not 1 <= labels <= MAX_LABELS or len(widths) != len(blocks) or not widths:
            raise ValueError(
                f"labels 1..{MAX_LABELS} and as many widths as blocks, got {labels}, {widths}, {blocks}"
            )
        self.packed_width = labels + 1
        self.first = nn.Conv2d(1, widths[0], 5, 2, 2, bias=False)
        self.stages = nn.Sequential(*_stages(widths, blocks))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(2 * widths[-1], labels)
        self.register_buffer("threshold", torch.full((labels,), 0.5))
        self.register_buffer("bit", 2.0 ** torch.arange(labels))

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last stage's activations [B, C, H/16, W/16]: what an explanation looks at."""
        # Pooled before the logarithm, not behind it: it rises everywhere, so the maximum is the same, for a
        # quarter of the logarithms.
        x = signed_log(F.max_pool2d(self.first(channels_last(x_BCHW)), 3, 2, 1), LOG_ALPHA)
        return F.leaky_relu(self.norm(self.stages(x)), SLOPE)

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """[B, L], what training compares with the labels."""
        features = self.features(x_BCHW)
        pooled_BC = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return self.head(pooled_BC)  # type: ignore[no-any-return]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        p_BL = torch.sigmoid(self.logits(x_BCHW).float())
        above_BL = (p_BL > self.get_buffer("threshold")).float()
        return torch.cat([p_BL, (above_BL * self.get_buffer("bit")).sum(1, keepdim=True)], 1)


def _stages(widths: Sequence[int], blocks: Sequence[int]) -> list[nn.Module]:
    """The first stage keeps the size, every later one halves it."""
    layers: list[nn.Module] = []
    width_in = widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for index in range(count):
            layers.append(Block(width_in, width, 2 if stage and index == 0 else 1))
            width_in = width
    return layers
