"""Self-attention over the places of one image, as a residual layer that starts as nothing.

As in SAGAN (Zhang et al., arXiv 1805.08318): queries and keys of C / 8 channels by 1 x 1 convolutions,
values of C, softmax over all places of the same image, and a learned scale that starts at 0: a network with
it starts as the network without. Option of the networks of julian-carpenter/airynet @7ad87bb and of its
sister beta-TCVAE @572d9e3.

B batch, C channels, H height, W width, N = H W places, D channels of a query.
"""

import torch
from torch import Tensor, nn

NARROWING = 8  # SAGAN's: queries and keys need no more to tell places apart


class SelfAttention(nn.Module):
    """[B, C, H, W] -> the same shape; each place adds a mean over all places, weighted by likeness."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // NARROWING)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        query_BDN, key_BDN, value_BCN = (
            layer(x_BCHW).flatten(2) for layer in (self.query, self.key, self.value)
        )
        # Softmax in float32: in bfloat16 a likeness of 30 is off by 0.1 and its weight by 10 %.
        weight_BNN = torch.softmax((query_BDN.transpose(1, 2) @ key_BDN).float(), 2)
        seen_BCN = value_BCN @ weight_BNN.to(value_BCN.dtype).transpose(1, 2)
        total: Tensor = x_BCHW + self.scale.to(x_BCHW.dtype) * seen_BCN.view_as(x_BCHW)
        return total
