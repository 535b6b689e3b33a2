"""Where an image lies in a small latent space, and how usual that place is: beta-TCVAE and a mixture.

After julian-carpenter/beta-TCVAE @572d9e3 (residual encoder and decoder, total-correlation loss of Chen et
al. 2018, Gaussian mixture on [mu, sigma]), smaller, with three defects of that code mended: the learning rate
reaches its value, batch normalisation runs in training mode while training, and weight decay is applied. The
logarithm of the counts stands in the network, so that the bundle shares its preprocessing with the
classifier.

Training uses `BetaTCVAE`; the stream runs `MixtureEncoder`: the same encoder, then the mixture.
B batch, C channels, H height, W width, Z latent, K components, D = 2 Z features.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixture import MixtureHead

FULL_SCALE_LOG = math.log(2.0**16)  # the largest uint16 count becomes 1
LOG_VARIANCE_RANGE = (-8.0, 2.0)  # sigma 0.018 .. 2.7: outside, the exponential says nothing and can overflow


class Down(nn.Module):
    """Residual block that halves the image: 3x3 stride 2, norm, ReLU, 3x3, beside a strided 1x1."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.skip = nn.Conv2d(width_in, width_out, 1, 2, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_BCHW)))))
        return F.relu(inner + self.skip(x_BCHW))


class Up(nn.Module):
    """Doubles the image: nearest neighbour, 3x3, norm, ReLU (no checkerboard as from strided transposes)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.interpolate(x_BCHW, scale_factor=2.0))))


class Encoder(nn.Module):
    """[B, 1, S, S] counts -> mu and log variance, [B, Z] each."""

    def __init__(self, latent: int, widths: Sequence[int], size_px: int) -> None:
        super().__init__()
        bottom = size_px >> (len(widths) + 1)  # one halving in `compress`, one a width
        if bottom < 1 or bottom << (len(widths) + 1) != size_px:
            raise ValueError(f"size_px must be a multiple of 2**{len(widths) + 1}, got {size_px}")
        self.first = nn.Conv2d(1, widths[0], 5, 2, 2)
        self.downs = nn.Sequential(*[Down(a, b) for a, b in pairwise(widths)])
        self.dense = nn.Linear(widths[-1] * bottom * bottom, 128)
        self.head = nn.Linear(128, 2 * latent)

    def forward(self, counts_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.first(compress(counts_BCHW) - 0.5))
        hidden = F.relu(self.dense(self.downs(x).flatten(1)))
        mu_BZ, log_variance_BZ = self.head(hidden).float().chunk(2, 1)
        return mu_BZ, log_variance_BZ.clamp(*LOG_VARIANCE_RANGE)


class BetaTCVAE(nn.Module):
    """Encoder and decoder for training; `decode` gives logits of the compressed image [B, 1, S/2, S/2]."""

    def __init__(self, latent: int, widths: Sequence[int], size_px: int) -> None:
        super().__init__()
        self.encoder = Encoder(latent, widths, size_px)
        self.bottom = size_px >> (len(widths) + 1)
        self.dense = nn.Sequential(
            nn.Linear(latent, 128), nn.ReLU(), nn.Linear(128, widths[-1] * self.bottom**2), nn.ReLU()
        )
        back = [*reversed(widths), 16]
        self.ups = nn.Sequential(*[Up(a, b) for a, b in pairwise(back)])
        self.last = nn.Conv2d(16, 1, 3, 1, 1)

    def decode(self, z_BZ: Tensor) -> Tensor:
        x = self.dense(z_BZ).unflatten(1, (-1, self.bottom, self.bottom))
        logits: Tensor = self.last(self.ups(x))
        return logits

    def loss(self, counts_BCHW: Tensor, beta: float) -> Tensor:
        """Cross-entropy over its lower bound + KL + (beta - 1) total correlation, per event."""
        target = compress(counts_BCHW).clamp(0, 1)
        mu_BZ, log_variance_BZ = self.encoder(counts_BCHW)
        z_BZ = mu_BZ + torch.exp(0.5 * log_variance_BZ) * torch.randn_like(mu_BZ)
        logits = self.decode(z_BZ).float()
        entropy = F.binary_cross_entropy(target, target, reduction="sum")
        reconstruction = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") - entropy
        kl = 0.5 * (mu_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum()
        dependence: Tensor = (beta - 1) * total_correlation(z_BZ, mu_BZ, log_variance_BZ)
        return (reconstruction + kl) / len(mu_BZ) + dependence


class MixtureEncoder(nn.Module):
    """[B, 1, S, S] counts -> packed [B, 2 Z + 2]: mu, log variance, component, log-likelihood."""

    def __init__(self, latent: int, widths: Sequence[int], size_px: int, components: int) -> None:
        super().__init__()
        self.packed_width = 2 * latent + 2
        self.encoder = Encoder(latent, widths, size_px)
        self.mixture = MixtureHead(components, 2 * latent)

    def forward(self, counts_BCHW: Tensor) -> Tensor:
        mu_BZ, log_variance_BZ = self.encoder(counts_BCHW)
        cluster_B, log_likelihood_B = self.mixture(mixture_features(mu_BZ, log_variance_BZ))
        return torch.cat([mu_BZ, log_variance_BZ, cluster_B[:, None].float(), log_likelihood_B[:, None]], 1)


def compress(counts_BCHW: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, then the logarithm: counts 0..65535 to 0..1, half the size."""
    return torch.log1p(F.avg_pool2d(counts_BCHW, 2).clamp_min(0)) / FULL_SCALE_LOG


def mixture_features(mu_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """[mu, sigma], [B, 2 Z]: what the mixture was fitted on."""
    return torch.cat([mu_BZ, torch.exp(0.5 * log_variance_BZ)], 1)


def total_correlation(z_BZ: Tensor, mu_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """Minibatch-weighted estimate of KL(q(z) || prod_l q(z_l)), constants dropped (Chen et al. 2018)."""
    difference_BBZ = z_BZ[:, None] - mu_BZ[None]
    log_q_BBZ = -0.5 * (difference_BBZ.square() * torch.exp(-log_variance_BZ) + log_variance_BZ)
    joint_B = torch.logsumexp(log_q_BBZ.sum(2), 1)
    return (joint_B - torch.logsumexp(log_q_BBZ, 1).sum(1)).mean()
