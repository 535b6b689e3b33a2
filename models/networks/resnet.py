"""Pre-activation residual networks for diffraction images: ResNet-18, 34 and 50, as in airynet.

julian-carpenter/airynet @7ad87bb (Zimmermann et al., PRE 99, 063309, 2019) after He et al. (arXiv
1603.05027): 7 x 7 convolution with stride 2 on raw counts, the logarithmic activation behind it alone (no
bias, no normalisation before it), 3 x 3 maximum with stride 2, four stages of 64, 128, 256, 512 channels,
normalisation and activation in front of each convolution, leaky ReLU 0.2, mean over the places, one output a
class.
Batch normalisation keeps torch's momentum: airynet's 0.997 forgets its start after 1000 steps only.

B batch, C channels, H height, W width, L labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.attention import SelfAttention
from models.networks.consistent import LabelNetwork
from models.networks.layout import channels_last
from models.steps import signed_log

SLOPE: Final = 0.2  # leaky ReLU, as airynet
LOG_ALPHA: Final = 0.2  # as airynet
STAGE_WIDTHS: Final = (64, 128, 256, 512)
# Depth -> blocks of each stage (He et al.); from 50 on the blocks are bottlenecks.
BLOCKS: Final[Mapping[int, tuple[int, ...]]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
BOTTLENECK_DEPTH: Final = 50
EXPANSION: Final = 4  # a bottleneck's output over its inner width


class Block(nn.Module):
    """Two 3 x 3 convolutions; the skip strides with a 1 x 1 convolution where the shape changes."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.skip = _skip(width_in, width_out, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        activated = _active(self.norm1, x_BCHW)
        skip = x_BCHW if isinstance(self.skip, nn.Identity) else self.skip(activated)
        total: Tensor = skip + self.conv2(_active(self.norm2, self.conv1(activated)))
        return total


class Bottleneck(nn.Module):
    """1 x 1 to a quarter of the width, 3 x 3, 1 x 1 back; otherwise as `Block`."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        inner = width_out // EXPANSION
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width_out, 1, bias=False)
        self.skip = _skip(width_in, width_out, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        activated = _active(self.norm1, x_BCHW)
        skip = x_BCHW if isinstance(self.skip, nn.Identity) else self.skip(activated)
        inner = self.conv2(_active(self.norm2, self.conv1(activated)))
        total: Tensor = skip + self.conv3(_active(self.norm3, inner))
        return total


class ResNet(LabelNetwork):
    """[B, 1, H, W] counts -> packed [B, L + 1]; H and W from 32 on. `attention` stands before stage 4."""

    stride_px = 32

    def __init__(
        self, labels: int, depth: int, attention: bool = False, hierarchy: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(labels, hierarchy)
        if depth not in BLOCKS:
            raise ValueError(f"depth: one of {tuple(BLOCKS)}, got {depth}")
        block = Bottleneck if depth >= BOTTLENECK_DEPTH else Block
        widths = [width * (EXPANSION if block is Bottleneck else 1) for width in STAGE_WIDTHS]
        self.first = nn.Conv2d(1, STAGE_WIDTHS[0], 7, 2, 3, bias=False)
        self.stages = nn.ModuleList(stages(STAGE_WIDTHS[0], widths, BLOCKS[depth], block))
        self.attention = SelfAttention(widths[2]) if attention else None
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], labels)
        spread_weights(self, SLOPE)

    def features(self, x_BCHW: Tensor) -> Tensor:
        # The maximum first: the logarithm rises everywhere, so the result is the same for a quarter of the
        # logarithms.
        x = signed_log(F.max_pool2d(self.first(channels_last(x_BCHW)), 3, 2, 1), LOG_ALPHA)
        for place, stage in enumerate(self.stages):
            if self.attention is not None and place == len(self.stages) - 1:
                x = self.attention(x)
            x = stage(x)
        return _active(self.norm, x)

    def scores_of(self, features_BCHW: Tensor) -> Tensor:
        z_BL: Tensor = self.head(features_BCHW.mean((2, 3)))
        return z_BL


def stages(
    width_in: int, widths: Sequence[int], blocks: Sequence[int], block: type[nn.Module] = Block
) -> list[nn.Module]:
    """One sequence of blocks a stage: the first stage keeps the size, every later one halves it."""
    made: list[nn.Module] = []
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        stride = 2 if stage else 1
        layers = [block(width_in, width, stride), *(block(width, width, 1) for _ in range(count - 1))]
        made.append(nn.Sequential(*layers))
        width_in = width
    return made


def spread_weights(network: nn.Module, slope: float) -> None:
    """Convolutions drawn so that the spread of the activations stays (He et al. 2015), as airynet."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=slope, nonlinearity="leaky_relu")


def _skip(width_in: int, width_out: int, stride: int) -> nn.Module:
    same = stride == 1 and width_in == width_out
    return nn.Identity() if same else nn.Conv2d(width_in, width_out, 1, stride, bias=False)


def _active(norm: nn.Module, x_BCHW: Tensor) -> Tensor:
    return F.leaky_relu(norm(x_BCHW), SLOPE)
