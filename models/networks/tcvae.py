"""The published beta-TCVAE of droplet images, with its recipe mended.

After julian-carpenter/beta-TCVAE @572d9e3: 7 x 7 stride 2 and four residual blocks down to a 32nd of the
size, dense 256, mu and log variance; residual blocks of transposed convolutions up again; Bernoulli loss less
its lowest value; total correlation as in Chen et al. 2018. Three things there kept it from training and are
mended here or in the recipe: the learning rate reaches its value, batch normalisation runs in training mode
while training, and weight decay is applied. Self-attention in the middle is an option, as there.

Images are ln(1 + counts) over their maximum. B batch, C channels, H height, W width, Z latent, D = 2 Z.
"""

from itertools import pairwise
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixture import MixtureHead
from models.networks.attention import SelfAttention
from models.networks.layout import channels_last
from models.networks.vae_encoder import Down, placed, total_correlation

FIRST: Final = 32
WIDTHS: Final = (64, 128, 256, 512)
HALVINGS: Final = 5
DENSE: Final = 256
LOG_VARIANCE_RANGE: Final = (-8.0, 4.0)  # outside, the exponential says nothing and can overflow


class UpTransposed(nn.Module):
    """Residual block that doubles the image: transposed 4 x 4, norm, ReLU, 3 x 3, norm, beside 2 x 2."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width_in, width_out, 4, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.skip = nn.ConvTranspose2d(width_in, width_out, 2, 2, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_BCHW)))))
        return F.relu(inner + self.skip(x_BCHW))


class TCVAEEncoder(nn.Module):
    """[B, 1, S, S] counts -> mu and log variance [B, Z], float32."""

    def __init__(self, latent: int, size_px: int, attention: bool) -> None:
        super().__init__()
        bottom = _bottom(size_px)
        self.first = nn.Conv2d(1, FIRST, 7, 2, 3)
        blocks: list[nn.Module] = [Down(a, b) for a, b in pairwise((FIRST, *WIDTHS))]
        if attention:
            blocks.insert(2, SelfAttention(WIDTHS[1]))  # an eighth of the size: enough places to relate
        self.downs = nn.Sequential(*blocks)
        self.dense = nn.Linear(WIDTHS[-1] * bottom * bottom, DENSE)
        self.head = nn.Linear(DENSE, 2 * latent)

    def forward(self, counts_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.first(channels_last(bounded(counts_BCHW) - 0.5)))
        hidden = F.relu(self.dense(self.downs(x).flatten(1)))
        mu_BZ, log_variance_BZ = self.head(hidden).float().chunk(2, 1)
        return mu_BZ, log_variance_BZ.clamp(*LOG_VARIANCE_RANGE)


class TCVAEDecoder(nn.Module):
    """z [B, Z] -> logits of the image [B, 1, S, S]."""

    def __init__(self, latent: int, size_px: int, attention: bool) -> None:
        super().__init__()
        bottom = _bottom(size_px)
        self.dense = nn.Sequential(
            nn.Linear(latent, DENSE),
            nn.ReLU(),
            nn.Linear(DENSE, FIRST * bottom * bottom),
            nn.ReLU(),
            nn.Unflatten(1, (FIRST, bottom, bottom)),
        )
        blocks: list[nn.Module] = [UpTransposed(a, b) for a, b in pairwise((FIRST, *reversed(WIDTHS)))]
        if attention:
            blocks.insert(3, SelfAttention(WIDTHS[1]))
        self.ups = nn.Sequential(*blocks)
        self.last = nn.Sequential(
            nn.ConvTranspose2d(WIDTHS[0], 1, 7, 2, 3, output_padding=1), nn.ConvTranspose2d(1, 1, 3, 1, 1)
        )

    def forward(self, z_BZ: Tensor) -> Tensor:
        logits: Tensor = self.last(self.ups(self.dense(z_BZ)))
        return logits


class TCVAE(nn.Module):
    """Encoder and decoder for training."""

    def __init__(self, latent: int, size_px: int, attention: bool) -> None:
        super().__init__()
        self.encoder = TCVAEEncoder(latent, size_px, attention)
        self.decoder = TCVAEDecoder(latent, size_px, attention)

    def learn_scale(self, counts_BCHW: Tensor, bright_BCHW: Tensor) -> None:
        """Nothing: an image is scaled by its own maximum."""

    def loss(self, counts_BCHW: Tensor, bright_BCHW: Tensor, beta: float) -> Tensor:  # noqa: ARG002
        """Bernoulli loss over its lowest value + KL + (beta - 1) total correlation, per event.

        The image is drawn as it is; a second exposure has no say, as in the publication.
        """
        target = bounded(counts_BCHW)
        mu_BZ, log_variance_BZ = self.encoder(counts_BCHW)
        z_BZ = mu_BZ + torch.exp(0.5 * log_variance_BZ) * torch.randn_like(mu_BZ)
        drawn = self.decoder(z_BZ).float()
        error = F.binary_cross_entropy_with_logits(drawn, target, reduction="sum") - entropy(target).sum()
        kl = 0.5 * (mu_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum()
        dependence = (beta - 1) * total_correlation(z_BZ, mu_BZ, log_variance_BZ)
        total: Tensor = (error + kl) / len(mu_BZ) + dependence
        return total


class TCVAEMixture(nn.Module):
    """[B, 1, S, S] counts -> packed [B, 2 Z + 2]: mu, log variance, component, log-likelihood.

    `decode` draws the image of a latent point; the stream does not run it.
    """

    def __init__(self, latent: int, size_px: int, attention: bool, components: int) -> None:
        super().__init__()
        self.packed_width = 2 * latent + 2
        self.encoder = TCVAEEncoder(latent, size_px, attention)
        self.decoder = TCVAEDecoder(latent, size_px, attention)
        self.mixture = MixtureHead(components, 2 * latent)

    def forward(self, counts_BCHW: Tensor) -> Tensor:
        return placed(self.mixture, *self.encoder(counts_BCHW))

    def decode(self, z_BZ: Tensor) -> Tensor:
        """The image [B, 1, S, S], 0..1: ln(1 + counts) over its maximum."""
        drawn: Tensor = torch.sigmoid(self.decoder(z_BZ))
        return drawn


def bounded(counts_BCHW: Tensor) -> Tensor:
    """ln(1 + counts) over the event's maximum, 0..1."""
    decades = torch.log1p(counts_BCHW.float().clamp_min(0))
    return decades / decades.amax((1, 2, 3), keepdim=True).clamp_min(1.0)


def entropy(p: Tensor) -> Tensor:
    """-p ln p - (1 - p) ln(1 - p): the lowest that the Bernoulli loss of a pixel between 0 and 1 can be."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def _bottom(size_px: int) -> int:
    bottom = size_px >> HALVINGS
    if bottom < 1 or bottom << HALVINGS != size_px:
        raise ValueError(f"size_px must be a multiple of {1 << HALVINGS}, got {size_px}")
    return bottom
