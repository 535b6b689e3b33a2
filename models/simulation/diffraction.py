"""Wide-angle diffraction of soft-edged bodies by slices along the beam (multi-slice Fourier transform).

    F(q) = sum over z of FT2[ inside(x, y, z) exp(-L / (2 l_abs) + i k dn L) ] exp(-i q_z z) dz,
    q_z = sqrt(k^2 - q_perp^2) - k,   I = |F|^2

with L the path inside the body before z: single scattering, absorption and phase along the beam, as used for
helium droplets in wide-angle images (Langbehn et al., PRL 121, 255301, 2018). FT2 is a product with two small
matrices, because the body fills few of the grid points that a padded FFT would need: 48 x 48 points to 128 x
128 pixels costs 5 M multiply-adds a slice, a tenth of the FFT on 512 x 512.

The image is uniform in q_perp, out to k sin(30 deg) at the middle of each edge. Units: nm and 1/nm. In torch,
on any device; nothing here is random. B bodies, Z slices, Y and X points of a slice, Q pixels of an edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]

LATERAL_POINTS: Final = 48  # 15 to 30 nm a voxel: a quarter of the smallest resolved period, lambda / sin 30
SLICES: Final = 32  # q_z dz < 0.5 for the median droplet: the phase of a slice hardly turns within it
MAX_SINE: Final = 0.5  # sine of the scattering angle at the middle of an edge: 30 degrees
EDGE_ROOM: Final = 1.04  # half the grid over the body's extent: room for the soft edge


@dataclass(frozen=True)
class Optics:
    """Light and material. Defaults: helium near its resonances, 21 eV, at the free-electron laser FERMI."""

    wavelength_nm: float = 59.0
    absorption_nm: float = 1000.0
    refraction: float = 0.01  # dn, real part of n - 1


@dataclass(frozen=True)
class Body:
    """An ellipsoid, or (with `half_length_nm` > 0) a pill along its first axis; then turned by `rotation`.

    semi_axes_nm: of the ellipsoid, or (any, r, r) of the pill. rotation [3, 3]: columns are the body's axes
    in the laboratory (x, y detector, z beam).
    """

    semi_axes_nm: tuple[float, float, float]
    rotation: Float
    half_length_nm: float = 0.0

    def extent_nm(self) -> float:
        """Radius of a sphere around the centre that holds the body."""
        if self.half_length_nm:
            return self.half_length_nm + self.semi_axes_nm[1]
        return max(self.semi_axes_nm)

    def scaled(self, factor: float) -> "Body":
        """The same shape, `factor` times as large."""
        a, b, c = self.semi_axes_nm
        axes = (a * factor, b * factor, c * factor)
        return replace(self, semi_axes_nm=axes, half_length_nm=self.half_length_nm * factor)

    def distance_axes_nm(self) -> tuple[float, float, float]:
        """Semi-axes of what is left when the straight part is cut out: of a pill, a sphere."""
        return (self.semi_axes_nm[1],) * 3 if self.half_length_nm else self.semi_axes_nm


def amplitude(body: Body, optics: Optics, size_px: int = 128) -> Complex:
    """F(q) [size_px, size_px] of one body in the origin, in nm^3; row is q_y, column is q_x."""
    field: Complex = amplitudes([body], [optics], size_px)[0].numpy()
    return field


def amplitudes(
    bodies: Sequence[Body], optics: Sequence[Optics], size_px: int = 128, device: str | torch.device = "cpu"
) -> Tensor:
    """F(q), complex64 [B, size_px, size_px], of each body in the origin under its own optics."""
    half_nm_B = _column([EDGE_ROOM * body.extent_nm() for body in bodies], device)
    lateral_nm_BX = half_nm_B[:, None] * _centres(LATERAL_POINTS, device)
    beam_nm_BZ = half_nm_B[:, None] * _centres(SLICES, device)
    inside_BZYX = _inside(bodies, beam_nm_BZ, lateral_nm_BX)
    step_nm_B = 2 * half_nm_B / SLICES
    waves_BZYX = _transmitted(inside_BZYX, step_nm_B, optics)
    wave_number_B = _column([2 * np.pi / own.wavelength_nm for own in optics], device)
    sine_Q, turn_QQ = _directions(size_px, str(device))
    transform_BQX = _phase(wave_number_B[:, None, None] * lateral_nm_BX[:, None, :] * sine_Q[:, None])
    slices_BZQQ = _transformed(waves_BZYX, transform_BQX)
    q_z_BQQ = wave_number_B[:, None, None] * turn_QQ
    voxel_nm3_B = step_nm_B * (2 * half_nm_B / LATERAL_POINTS) ** 2
    return _sum_slices(slices_BZQQ, q_z_BQQ, beam_nm_BZ) * voxel_nm3_B[:, None, None]


def shift(fields_BQQ: Tensor, offsets_nm: NDArray[np.float64], wavelengths_nm: Sequence[float]) -> Tensor:
    """The fields of the same bodies moved by offsets_nm [B, 3] (x, y, z)."""
    device = fields_BQQ.device
    sine_Q, turn_QQ = _directions(fields_BQQ.shape[-1], str(device))
    wave_number_B = _column([2 * np.pi / wavelength_nm for wavelength_nm in wavelengths_nm], device)
    x, y, z = torch.from_numpy(offsets_nm.astype(np.float32)).to(device).T[:, :, None, None]
    path_BQQ = sine_Q[None, None, :] * x + sine_Q[None, :, None] * y + turn_QQ * z
    return fields_BQQ * _phase(wave_number_B[:, None, None] * path_BQQ)


def wave_grid(wavelength_nm: float, size_px: int) -> tuple[Float, Float]:
    """q of the pixel columns [size_px] and q_z [size_px, size_px], in 1/nm."""
    k = 2 * np.pi / wavelength_nm
    sine_Q, turn_QQ = _directions(size_px, "cpu")
    return (k * sine_Q.double()).float().numpy(), (k * turn_QQ.double()).float().numpy()


@lru_cache(maxsize=8)
def _directions(size_px: int, device: str) -> tuple[Tensor, Tensor]:
    """q / k of the pixel columns [Q], and q_z / k of every pixel [Q, Q]: the same for any wavelength."""
    sine_Q = (np.arange(size_px) - (size_px - 1) / 2) * (2 * MAX_SINE / size_px)
    turn_QQ = np.sqrt(1 - sine_Q[:, None] ** 2 - sine_Q[None] ** 2) - 1
    sine, turn = (torch.from_numpy(values.astype(np.float32)).to(device) for values in (sine_Q, turn_QQ))
    return sine, turn


def _column(values: Sequence[float], device: str | torch.device) -> Tensor:
    """[B], one number a body."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _centres(count: int, device: str | torch.device) -> Tensor:
    """Centres of `count` equal intervals of -1..1."""
    return (torch.arange(count, device=device, dtype=torch.float32) + 0.5) / count * 2 - 1


