"""The two-point cross-correlation image: what an image says of itself whichever way it is turned.

Unwrapped to I(q, phi) by linear interpolation around the middle, ring by ring:

    C(q, D) = <I(q, phi) I(q, phi + D)>_phi / <I(q)>_phi^2 - 1,   by |FFT_phi I|^2

the standard definition; an alternative input of julian-carpenter/airynet @7ad87bb, whose generator is not
published. C is even in D, so D runs from 0 to 180 degrees. A ring without structure gives 0: rings that
differ only by their radii are gone with the azimuth.

B batch, H height, W width, Q rings, P angles.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.manifest import ModelError


def two_point_correlation(x_B1HW: Tensor, rings: int, angles: int, floor: float) -> Tensor:
    """Counts [B, 1, H, W] -> C, float32 [B, 1, rings, angles / 2]; row is q from the middle outwards.

    `floor` in counts: a ring's mean counts at least as this much, or the readout noise of a dark ring would
    be divided by nothing. Raises ModelError for sizes that cannot be.
    """
    if rings < 1 or angles < 4 or angles % 2 or not floor > 0:
        raise ModelError(
            "two-point correlation: expected rings from 1, an even number of angles from 4 and a floor above "
            f"0, got {rings}, {angles} and {floor}; correct `preprocess` in the recipe"
        )
    x = x_B1HW.float()
    grid = _rays((x.shape[2], x.shape[3]), rings, angles, x.device)
    polar_BQP = F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=True)[:, 0]
    power_BQF = torch.fft.rfft(polar_BQP, dim=2).abs().square()
    product_BQP = torch.fft.irfft(power_BQF, n=angles, dim=2) / angles
    mean_BQ1 = polar_BQP.mean(2, keepdim=True)
    # The square of the mean is taken off before the division: with the floor, a dark ring still gives 0.
    structure_BQP = product_BQP - mean_BQ1.square()
    correlation_BQP: Tensor = structure_BQP / mean_BQ1.clamp_min(floor).square()
    return correlation_BQP[:, None, :, : angles // 2]


@lru_cache(maxsize=8)
def _rays(shape: tuple[int, int], rings: int, angles: int, device: torch.device) -> Tensor:
    """Where to look, [1, Q, P, 2] in the units of grid_sample: out to the nearer edge, none in the middle."""
    height, width = shape
    with torch.inference_mode(False):  # kept for calls outside of it too
        radius_Q1 = (torch.arange(rings) + 1)[:, None] / rings * (min(shape) - 1) / 2
        angle_P = torch.arange(angles) * (2 * torch.pi / angles)
        x, y = radius_Q1 * torch.cos(angle_P), radius_Q1 * torch.sin(angle_P)
        return torch.stack([x / ((width - 1) / 2), y / ((height - 1) / 2)], 2)[None].to(device)
