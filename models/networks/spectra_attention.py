"""Phase of a diffractogram by convolutions and attention over positions and channels (Conv SC attention).

After sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c and
the encoder of Sun et al., Sci. Rep. 13, 9370 (2023): two convolutions with maxima, every channel embedded
in 256 positions, multi-head attention over the positions plus a gate for each channel, then a
feed-forward layer. The order of the normalisations is our reading; with the published sizes and one
output the parameters are the published 659,525.

B batch, N points, C channels, E embedded positions, L classes.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.spectra_head import PhaseNetwork, check_sizes

KERNEL: Final = 5
HEADS: Final = 4
GATE_KERNEL: Final = 3  # a channel's gate looks at its two neighbours (Wang et al., ECA-Net, CVPR 2020)


class SpectraAttention(PhaseNetwork):
    """[B, 1, N] -> packed [B, L + 1]; widths of the two convolutions, stride of the first."""

    def __init__(
        self,
        points: int,
        classes: int,
        widths: Sequence[int] = (64, 8),
        stride: int = 2,
        embedded: int = 256,
    ) -> None:
        super().__init__(classes)
        check_sizes("points, classes, widths, stride", [points, classes, *widths, stride, embedded])
        if widths[1] % HEADS:
            raise ValueError(f"widths: expected the second a multiple of {HEADS} heads, got {list(widths)}")
        self.layers = nn.Sequential(
            *_convolution(1, widths[0], stride), *_convolution(widths[0], widths[1], 1)
        )
        length = self._length(points)
        self.embed = nn.Sequential(nn.Linear(length, embedded), nn.LayerNorm(embedded))
        self.attention = PositionsAndChannels(widths[1], embedded)
        self.mix = nn.Conv1d(widths[1], 1, 1)
        self.norm = nn.LayerNorm(embedded)
        self.inner = nn.Sequential(
            nn.Linear(embedded, 4 * embedded), nn.ReLU(), nn.Linear(4 * embedded, embedded)
        )
        self.inner_norm = nn.LayerNorm(embedded)
        self.head = nn.Linear(embedded, classes)

    def features(self, x_B1N: Tensor) -> Tensor:
        """Activations behind the convolutions [B, C, n]: what an explanation looks at."""
        return self.layers(x_B1N)  # type: ignore[no-any-return]

    def embedding_of(self, features_BCn: Tensor) -> Tensor:
        """[B, E]: what self-supervised training shapes."""
        attended_BCE = self.attention(self.embed(features_BCn))
        mixed_BE = self.norm(self.mix(attended_BCE)[:, 0])
        return self.inner_norm(mixed_BE + self.inner(mixed_BE))  # type: ignore[no-any-return]

    def logits_of(self, features_BCn: Tensor) -> Tensor:
        """[B, L] of the features."""
        return self.head(self.embedding_of(features_BCn))  # type: ignore[no-any-return]

    def logits(self, x_B1N: Tensor) -> Tensor:
        return self.logits_of(self.features(x_B1N))

    def _length(self, points: int) -> int:
        with torch.no_grad():
            length: int = self.layers.eval()(torch.zeros(1, 1, points)).shape[2]
        self.layers.train()
        return length


class PositionsAndChannels(nn.Module):
    """[B, C, E] -> the same shape: positions attend to each other, channels are weighed; both are added."""

    def __init__(self, channels: int, embedded: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.gate = nn.Conv1d(1, 1, GATE_KERNEL, padding=GATE_KERNEL // 2, bias=False)
        self.norm = nn.LayerNorm(embedded)

    def forward(self, x_BCE: Tensor) -> Tensor:
        qkv = self.qkv(x_BCE.transpose(1, 2)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended_BEC = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).flatten(2)
        positions_BCE = self.out(attended_BEC).transpose(1, 2)
        channels_BCE = x_BCE * torch.sigmoid(self.gate(x_BCE.mean(2).unsqueeze(1)))[:, 0, :, None]
        return self.norm(positions_BCE + channels_BCE)  # type: ignore[no-any-return]


def _convolution(width_in: int, width_out: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv1d(width_in, width_out, KERNEL, stride)
    return [conv, nn.BatchNorm1d(width_out), nn.ReLU(), nn.MaxPool1d(2)]
