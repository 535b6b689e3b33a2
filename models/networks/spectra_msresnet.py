"""Phase of a diffractogram by a multi-scale residual network (MSResNet).

After sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c: a
strided convolution, then three branches of residual blocks with kernels 3, 5 and 7 side by side, each
averaged, all together into one linear layer. Theirs has 64 channels in the first convolution and in the
first two blocks of each branch, and 2.35 M parameters; here the widths are an option, as the spectra need
less.

B batch, N points, C channels, n positions, L classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.spectra_head import PhaseNetwork, check_sizes

KERNELS: Final = (3, 5, 7)
FIRST_KERNEL: Final = 7
POOL: Final = 5
POOL_STRIDE: Final = 2


class Block(nn.Module):
    """Two convolutions, the first with stride 2, and the strided input added to them."""

    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__()
        same = kernel // 2
        self.conv1 = nn.Conv1d(width_in, width_out, kernel, 2, same, bias=False)
        self.norm1 = nn.BatchNorm1d(width_out)
        self.conv2 = nn.Conv1d(width_out, width_out, kernel, 1, same, bias=False)
        self.norm2 = nn.BatchNorm1d(width_out)
        self.skip = nn.Conv1d(width_in, width_out, 1, 2, bias=False)

    def forward(self, x_BCn: Tensor) -> Tensor:
        inner = self.conv2(torch.relu(self.norm1(self.conv1(x_BCn))))
        return torch.relu(self.norm2(inner) + self.skip(x_BCn))


class SpectraMSResNet(PhaseNetwork):
    """[B, 1, N] -> packed [B, L + 1]; widths: first convolution, then the blocks of every branch."""

    def __init__(
        self, points: int, classes: int, widths: Sequence[int] = (64, 64, 64, 8), stride: int = 2
    ) -> None:
        super().__init__(classes)
        check_sizes("points, classes, widths and stride", [points, classes, *widths, stride])
        self.norm = nn.LayerNorm(points)
        self.first = nn.Conv1d(1, widths[0], FIRST_KERNEL, stride, FIRST_KERNEL // 2, bias=False)
        self.first_norm = nn.BatchNorm1d(widths[0])
        self.branches = nn.ModuleList(
            nn.Sequential(*[Block(a, b, kernel) for a, b in pairwise(widths)]) for kernel in KERNELS
        )
        with torch.no_grad():
            left = self.eval().features(torch.zeros(1, 1, points)).numel()
        self.train()
        self.head = nn.Linear(left, classes)

    def features(self, x_B1N: Tensor) -> Tensor:
        """The three branches' last activations side by side, [B, C, n], averaged over four positions."""
        first = F.max_pool1d(torch.relu(self.first_norm(self.first(self.norm(x_B1N)))), POOL, POOL_STRIDE)
        joined = torch.cat([branch(first) for branch in self.branches], 1)
        # Four positions are as wide as a line, so where a line stands is still told to a line's width.
        return F.avg_pool1d(joined, min(4, joined.shape[2]))

    def logits_of(self, features_BCn: Tensor) -> Tensor:
        """[B, L] of the features."""
        return self.head(features_BCn.flatten(1))  # type: ignore[no-any-return]

    def logits(self, x_B1N: Tensor) -> Tensor:
        return self.logits_of(self.features(x_B1N))
