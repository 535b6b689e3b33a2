"""What the encoders with a mixture share: a block, the features of the mixture, and the total correlation.

After julian-carpenter/beta-TCVAE @572d9e3 (residual blocks, Gaussian mixture on [mu, sigma]) and Chen et al.,
arXiv 1802.04942 (the estimate). Does not own an encoder: those are `ring_vae` and `tcvae`.

B batch, C channels, H height, W width, Z latent.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixture import MixtureHead


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


def placed(mixture: MixtureHead, mu_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """What the stream gets of an encoder with a mixture, packed [B, 2 Z + 2]: mu, log variance, component,
    log-likelihood."""
    cluster_B, log_likelihood_B = mixture(mixture_features(mu_BZ, log_variance_BZ))
    return torch.cat([mu_BZ, log_variance_BZ, cluster_B[:, None].float(), log_likelihood_B[:, None]], 1)


def mixture_features(mu_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """[mu, sigma], [B, 2 Z]: what the mixture was fitted on."""
    return torch.cat([mu_BZ, torch.exp(0.5 * log_variance_BZ)], 1)


def total_correlation(z_BZ: Tensor, mu_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """Minibatch-weighted estimate of KL(q(z) || prod_l q(z_l)), constants dropped (Chen et al. 2018)."""
    difference_BBZ = z_BZ[:, None] - mu_BZ[None]
    log_q_BBZ = -0.5 * (difference_BBZ.square() * torch.exp(-log_variance_BZ) + log_variance_BZ)
    joint_B = torch.logsumexp(log_q_BBZ.sum(2), 1)
    return (joint_B - torch.logsumexp(log_q_BBZ, 1).sum(1)).mean()
