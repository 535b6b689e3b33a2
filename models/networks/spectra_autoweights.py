"""Phase of a diffractogram by bins whose weights are learned with the rest (MultiBinSegm).

After sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @7edea42
(WeightModel-FNN-DiffBin): a column takes one point of every bin, at the same offset in each; each bin has
Linear(2, 150), batch normalisation, ReLU, Linear(150, 2), batch normalisation, sigmoid, and one linear
layer weighs the 2 K answers. 1058 K + 1 parameters with one output. Published, a spectrum's class is that
of most of its columns; here the mean of their probabilities, which tells sure columns from unsure ones,
goes through a linear layer fitted afterwards. Every `stride`-th column may speak for its neighbours.

B batch, N points, K bins, P points a bin, Q = B P / stride columns, F features, L classes.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.binned import FEATURES, BinCut, BinLinear
from models.networks.spectra_head import VotingNetwork, check_sizes

ANSWERS: Final = 2  # of each bin


class SpectraAutoWeights(VotingNetwork):
    """[B, 1, N] -> packed [B, L + 1]."""

    def __init__(self, points: int, classes: int, bins: int = 15, hidden: int = 150, stride: int = 1) -> None:
        super().__init__(classes)
        self.cut = BinCut(points, bins, stride)
        check_sizes("classes and hidden", [classes, hidden])
        self.first = BinLinear(bins, FEATURES, hidden)
        self.first_norm = nn.BatchNorm1d(bins * hidden)
        self.second = BinLinear(bins, hidden, ANSWERS)
        self.second_norm = nn.BatchNorm1d(bins * ANSWERS)
        self.weigh = nn.Linear(bins * ANSWERS, classes)

    def column_logits(self, x_B1N: Tensor, offset: int = 0) -> Tensor:
        """[B, P / stride, L], of every `stride`-th column from `offset` on."""
        hidden_KFQ = torch.relu(_normalised(self.first_norm, self.first(self.cut(x_B1N, offset))))
        answers_KFQ = torch.sigmoid(_normalised(self.second_norm, self.second(hidden_KFQ)))
        columns_QL = self.weigh(answers_KFQ.flatten(0, 1).T)
        return columns_QL.unflatten(0, (len(x_B1N), -1))  # type: ignore[no-any-return]

    def loss(self, x_B1N: Tensor, target_BL: Tensor) -> Tensor:
        """Mean cross-entropy of the columns, each against its spectrum's class."""
        columns_BPL = self.column_logits(x_B1N, self.cut.any_offset() if self.training else 0)
        truth_BP = target_BL.argmax(1)[:, None].expand(columns_BPL.shape[:2])
        return F.cross_entropy(columns_BPL.transpose(1, 2), truth_BP)

    def shares(self, x_B1N: Tensor) -> Tensor:
        """[B, L]: the mean probabilities of the columns."""
        return self.column_logits(x_B1N).softmax(2).mean(1)


def _normalised(norm: nn.BatchNorm1d, x_KFQ: Tensor) -> Tensor:
    """Batch normalisation over all columns, of each neuron of each bin on its own."""
    return norm(x_KFQ.flatten(0, 1).unsqueeze(0)).view_as(x_KFQ)  # type: ignore[no-any-return]
