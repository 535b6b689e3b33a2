"""Self-supervised training by relational reasoning: are two views of the same spectrum?

After Patacchiola and Storkey (NeurIPS 2020), as Sun et al. (Sci. Rep. 13, 9370, 2023) use it for spectra
(SpecRR-Net): embeddings of two views side by side, a two-layer network, binary cross-entropy. Trains the
encoder of a `SpectraAttention`; no label is looked at.

B batch, N points, E embedding.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.spectra_attention import SpectraAttention

HIDDEN: Final = 256
SLOPE: Final = 0.2


class RelationNetwork(nn.Module):
    """An encoder and what judges pairs of its embeddings."""

    def __init__(self, encoder: SpectraAttention) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.head.in_features
        self.relation = nn.Sequential(
            nn.Linear(2 * width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.LeakyReLU(SLOPE), nn.Linear(HIDDEN, 1)
        )

    def loss(self, first_B1N: Tensor, second_B1N: Tensor) -> Tensor:
        """Two views of the same batch: each spectrum with itself against each with another of the batch."""
        both = self.encoder.embedding_of(self.encoder.features(torch.cat([first_B1N, second_B1N])))
        first_BE, second_BE = both.chunk(2)
        same = torch.cat([first_BE, second_BE], 1)
        other = torch.cat([first_BE, second_BE.roll(1, 0)], 1)
        judged = self.relation(torch.cat([same, other]))[:, 0]
        truth = torch.cat([torch.ones(len(same)), torch.zeros(len(other))]).to(judged.device)
        return F.binary_cross_entropy_with_logits(judged, truth)
