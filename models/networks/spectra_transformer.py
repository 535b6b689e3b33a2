"""Phase of a diffractogram by a transformer encoder over its windows.

After sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c
(notebook TRANSFORMER: embedding with layer normalisation, sine positions, two encoder layers, one linear
layer). Theirs attends across the spectra of a batch (its log prints a source of shape [31, 51, 256] for
spectra of 4023 points); here the windows of one spectrum attend to each other.

B batch, N points, W windows, D model width, H heads, L classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.spectra_head import PhaseNetwork, check_sizes, windows


class EncoderLayer(nn.Module):
    """Attention, then two linear layers, each added to its input and normalised (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x_BWD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BWD).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended_BWD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BWD = self.norm1(x_BWD + self.out(attended_BWD))
        return self.norm2(x_BWD + self.inner(x_BWD))  # type: ignore[no-any-return]


class SpectraTransformer(PhaseNetwork):
    """[B, 1, N] -> packed [B, L + 1]; the mean over the windows is what is classified."""

    def __init__(self, points: int, classes: int, window: int = 64, width: int = 64, heads: int = 4) -> None:
        super().__init__(classes)
        check_sizes("points, classes, window, width and heads", [points, classes, window, width, heads])
        if width % (2 * heads):
            raise ValueError(f"width: expected a multiple of twice the heads ({heads}), got {width}")
        self.window = window
        self.norm = nn.LayerNorm(points)
        self.embed = nn.Sequential(nn.Linear(window, width), nn.LayerNorm(width), nn.ReLU())
        self.layers = nn.Sequential(*[EncoderLayer(width, heads, 2 * width) for _ in range(2)])
        self.head = nn.Linear(width, classes)
        self.register_buffer("position_WD", sine_positions(math.ceil(points / window), width))

    def logits(self, x_B1N: Tensor) -> Tensor:
        embedded_BWD = self.embed(windows(self.norm(x_B1N), self.window)) + self.get_buffer("position_WD")
        return self.head(self.layers(embedded_BWD).mean(1))  # type: ignore[no-any-return]


def sine_positions(count: int, width: int) -> Tensor:
    """Sines and cosines of wavelengths from 2 pi to 10 000 * 2 pi windows, [W, D]."""
    rate_D = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle_WD = torch.arange(count)[:, None] * rate_D
    return torch.stack([angle_WD.sin(), angle_WD.cos()], 2).flatten(1)