def _phase(angle: Tensor) -> Tensor:
    """exp(-i angle)."""
    return torch.polar(torch.ones_like(angle), -angle)


def _inside(bodies: Sequence[Body], beam_nm_BZ: Tensor, lateral_nm_BX: Tensor) -> Tensor:
    """1 inside, 0 outside, a ramp one voxel wide between (a hard edge makes faceted rings)."""
    device = beam_nm_BZ.device
    rotation = torch.from_numpy(np.stack([body.rotation for body in bodies]).astype(np.float32)).to(device)
    z, y = beam_nm_BZ[:, :, None, None], lateral_nm_BX[:, None, :, None]
    own = [
        lateral_nm_BX[:, None, None, :] * axis[:, 0, None, None, None]
        + (y * axis[:, 1, None, None, None] + z * axis[:, 2, None, None, None])
        for axis in rotation.unbind(2)
    ]
    half_nm = _column([body.half_length_nm for body in bodies], device)[:, None, None, None]
    if any(body.half_length_nm for body in bodies):
        own[0] = own[0] - own[0].clamp(-half_nm, half_nm)
    axes_nm_B3 = torch.tensor(
        [body.distance_axes_nm() for body in bodies], dtype=torch.float32, device=device
    )
    voxel_nm_B = lateral_nm_BX[:, 1] - lateral_nm_BX[:, 0]
    outside_nm = _distance_nm(own, axes_nm_B3)
    return (0.5 - outside_nm / voxel_nm_B[:, None, None, None]).clamp_(0, 1)


def _distance_nm(own: Sequence[Tensor], axes_nm_B3: Tensor) -> Tensor:
    """Signed distance to first order: f (f - 1) / |grad| with f = |x / a|; exact for a sphere."""
    inverse = (1 / axes_nm_B3).T[:, :, None, None, None]
    scaled = [part * i for part, i in zip(own, inverse, strict=True)]
    f = (scaled[0].square() + scaled[1].square() + scaled[2].square()).sqrt_().clamp_min_(1e-6)
    slopes = [(part * i).square_() for part, i in zip(scaled, inverse, strict=True)]
    # 1e-12 per nm is far below any slope but that of the very centre, which it puts deep inside.
    slope = (slopes[0] + slopes[1] + slopes[2]).sqrt_().add_(1e-12)
    distance_nm: Tensor = f * (f - 1) / slope
    return distance_nm


def _transmitted(inside_BZYX: Tensor, step_nm_B: Tensor, optics: Sequence[Optics]) -> Tensor:
    """Complex waves behind the part of the body that lies before each voxel."""
    path_BZYX = (inside_BZYX.cumsum(1) - 0.5 * inside_BZYX) * step_nm_B[:, None, None, None]
    device = inside_BZYX.device
    decay = _column([1 / (2 * own.absorption_nm) for own in optics], device)[:, None, None, None]
    rate = [2 * np.pi / own.wavelength_nm * own.refraction for own in optics]
    turn = _column(rate, device)[:, None, None, None]
    return torch.polar(inside_BZYX * torch.exp(-decay * path_BZYX), turn * path_BZYX)


def _transformed(waves_BZYX: Tensor, transform_BQX: Tensor) -> Tensor:
    """The two-dimensional transform of every slice, [B, Z, Q, Q] (in memory [B, Q, Z, Q])."""
    B, Z, Y, X = waves_BZYX.shape
    size = transform_BQX.shape[1]
    rows_BZYQ = (waves_BZYX.reshape(B, Z * Y, X) @ transform_BQX.mT).view(B, Z, Y, size)
    columns = transform_BQX @ rows_BZYQ.transpose(1, 2).reshape(B, Y, Z * size)
    return columns.view(B, size, Z, size).transpose(1, 2)


def _sum_slices(slices_BZQQ: Tensor, q_z_BQQ: Tensor, beam_nm_BZ: Tensor) -> Tensor:
    """sum_z slice exp(-i q_z z), by Horner's rule: one complex exponential instead of one a slice."""
    turn = _phase(q_z_BQQ * (beam_nm_BZ[:, 1] - beam_nm_BZ[:, 0])[:, None, None])
    total = slices_BZQQ[:, -1]
    for wave in slices_BZQQ.unbind(1)[-2::-1]:
        total = torch.addcmul(wave, total, turn)
    return total * _phase(q_z_BQQ * beam_nm_BZ[:, 0, None, None])
