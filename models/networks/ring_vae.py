"""A small beta-TCVAE on what the rings say, and the encoder with its mixture that the stream runs.

After julian-carpenter/beta-TCVAE @572d9e3: total-correlation loss of Chen et al. 2018 with a ramp of beta,
and a Gaussian mixture on [mu, sigma]. Other than there, the encoder reads an image through `rings`, and the
decoder draws what the rings would say with more photons: the numbers of a second, bright exposure of the same
droplet where the training events have one, else of the image itself. No label is used. Beside them the
decoder draws the upright picture, from latents that this part cannot change: it is for people.

B batch, N numbers of the rings, U ring numbers, T numbers that are drawn, Z latent, C channels, H height,
W width, D = 2 Z features.
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixture import MixtureHead
from models.networks.rings import (
    ANGLES,
    NAMES,
    PICTURE_PX,
    RINGS,
    SPAN,
    RingReader,
    Rings,
    upright_picture,
)
from models.networks.vae_encoder import placed, total_correlation

# What the decoder draws, and how much a standard deviation of it counts. The strength of the rings is all
# that tells two sizes from one; with weight 1 the mixture put both into one component.
DRAWN: Final = {
    "photons_2": 1.0,
    "photons_4": 1.0,
    "tilt_along": 1.0,
    "tilt_across": 1.0,
    "strength": 2.0,
}
NOISE: Final = 0.2  # spread of a drawn number, in standard deviations; half and twice of it cluster no better
OUTLIER: Final = 3.0  # standard deviations: a number farther out is cut there, or it would rule the loss
INPUT_OUTLIER: Final = 4.0
LOG_VARIANCE_RANGE: Final = (-6.0, 1.0)  # sigma 0.05 .. 1.6: below, it tells only how bright an image is
PICTURE_NOISE: Final = 0.3  # the picture moves no latent; this only balances its gradient with the numbers'


class RingEncoder(nn.Module):
    """What the rings say -> mu and log variance [B, Z], float32. `lit`: the brightness counts too."""

    def __init__(self, latent: int, hidden: int, lit: bool) -> None:
        super().__init__()
        self.reader, self.lit = RingReader(), lit
        width = len(NAMES) + RINGS[2] + lit
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.picture = nn.Sequential(
            *_halving(1, 16),
            *_halving(16, 32),
            *_halving(32, 48),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(48 * (ANGLES // 8) * math.ceil((2 * SPAN + 1) / 8), 64),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Linear(64 + width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent),
        )

    def forward(self, counts_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(self.reader(counts_BCHW))

    def numbers(self, rings: Rings) -> Tensor:
        """What is scaled and read beside the picture, [B, N + U] and the light."""
        light = [rings.light[:, None]] if self.lit else []
        return torch.cat([rings.numbers, rings.strength, *light], 1)

    def encode(self, rings: Rings) -> tuple[Tensor, Tensor]:
        numbers = self.numbers(rings)
        scaled = (numbers - self.get_buffer("mean")) / self.get_buffer("spread")
        both = torch.cat([self.picture(rings.picture), scaled.clamp(-INPUT_OUTLIER, INPUT_OUTLIER)], 1)
        mu_BZ, log_variance_BZ = self.head(both).float().chunk(2, 1)
        return mu_BZ, log_variance_BZ.clamp(*LOG_VARIANCE_RANGE)


class RingDecoder(nn.Module):
    """z [B, Z] -> drawn numbers [B, T] in standard deviations, and the picture [B, 1, S, S]."""

    def __init__(self, latent: int, lit: bool) -> None:
        super().__init__()
        self.lit = lit
        weight = torch.tensor([*DRAWN.values()] + [1.0] * lit)
        self.register_buffer("mean", torch.zeros(len(weight)))
        self.register_buffer("spread", torch.ones(len(weight)))
        self.register_buffer("weight", weight)
        self.numbers = nn.Sequential(
            nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(weight))
        )
        bottom = PICTURE_PX // 4
        self.picture = nn.Sequential(
            nn.Linear(latent, 64),
            nn.ReLU(),
            nn.Linear(64, 16 * bottom * bottom),
            nn.ReLU(),
            nn.Unflatten(1, (16, bottom, bottom)),
            *_doubling(16, 16),
            *_doubling(16, 8),
            nn.Conv2d(8, 1, 3, 1, 1),
        )

    def chosen(self, bright: Rings, light_B: Tensor) -> Tensor:
        """The numbers that are to be drawn, [B, T]: how bright it was is that of the first exposure."""
        numbers = bright.numbers[:, [NAMES.index(name) for name in DRAWN]]
        return torch.cat([numbers, light_B[:, None]], 1) if self.lit else numbers

    def wanted(self, bright: Rings, light_B: Tensor) -> Tensor:
        """The same as they are drawn, in weighted standard deviations."""
        scaled = (self.chosen(bright, light_B) - self.get_buffer("mean")) / self.get_buffer("spread")
        return scaled.clamp(-OUTLIER, OUTLIER) * self.get_buffer("weight")


class RingVAE(nn.Module):
    """Encoder and decoder for training."""

    def __init__(self, latent: int, hidden: int, lit: bool = False) -> None:
        super().__init__()
        self.encoder = RingEncoder(latent, hidden, lit)
        self.decoder = RingDecoder(latent, lit)

    def learn_scale(self, counts_BCHW: Tensor, bright_BCHW: Tensor) -> None:
        """Take mean and spread of the numbers from these events."""
        with torch.no_grad():
            seen, bright = self.encoder.reader(counts_BCHW), self.encoder.reader(bright_BCHW)
            _set_scale(self.encoder, self.encoder.numbers(seen))
            _set_scale(self.decoder, self.decoder.chosen(bright, seen.light))

    def loss(self, counts_BCHW: Tensor, bright_BCHW: Tensor, beta: float) -> Tensor:
        """Squared error over twice the noise + KL + (beta - 1) total correlation, per event."""
        with torch.no_grad():
            seen, bright = self.encoder.reader(counts_BCHW), self.encoder.reader(bright_BCHW)
            target_BT, picture = self.decoder.wanted(bright, seen.light), upright_picture(bright_BCHW, bright)
        mu_BZ, log_variance_BZ = self.encoder.encode(seen)
        z_BZ = mu_BZ + torch.exp(0.5 * log_variance_BZ) * torch.randn_like(mu_BZ)
        error = (self.decoder.numbers(z_BZ).float() - target_BT).square().sum() / (2 * NOISE**2)
        drawn = self.decoder.picture(z_BZ.detach()).float()
        unseen = F.mse_loss(drawn, picture) * len(picture) / PICTURE_NOISE**2
        kl = 0.5 * (mu_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum()
        dependence = (beta - 1) * total_correlation(z_BZ, mu_BZ, log_variance_BZ)
        total: Tensor = (error + unseen + kl) / len(mu_BZ) + dependence
        return total


class RingMixtureEncoder(nn.Module):
    """[B, 1, S, S] counts -> packed [B, 2 Z + 2]: mu, log variance, component, log-likelihood.

    `decode` draws the upright picture of a latent point; the stream does not run it. `lit`: how usual an
    image is depends on its brightness too; where clusters are to be shapes, it must not.
    """

    def __init__(self, latent: int, hidden: int, components: int, lit: bool = False) -> None:
        super().__init__()
        if latent < 1 or hidden < 1:
            raise ValueError(f"latent and hidden must be positive, got {latent} and {hidden}")
        self.packed_width = 2 * latent + 2
        self.encoder = RingEncoder(latent, hidden, lit)
        self.decoder = RingDecoder(latent, lit)
        self.mixture = MixtureHead(components, 2 * latent)

    def forward(self, counts_BCHW: Tensor) -> Tensor:
        return placed(self.mixture, *self.encoder(counts_BCHW))

    def decode(self, z_BZ: Tensor) -> Tensor:
        """The upright picture [B, 1, S, S]: ln of the photons over their largest, ring periods as unit."""
        drawn: Tensor = self.decoder.picture(z_BZ)
        return drawn


def _halving(width_in: int, width_out: int) -> list[nn.Module]:
    conv = nn.Conv2d(width_in, width_out, 3, 2, 1, bias=False)
    return [conv, nn.BatchNorm2d(width_out), nn.ReLU()]


def _doubling(width_in: int, width_out: int) -> list[nn.Module]:
    """Nearest neighbour, 3x3, norm, ReLU (no checkerboard as from strided transposes)."""
    conv = nn.Conv2d(width_in, width_out, 3, 1, 1, bias=False)
    return [nn.Upsample(scale_factor=2.0), conv, nn.BatchNorm2d(width_out), nn.ReLU()]


def _set_scale(module: nn.Module, numbers: Tensor) -> None:
    module.get_buffer("mean").copy_(numbers.mean(0))
    module.get_buffer("spread").copy_(numbers.std(0).clamp_min(1e-3))
