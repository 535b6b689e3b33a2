"""Phase of a diffractogram by a vote of its points: a small network per bin of angles, weighed by belief.

After European-XFEL-examples/panosc-ml-spectra-classification @1bf5af2: each point (angle, intensity) is
classified by its bin's network, Linear(2, 150), ReLU, Linear(150, classes); each vote is weighed by w =
max(0, 1.4337 A^2 - 0.4337) of its bin, A being the share of training points that the bin labels right.
Published, the most votes decide. Most points are background, though, which looks alike in all classes and
votes for the frequent one: so the boundary comes late, and "no sample" never. Here a linear layer on the
shares of the vote, fitted afterwards, says what they mean.

All bins are computed at once. Angles run from -1 to 1 within a bin. Points behind the last whole bin have
no vote, as published; neighbours are much alike, so that every `stride`-th point may speak for them.

B batch, N points, K bins, P points a bin, Q = B P / stride points that vote, H hidden, L classes.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.spectra_head import VotingNetwork, check_sizes

FEATURES: Final = 2  # angle and intensity
NO_VOTE: Final = 1e-6  # of a bin: who votes where no bin is believed


class BinnedNetwork(VotingNetwork):
    """[B, 1, N] -> packed [B, L + 1], of the weighed vote."""

    def __init__(self, points: int, classes: int, bins: int = 15, hidden: int = 150, stride: int = 1) -> None:
        super().__init__(classes)
        self.cut = BinCut(points, bins, stride)
        check_sizes("classes and hidden", [classes, hidden])
        self.first = BinLinear(bins, FEATURES, hidden)
        self.second = BinLinear(bins, hidden, classes)
        self.register_buffer("believability_K", torch.ones(bins))

    def point_logits(self, x_B1N: Tensor, offset: int = 0) -> Tensor:
        """[K, L, B, P / stride], of every `stride`-th point of each bin from `offset` on."""
        logits_KLQ = self.second(torch.relu(self.first(self.cut(x_B1N, offset))))
        return logits_KLQ.unflatten(2, (len(x_B1N), -1))  # type: ignore[no-any-return]

    def loss(self, x_B1N: Tensor, target_BL: Tensor) -> Tensor:
        """Mean cross-entropy of the points, each against its spectrum's class."""
        logits_KLBP = self.point_logits(x_B1N, self.cut.any_offset() if self.training else 0)
        truth_KBP = target_BL.argmax(1)[:, None].expand_as(logits_KLBP[:, 0])
        return F.cross_entropy(logits_KLBP, truth_KBP)

    def votes(self, x_B1N: Tensor) -> Tensor:
        """[B, K, L]: the share of each bin's points that votes for a class."""
        logits_KLBP = self.point_logits(x_B1N)
        voted_KBP = logits_KLBP.argmax(1)
        classes = range(logits_KLBP.shape[1])
        return torch.stack([(voted_KBP == c).float().mean(2).T for c in classes], 2)

    def weighed(self, votes_BKL: Tensor) -> Tensor:
        """[B, L]: the shares of the votes weighed by believability; even where no bin is believed."""
        weighed_BL = (votes_BKL * self.get_buffer("believability_K")[:, None]).sum(1) + NO_VOTE
        return weighed_BL / weighed_BL.sum(1, keepdim=True)

    def shares(self, x_B1N: Tensor) -> Tensor:
        """[B, L] of the vote weighed by believability."""
        return self.weighed(self.votes(x_B1N))


class BinCut(nn.Module):
    """[B, 1, N] -> [K, 2, Q]: angle within the bin and intensity of each point that counts."""

    def __init__(self, points: int, bins: int, stride: int) -> None:
        super().__init__()
        check_sizes("points, bins and stride", [points, bins, stride])
        if points // bins < stride:
            raise ValueError(f"bins and stride: expected a point in each bin of {points} points, got {bins}")
        self.bins, self.stride, self.bin_points = bins, stride, points // bins
        self.register_buffer("angle_P", torch.linspace(-1, 1, self.bin_points))

    def any_offset(self) -> int:
        """A random one: over many batches every point is seen."""
        return int(torch.randint(self.stride, ()))

    def forward(self, x_B1N: Tensor, offset: int) -> Tensor:
        x_BKP = x_B1N[:, 0, : self.bins * self.bin_points].unflatten(1, (self.bins, self.bin_points))
        intensity_BKP = x_BKP[..., offset :: self.stride]
        angle_BKP = self.get_buffer("angle_P")[offset :: self.stride].expand_as(intensity_BKP)
        points: Tensor = torch.stack([angle_BKP, intensity_BKP]).permute(2, 0, 1, 3).flatten(2)
        return points


class BinLinear(nn.Module):
    """One linear layer a bin: [K, in, Q] -> [K, out, Q]."""

    def __init__(self, bins: int, width_in: int, width_out: int) -> None:
        super().__init__()
        bound = width_in**-0.5  # as torch.nn.Linear draws it
        self.weight = nn.Parameter(torch.empty(bins, width_out, width_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(bins, width_out, 1).uniform_(-bound, bound))

    def forward(self, x_KFQ: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, self.weight, x_KFQ)
