"""What classifiers of spectra share: their answer, votes, the cut into windows, the check of their sizes.

An answer is the probability of each class, which exclude each other, and the most probable one. The
published networks have one sigmoid for two classes; ours have a softmax over three, as a shot may miss
the sample.

B batch, N points, L classes, W windows.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARPNESS: Final = 10.0  # of the softmax over shares of a vote, before it is fitted


class PhaseNetwork(nn.Module):
    """[B, 1, N] -> packed [B, L + 1]: probabilities, number of the most probable class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        check_sizes("classes", [classes])
        self.packed_width = classes + 1

    def logits(self, x_B1N: Tensor) -> Tensor:
        """[B, L], what training compares with the classes."""
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def loss(self, x_B1N: Tensor, target_BL: Tensor) -> Tensor:
        """Mean cross-entropy against one-hot classes."""
        return F.cross_entropy(self.logits(x_B1N), target_BL)

    def forward(self, x_B1N: Tensor) -> Tensor:
        return packed(self.logits(x_B1N).float().softmax(1))


class VotingNetwork(PhaseNetwork):
    """A network whose parts vote, and a linear layer that says what the shares of their vote mean.

    Where most parts see what looks alike in all classes they vote for the frequent one: then the class with
    the most votes is late at every boundary and never a rare one. The layer is fitted after training.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        # Until it is fitted, the most votes decide. On meta first: no random number is drawn for it.
        self.decide = nn.Linear(classes, classes, device="meta")
        self.decide.weight = nn.Parameter(SHARPNESS * torch.eye(classes))
        self.decide.bias = nn.Parameter(torch.zeros(classes))

    def shares(self, x_B1N: Tensor) -> Tensor:
        """[B, L] of the vote; their largest is the published answer."""
        raise NotImplementedError(f"{type(self).__name__} has no vote")

    def logits(self, x_B1N: Tensor) -> Tensor:
        with torch.autocast(x_B1N.device.type, enabled=False):
            return self.decide(self.shares(x_B1N.float()))  # type: ignore[no-any-return]


def packed(p_BL: Tensor) -> Tensor:
    """Probabilities and, behind them, the number of the largest: float32 [B, L + 1]."""
    return torch.cat([p_BL, p_BL.argmax(1, keepdim=True).to(p_BL.dtype)], 1)


def windows(x_B1N: Tensor, size: int) -> Tensor:
    """The spectrum as a sequence of W = ceil(N / size) windows, [B, W, size]; the last is filled with 0."""
    count = math.ceil(x_B1N.shape[2] / size)
    padded = F.pad(x_B1N[:, 0], (0, count * size - x_B1N.shape[2]))
    return padded.reshape(len(padded), count, size)


def check_sizes(name: str, sizes: Sequence[int]) -> None:
    """Raises ValueError unless all are whole numbers above 0."""
    if not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"{name}: expected whole numbers above 0, got {list(sizes)}")
