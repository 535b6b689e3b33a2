"""What the rings of a diffraction image say of a droplet, whatever its size, azimuth, brightness and centre.

Fixed arithmetic in front of an encoder, nothing in it is learned. The radial spectrum of the log counts along
each direction has a peak where rings follow each other at their period, and where the image's centre lies
changes only its phase. From the peaks: how the period varies with the angle (an ellipse: two waves a turn; a
body tilted out of the detector plane: one wave, along the long axis of a prolate body's rings and across that
of an oblate one's), and how strong the rings are outwards (two sizes beat and fade). From the photons: how
unevenly they fly (a streak: four waves a turn). Wide-angle scattering is not point-symmetric, so directions
run over the full turn. The scale of frequencies is logarithmic, so that size is a shift (a Mellin transform).

Does not own the logarithm's zero: counts come with the pedestal subtracted. B batch, A angles, R radii,
F frequencies, U ring numbers, N numbers, C channels, H height, W width.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ANGLES: Final = 32  # a sector of 11 degrees: ten pixels wide at the edge of 128 x 128
SAMPLES: Final = 3  # directions averaged in a sector
# First and last over half the image, from the hole to the edge, and how many: at 128 px a pixel a step, to a
# hundredth (all that counts radial steps takes it for one).
RADII: Final = (6 / 64, 63.5 / 64, 58)
PHOTON_COUNTS: Final = 30.0  # mean counts a photon of the detector
FLOOR_PHOTONS: Final = 0.2  # added before the logarithm: below it a mean of a sector is noise
FLOOR_LIGHT: Final = 0.1  # photons of a sector: background alone gives more
PERIODS: Final = (56.0, 3.6)  # radial steps a ring, longest and shortest that 58 steps can tell
FREQUENCIES: Final = 64
TREND: Final = 2  # degree of the polynomial that is the fall of a direction, not its rings
# Power times frequency^1.5 while peaks are sought: what is left of the fall lies low, and where two sizes
# beat it is stronger than the rings (without this, a quarter of those images were taken for tiny droplets).
EMPHASIS: Final = 1.5
WINDOWS: Final = (0.8, 0.65, 0.5, 0.4)  # in ln(frequency), pass by pass: half an octave holds one peak
SMOOTHING_RAD: Final = 0.3  # keeps four waves a turn, drops the noise between sectors
TURNS: Final = 4  # waves a turn that are kept
RINGS: Final = (1.0, 5.5, 14)  # first and last ring number at which the strength is taken, and how many
RING_WINDOW: Final = 0.47  # sigma in rings: shorter and it no longer tells a ring from a slope
FINE_STEP: Final = 0.1  # of a ring; the shortest ring is 3.6 radial steps
OUTER: Final = 4  # index into the ring numbers: the strength counts from ring 2.4, clear of hole and trend
# Of ln(frequency), added to the strength: the larger a droplet, the more it absorbs and the finer its rings,
# and the weaker they are. With 0.3 to 0.6 the strength of spheres depends least on their size.
SIZE_SHARE: Final = 0.4
SPAN: Final = 16  # frequencies each side of the middle in the picture: 0.7 octaves and more
PICTURE_PX: Final = 32
PICTURE_RINGS: Final = 4.5  # ring periods from the middle to the edge of the upright picture
# Added before the logarithm: what each number is in an image of a sphere (measured on bright images).
FLOORS: Final = {"photons_2": 0.04, "photons_4": 0.03, "period_2": 0.03, "tilt": 0.03, "strength": 0.1}

NAMES: Final = (
    "photons_2",
    "photons_4",
    "period_2",
    "tilt_along",
    "tilt_across",
    "strength",
    "strength_least",
    "size",
    "clearness",
)


@dataclass(frozen=True)
class Rings:
    """numbers [B, N] in the order of NAMES; strength [B, U] ln of the rings' strength outwards, filled.

    picture [B, 1, A, W]: ring spectrum by angle, upright and centred on its mean frequency. upright [B, 3]:
    azimuth (rad) and whether to mirror (1, -1), and ring period over half the image's edge. light [B]: ln of
    the photons, weighted with the radius; all else knows nothing of it.
    """

    numbers: Tensor
    strength: Tensor
    picture: Tensor
    upright: Tensor
    light: Tensor


class RingReader(nn.Module):
    """[B, 1, S, S] counts -> Rings. Deterministic, each event alone, no learned constant."""

    def __init__(self) -> None:
        super().__init__()
        start, stop, count = RADII
        radius = torch.linspace(start, stop, count)
        angle = (torch.arange(ANGLES * SAMPLES) + 0.5) * (2 * math.pi / (ANGLES * SAMPLES))
        grid = torch.stack([torch.cos(angle)[:, None] * radius, torch.sin(angle)[:, None] * radius], -1)
        log_frequency = torch.linspace(-math.log(PERIODS[0]), -math.log(PERIODS[1]), FREQUENCIES)
        window = torch.hann_window(count, periodic=False)
        phase = 2 * math.pi * torch.arange(count)[:, None] * log_frequency.exp()
        waves = torch.stack([torch.cos(phase), torch.sin(phase)]) * window[:, None] * (2 / window.sum())
        constants = {
            "radius": radius,
            "grid": grid[None],
            "log_frequency": log_frequency,
            "waves": waves,
            "trend": _polynomials(count, TREND),
            "smooth": _smoothing(),
        } | _ring_constants()
        for name, constant in constants.items():
            self.register_buffer(name, constant, persistent=False)

    def forward(self, counts_BCHW: Tensor) -> Rings:
        with torch.autocast(counts_BCHW.device.type, enabled=False):
            photons_BAR = self.polar(counts_BCHW.float() / PHOTON_COUNTS)
            log_BAR = torch.log(photons_BAR + FLOOR_PHOTONS)
            trend = self.get_buffer("trend")
            waves_BAR = log_BAR - (log_BAR @ trend) @ trend.T
            power_BAF = (waves_BAR[:, None] @ self.get_buffer("waves")).square().sum(1)
            return self._read(photons_BAR, waves_BAR, power_BAF)

    def polar(self, x_BCHW: Tensor) -> Tensor:
        """Means over the sectors of each ring, [B, A, R]; negative counts are 0."""
        grid = self.get_buffer("grid").expand(len(x_BCHW), -1, -1, -1)
        seen = F.grid_sample(x_BCHW.clamp_min(0), grid, align_corners=False)
        means_BAR: Tensor = seen[:, 0].unflatten(1, (ANGLES, SAMPLES)).mean(2)
        return means_BAR

    def _read(self, photons_BAR: Tensor, waves_BAR: Tensor, power_BAF: Tensor) -> Rings:
        peak_BA = self.peaks(power_BAF)
        size_B = peak_BA.mean(1)
        period = _harmonics(peak_BA)
        flight = _harmonics((photons_BAR * self.get_buffer("radius")).sum(2))
        flown = [torch.hypot(*part) / flight[0][0].clamp_min(1e-6) for part in flight]
        azimuth_B = torch.atan2(period[2][1], period[2][0]) / 2
        along_B, across_B = _seen_from(period[1], azimuth_B)
        strength_BU = self._strength(waves_BAR, peak_BA)
        numbers = [
            torch.log(flown[2] + FLOORS["photons_2"]),
            torch.log(flown[4] + FLOORS["photons_4"]),
            torch.log(torch.hypot(*period[2]) + FLOORS["period_2"]),
            torch.log(along_B.abs() + FLOORS["tilt"]),
            torch.log(across_B.abs() + FLOORS["tilt"]),
            strength_BU[:, OUTER:].mean(1) + SIZE_SHARE * size_B,
            strength_BU.amin(1),
            size_B,
            0.5 * torch.log(power_BAF.mean((1, 2)) + 1e-4),
        ]
        half_turn_B = torch.where(along_B < 0, math.pi, 0.0)
        mirror_B = torch.where(along_B * across_B < 0, -1.0, 1.0)
        upright = torch.stack([azimuth_B + half_turn_B, mirror_B, torch.exp(-size_B)], 1)
        picture = self._picture(power_BAF, size_B, upright)
        light_B = torch.log(flight[0][0] + FLOOR_LIGHT)
        return Rings(torch.stack(numbers, 1), strength_BU, picture, upright, light_B)

    def peaks(self, power_BAF: Tensor) -> Tensor:
        """ln(frequency) of the rings along each direction, [B, A]: a peak followed as the window narrows."""
        log_frequency = self.get_buffer("log_frequency")
        weight_BAF = (power_BAF * torch.exp(EMPHASIS * (log_frequency - log_frequency.mean()))).square()
        total_BF = weight_BAF.mean(1)
        middle = (total_BF * log_frequency).sum(1) / total_BF.sum(1).clamp_min(1e-20)
        peak_BA = middle[:, None].expand(-1, power_BAF.shape[1])
        for width in WINDOWS:
            near = torch.exp(-0.5 * ((log_frequency - peak_BA[..., None]) / width).square()) * weight_BAF
            mass_BA = near.sum(2)
            centre_BA = (near * log_frequency).sum(2) / mass_BA.clamp_min(1e-20)
            mass_BA = (mass_BA / mass_BA.amax(1, keepdim=True).clamp_min(1e-20)).sqrt() + 1e-3
            smooth = self.get_buffer("smooth")
            peak_BA = (mass_BA * centre_BA) @ smooth / (mass_BA @ smooth)
        return peak_BA

    def _strength(self, waves_BAR: Tensor, peak_BA: Tensor) -> Tensor:
        """ln of the squared amplitude of the rings at each ring number, [B, U], seen through a short window.

        Where a ring number lies outside the image, the nearest one inside stands for it.
        """
        fine_P = self.get_buffer("fine")
        first, last = RADII[0] * 64, RADII[0] * 64 + RADII[2] - 1
        radius_BAP = fine_P * torch.exp(-peak_BA)[..., None]
        inside_BAP = ((radius_BAP >= first) & (radius_BAP <= last)).float()
        x = (radius_BAP - first) * (2 / (RADII[2] - 1)) - 1
        grid = torch.stack([x, self.get_buffer("rows")[:, None].expand_as(x)], -1)
        seen_BAP = F.grid_sample(waves_BAR[:, None], grid, align_corners=True)[:, 0] * inside_BAP
        amplitude_CBAU = torch.stack([seen_BAP @ part for part in self.get_buffer("beats")])
        weight_BAU = inside_BAP @ self.get_buffer("windows")
        power_BAU = amplitude_CBAU.square().sum(0) / weight_BAU.clamp_min(1e-3).square()
        # Half of the window must lie inside: less of it cannot tell a ring from a slope.
        known_BAU = weight_BAU > 0.5
        count_BU = known_BAU.sum(1)
        strength_BU = torch.log((power_BAU * known_BAU).sum(1) / count_BU.clamp_min(1) + FLOORS["strength"])
        return _filled(strength_BU, count_BU > 0.6 * ANGLES)

    def _picture(self, power_BAF: Tensor, size_B: Tensor, upright_B3: Tensor) -> Tensor:
        """The spectrum with its mean frequency in the middle, turned and mirrored; ln, about 0..1."""
        log_frequency = self.get_buffer("log_frequency")
        step = log_frequency[1] - log_frequency[0]
        offset = torch.arange(-SPAN, SPAN + 1, device=power_BAF.device)
        column_BW = ((size_B - log_frequency[0]) / step)[:, None] + offset
        sector = torch.arange(ANGLES, device=power_BAF.device) * (2 * math.pi / ANGLES)
        angle_BA = upright_B3[:, :1] + upright_B3[:, 1:2] * sector
        row_BA = torch.remainder(angle_BA * (ANGLES / (2 * math.pi)) - 0.5, ANGLES)
        wrapped = torch.cat([power_BAF, power_BAF[:, :1]], 1).sqrt()
        x = column_BW * (2 / (FREQUENCIES - 1)) - 1
        y = row_BA * (2 / ANGLES) - 1
        grid = torch.stack([x[:, None].expand(-1, ANGLES, -1), y[:, :, None].expand(-1, -1, x.shape[1])], -1)
        seen = F.grid_sample(wrapped[:, None], grid, align_corners=True)
        return torch.log(seen + 0.03) * 0.3 + 1.0


def upright_picture(counts_BCHW: Tensor, rings: Rings) -> Tensor:
    """The image turned upright, in units of its ring period, [B, 1, P, P]: ln of the photons, 0..1.

    The long axis of the rings' frequency lies along x. What lies outside the image is 0.
    """
    axis = (torch.arange(PICTURE_PX, device=counts_BCHW.device) + 0.5) * (2 * PICTURE_RINGS / PICTURE_PX)
    axis = axis - PICTURE_RINGS
    x, y = axis[None], axis[:, None]
    azimuth_B, mirror_B, period_B = (part[:, None, None] for part in rings.upright.unbind(1))
    c, s = torch.cos(azimuth_B), torch.sin(azimuth_B)
    scale = period_B / 64
    grid = torch.stack([(c * x - s * mirror_B * y) * scale, (s * x + c * mirror_B * y) * scale], -1)
    photons = F.avg_pool2d(counts_BCHW.clamp_min(0), 3, 1, 1) / PHOTON_COUNTS
    seen = torch.log1p(F.grid_sample(photons, grid, align_corners=False))
    return seen / seen.amax((1, 2, 3), keepdim=True).clamp_min(1.0)


def _ring_constants() -> dict[str, Tensor]:
    """fine [P]: ring numbers at which a direction is read; windows [P, U], sum 1; beats [2, P, U]."""
    number = torch.linspace(*RINGS[:2], RINGS[2])
    fine = torch.arange(RINGS[0] - 0.7, RINGS[1] + 0.7, FINE_STEP)
    windows = torch.exp(-0.5 * ((fine[:, None] - number) / RING_WINDOW).square())
    windows = windows / windows.sum(0)
    phase = 2 * math.pi * fine[:, None]
    beats = 2 * torch.stack([windows * torch.cos(phase), windows * torch.sin(phase)])
    rows = torch.linspace(-1, 1, ANGLES)
    return {"fine": fine, "windows": windows, "beats": beats, "rows": rows}


def _polynomials(count: int, degree: int) -> Tensor:
    """Orthonormal columns that span the polynomials up to `degree`, [R, degree + 1]."""
    t = torch.linspace(-1, 1, count)
    columns: Tensor = torch.linalg.qr(torch.stack([t**power for power in range(degree + 1)], 1))[0]
    return columns.contiguous()


def _smoothing() -> Tensor:
    """A circular Gaussian over the sectors, [A, A]."""
    step = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    apart = torch.remainder(step[:, None] - step + math.pi, 2 * math.pi) - math.pi
    kernel = torch.exp(-0.5 * (apart / SMOOTHING_RAD).square())
    return kernel / kernel.sum(0)


def _harmonics(x_BA: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean of x cos(m angle) and x sin(m angle) for m = 0..TURNS, each [B]."""
    angle = (torch.arange(ANGLES, device=x_BA.device) + 0.5) * (2 * math.pi / ANGLES)
    return [
        ((x_BA * torch.cos(m * angle)).mean(1), (x_BA * torch.sin(m * angle)).mean(1))
        for m in range(TURNS + 1)
    ]


def _seen_from(wave: tuple[Tensor, Tensor], azimuth_B: Tensor) -> tuple[Tensor, Tensor]:
    """One wave a turn, as its part along the azimuth and the part across it."""
    c, s = torch.cos(azimuth_B), torch.sin(azimuth_B)
    return wave[0] * c + wave[1] * s, wave[1] * c - wave[0] * s


def _filled(x_BU: Tensor, known_BU: Tensor) -> Tensor:
    """Unknown places take the value of the nearest known one before them, else after them."""
    columns, known = [*x_BU.unbind(1)], [*known_BU.unbind(1)]
    for order in (range(1, len(columns)), range(len(columns) - 2, -1, -1)):
        for i in order:
            before = i - order.step
            columns[i] = torch.where(known[i], columns[i], columns[before])
            known[i] = known[i] | known[before]
    return torch.stack(columns, 1)
