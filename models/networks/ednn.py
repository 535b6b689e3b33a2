"""From a spectrum to a few numbers and on to the structure behind it: an encoder-decoder network.

After the EDNN of Passilahti et al. (arXiv 2406.14044): feed-forward, a bottleneck of k neurons whose
activations are the latent coordinates, then the target. Theirs maps structure to spectrum; a stream sees
spectra, so this one maps a diffractogram to the positions of its lines. Targets are learned standardised and
published in their own units.

B batch, N points, k latent, T targets.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class EDNN(nn.Module):
    """[B, 1, N] -> packed [B, k + T]: latent, target."""

    def __init__(self, points: int, hidden: Sequence[int], latent: int, targets: int) -> None:
        super().__init__()
        if min(points, latent, targets) < 1 or not hidden:
            raise ValueError(
                f"positive sizes and at least one hidden layer, got {points}, {hidden}, {latent}, {targets}"
            )
        self.packed_width = latent + targets
        self.encoder = _perceptron([points, *hidden, latent])
        self.decoder = _perceptron([latent, *reversed(hidden), targets])
        self.register_buffer("target_mean", torch.zeros(targets))
        self.register_buffer("target_std", torch.ones(targets))

    def both(self, x_B1N: Tensor) -> tuple[Tensor, Tensor]:
        """Latent [B, k] and standardised target [B, T]."""
        latent_Bk = self.encoder(x_B1N.flatten(1))
        return latent_Bk, self.decoder(latent_Bk)

    def forward(self, x_B1N: Tensor) -> Tensor:
        latent_Bk, scaled_BT = self.both(x_B1N)
        target_BT = scaled_BT.float() * self.get_buffer("target_std") + self.get_buffer("target_mean")
        return torch.cat([latent_Bk.float(), target_BT], 1)


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])
