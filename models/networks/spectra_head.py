"""What all classifiers of spectra share: their answer, the cut into windows, and the check of their sizes.

An answer is the probability of each class, which exclude each other, and the most probable one. The
published networks have one sigmoid for two classes; ours have a softmax over three, as a shot may miss
the sample.

B batch, N points, L classes, W windows.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PhaseNetwork(nn.Module):
    """[B, 1, N] -> packed [B, L + 1]: probabilities, number of the most probable class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.packed_width = classes + 1

    def logits(self, x_B1N: Tensor) -> Tensor:
        """[B, L], what training compares with the classes."""
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def loss(self, x_B1N: Tensor, target_BL: Tensor) -> Tensor:
        """Mean cross-entropy against one-hot classes."""
        return F.cross_entropy(self.logits(x_B1N), target_BL)

    def forward(self, x_B1N: Tensor) -> Tensor:
        return packed(self.logits(x_B1N).float().softmax(1))


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
