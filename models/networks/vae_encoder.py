"""Where an image lies in a small latent space, and how usual that place is: beta-TCVAE and a mixture.

After julian-carpenter/beta-TCVAE @572d9e3 (residual encoder and decoder, total-correlation loss of Chen et
al. 2018, Gaussian mixture on [mu, sigma]), smaller, with three defects of that code mended: the learning rate
reaches its value, batch normalisation runs in training mode while training, and weight decay is applied. New
here: the decoder draws the image upright and without its ring means (`shape_of`), with Gaussian errors. The
logarithm of the counts stands in the network: the bundle shares its preprocessing with the classifier.

Training uses `BetaTCVAE`; the stream runs `MixtureEncoder`: the same encoder, then the mixture.
B batch, C channels, H height, W width, Z latent, K components, D = 2 Z features.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixture import MixtureHead
from models.networks.layout import channels_last

NOISE = 0.04  # spread of a drawn pixel, the brightest being 1; with 0.1 one of six latents was used
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
        x = F.relu(self.first(channels_last(compress(counts_BCHW) - 0.5)))
        hidden = F.relu(self.dense(self.downs(x).flatten(1)))
        mu_BZ, log_variance_BZ = self.head(hidden).float().chunk(2, 1)
        return mu_BZ, log_variance_BZ.clamp(*LOG_VARIANCE_RANGE)


class BetaTCVAE(nn.Module):
    """Encoder and decoder for training; `decode` draws `shape_of` the image, [B, 1, S/4, S/4]."""

    def __init__(self, latent: int, widths: Sequence[int], size_px: int) -> None:
        super().__init__()
        self.encoder = Encoder(latent, widths, size_px)
        self.bottom = size_px >> (len(widths) + 1)
        self.dense = nn.Sequential(
            nn.Linear(latent, 128), nn.ReLU(), nn.Linear(128, widths[-1] * self.bottom**2), nn.ReLU()
        )
        self.ups = nn.Sequential(*[Up(a, b) for a, b in pairwise([*reversed(widths)])])
        self.last = nn.Conv2d(widths[0], 1, 3, 1, 1)

    def decode(self, z_BZ: Tensor) -> Tensor:
        x = self.dense(z_BZ).unflatten(1, (-1, self.bottom, self.bottom))
        drawn: Tensor = self.last(self.ups(x))
        return drawn

    def loss(self, counts_BCHW: Tensor, beta: float) -> Tensor:
        """Squared error over twice the noise + KL + (beta - 1) total correlation, per event."""
        with torch.no_grad():
            target = shape_of(compress(counts_BCHW))
        mu_BZ, log_variance_BZ = self.encoder(counts_BCHW)
        z_BZ = mu_BZ + torch.exp(0.5 * log_variance_BZ) * torch.randn_like(mu_BZ)
        reconstruction = (self.decode(z_BZ).float() - target).square().sum() / (2 * NOISE**2)
        kl = 0.5 * (mu_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum()
        dependence = (beta - 1) * total_correlation(z_BZ, mu_BZ, log_variance_BZ)
        loss: Tensor = (reconstruction + kl) / len(mu_BZ) + dependence
        return loss


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
    """Means of 2 x 2 pixels, logarithm, over the event's maximum: 0..1, half the size, brightness gone."""
    decades = torch.log1p(F.avg_pool2d(counts_BCHW, 2).clamp_min(0))
    return decades / decades.amax((1, 2, 3), keepdim=True).clamp_min(1.0)


def shape_of(x_BCHW: Tensor) -> Tensor:
    """What is left of a compressed image [B, 1, S/2, S/2] without its azimuth and its mean over each ring.

    Half the size: [B, 1, S/4, S/4]. Size and brightness, new in every event, are in the ring means; with them
    in the picture the clusters were sizes (adjusted Rand index of a mixture on 12 principal components: 0.16
    with, 0.31 without).
    """
    x = F.avg_pool2d(upright(x_BCHW), 2)
    size = x.shape[-1]
    axis = torch.arange(size, device=x.device) - (size - 1) / 2
    ring = torch.hypot(axis[:, None], axis[None]).long().clamp_max(size // 2).flatten()
    flat_BP = x.flatten(1)
    sums_BR = flat_BP.new_zeros(len(x), size // 2 + 1).index_add(1, ring, flat_BP)
    means_BR = sums_BR / torch.bincount(ring, minlength=size // 2 + 1).clamp_min(1)
    return (flat_BP - means_BR[:, ring]).view_as(x)


def upright(x_BCHW: Tensor) -> Tensor:
    """Each image turned so that its long axis lies along x and its heavier side to the right.

    The azimuth is chance; in an upright image it needs no latent dimension. Angles come from the second and
    third moments inside the inscribed circle.
    """
    axis = torch.linspace(-1, 1, x_BCHW.shape[-1], device=x_BCHW.device)
    y, x = axis[:, None], axis[None]
    weight_BHW = x_BCHW[:, 0].square() * (x * x + y * y < 1)
    difference_B, product_B = (weight_BHW * (x * x - y * y)).sum((1, 2)), (weight_BHW * x * y).sum((1, 2))
    angle_B = 0.5 * torch.atan2(2 * product_B, difference_B)
    c, s = torch.cos(angle_B), torch.sin(angle_B)
    along_BHW = c[:, None, None] * x + s[:, None, None] * y
    side = torch.where((weight_BHW * along_BHW.pow(3)).sum((1, 2)) < 0, -1.0, 1.0)
    rows = torch.stack([c, -s, torch.zeros_like(c), s, c, torch.zeros_like(c)], 1) * side[:, None]
    grid = F.affine_grid(rows.view(-1, 2, 3), list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid, padding_mode="border", align_corners=False).clamp(0, 1)


def mixture_features(mu_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """[mu, sigma], [B, 2 Z]: what the mixture was fitted on."""
    return torch.cat([mu_BZ, torch.exp(0.5 * log_variance_BZ)], 1)


def total_correlation(z_BZ: Tensor, mu_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """Minibatch-weighted estimate of KL(q(z) || prod_l q(z_l)), constants dropped (Chen et al. 2018)."""
    difference_BBZ = z_BZ[:, None] - mu_BZ[None]
    log_q_BBZ = -0.5 * (difference_BBZ.square() * torch.exp(-log_variance_BZ) + log_variance_BZ)
    joint_B = torch.logsumexp(log_q_BBZ.sum(2), 1)
    return (joint_B - torch.logsumexp(log_q_BBZ, 1).sum(1)).mean()
