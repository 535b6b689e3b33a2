"""Random changes of a spectrum that leave open what it shows: another mounting, and other views.

`mounted_anew` is for training with labels: what differs between two runs on the same sample. `view` is for
training without any: what self-supervised training holds to be the same.

Magnitude warp and time warp with the knots of
sunyue-xfel/Self-Supv-Relational-Reasoning-Learning-and-Contrastive-
Learning-Methods_Spectra-Classification @4d58303 (its shipped checkpoint uses these two). Their time warp
moves lines by degrees, and with them the pressure; ours moves them by as much as a new mounting of the
detector does.

B batch, N points, K knots.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

MAGNITUDE_SPREAD: Final = 0.3  # published
MAGNITUDE_KNOTS: Final = 4  # published
WARP_SPREAD_POINTS: Final = 5.0  # 0.02 deg, the spread of the zero of the angle between runs
WARP_KNOTS: Final = 8  # published
NOISE: Final = 0.03  # white noise of the measured curves
# The simulated curves all keep the same level under their lines; the two measured ones differ from it, and
# from each other, by 0.1 over a degree.
UNEVENNESS: Final = 0.1
UNEVEN_KNOTS: Final = 17
SHIFT_POINTS: Final = 3.0  # little beside the spread of the simulated runs, and no curve is seen twice
AMOUNT: Final = 0.2  # of sample in the beam, either way


def mounted_anew(raw_BN: Tensor) -> Tensor:
    """Each raw spectrum as another run might have it, [B, N]: moved by whole points, scaled, noisier."""
    moved_B1 = (SHIFT_POINTS * torch.randn(len(raw_BN), 1, device=raw_BN.device)).round().long()
    at_BN = (torch.arange(raw_BN.shape[1], device=raw_BN.device) + moved_B1).clamp(0, raw_BN.shape[1] - 1)
    amount_B1 = 1 + AMOUNT * (2 * torch.rand(len(raw_BN), 1, device=raw_BN.device) - 1)
    return raw_BN.gather(1, at_BN) * amount_B1 + _uneven(raw_BN)


def view(raw_BN: Tensor) -> Tensor:
    """Another random view of each raw spectrum, [B, N]."""
    warped_BN = _moved(raw_BN, _smooth(len(raw_BN), WARP_KNOTS, raw_BN) * WARP_SPREAD_POINTS)
    factor_BN = (1 + MAGNITUDE_SPREAD * _smooth(len(raw_BN), MAGNITUDE_KNOTS, raw_BN)).clamp_min(0.1)
    return warped_BN * factor_BN + _uneven(raw_BN)


def _uneven(like_BN: Tensor) -> Tensor:
    """White noise on what another baseline would leave: a line between random levels, [B, N]."""
    levels_B1K = UNEVENNESS * torch.randn(len(like_BN), 1, UNEVEN_KNOTS, device=like_BN.device)
    level_BN = F.interpolate(levels_B1K, size=like_BN.shape[1], mode="linear", align_corners=True)[:, 0]
    return level_BN + NOISE * torch.randn_like(like_BN)


def _smooth(count: int, knots: int, like_BN: Tensor) -> Tensor:
    """Standard normal values at the knots, a smooth curve between them, [B, N]."""
    values_B1K = torch.randn(count, 1, knots, device=like_BN.device)
    # Bicubic needs two dimensions; a second row of the same gives it one that does not vary.
    rows = values_B1K.unsqueeze(2).expand(-1, -1, 2, -1)
    size = (2, like_BN.shape[1])
    return F.interpolate(rows, size=size, mode="bicubic", align_corners=True)[:, 0, 0]


def _moved(x_BN: Tensor, by_points_BN: Tensor) -> Tensor:
    """x at point i + by_points[i], linear between points, the end points repeated beyond the ends."""
    at_BN = torch.arange(x_BN.shape[1], device=x_BN.device) + by_points_BN
    at_BN = at_BN.clamp(0, x_BN.shape[1] - 1)
    left_BN = at_BN.floor().long().clamp_max(x_BN.shape[1] - 2)
    share_BN = at_BN - left_BN
    return x_BN.gather(1, left_BN) * (1 - share_BN) + x_BN.gather(1, left_BN + 1) * share_BN
