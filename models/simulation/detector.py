"""A microchannel-plate detector with a camera: from an intensity to raw uint16 counts.

In order: centre jitter, flat-detector fall-off, photon scale, stray light, Poisson, central hole, dead
sectors, exponential gain of each photon, saturation, readout noise on a pedestal. Numbers are typical of such
detectors, not of one; those that a study turns are in `Detector`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.simulation.diffraction import MAX_SINE, Float

PEDESTAL_COUNTS: Final = 100.0  # camera offset; the bundles subtract it
READOUT_COUNTS: Final = 4.0
GAIN_COUNTS: Final = 30.0  # mean counts a photon: single photons stand 7 sigma above the readout
FULL_WELL_COUNTS: Final = 60_000.0
HOLE_SHARE: Final = 0.11  # radius of the central hole over half the image
PHOTONS: Final = (1.5e4, 3e6)  # scattered photons on the detector, drawn log-uniform
DEAD_SECTOR_DEG: Final = (6.0, 25.0)  # a cable or a burnt patch of the plate; a wider one would be replaced


@dataclass(frozen=True)
class Detector:
    """What may differ between cameras and between images of one.

    photons: (lowest, highest) number scattered onto the detector, log-uniform. readout_counts: sigma.
    dead_sectors: at most so many blind wedges, 0 to this number in each image. hole_share: (smallest,
    largest) radius of the hole over half the image, uniform.
    """

    photons: tuple[float, float] = PHOTONS
    readout_counts: float = READOUT_COUNTS
    dead_sectors: int = 0
    hole_share: tuple[float, float] = (HOLE_SHARE, HOLE_SHARE)


@dataclass(frozen=True)
class Exposure:
    """counts: uint16 [size, size]. photons: how many were scattered onto the detector; 0 for background."""

    counts: NDArray[np.uint16]
    photons: float


DEFAULT: Final = Detector()


def expose(
    intensity: Float | None, rng: np.random.Generator, size_px: int, detector: Detector = DEFAULT
) -> Exposure:
    """One readout of an intensity [size_px, size_px] of any scale; None gives the background alone."""
    radius, angle_deg = _polar(size_px)
    blind = (radius < rng.uniform(*detector.hole_share)) | _dead(angle_deg, rng, detector.dead_sectors)
    expected = rng.uniform(0.02, 0.25) * np.minimum(0.3 / np.maximum(radius, 0.05), 4)
    photons = 0.0
    if intensity is not None:
        photons = float(np.exp(rng.uniform(*np.log(detector.photons))))
        expected = expected + _scaled(intensity, radius, photons, rng)
    counts = _amplified(rng.poisson(np.where(blind, 0, expected)), rng)
    noise = rng.normal(PEDESTAL_COUNTS, detector.readout_counts, counts.shape)
    counts = np.minimum(counts, FULL_WELL_COUNTS) + noise
    return Exposure(np.clip(np.rint(counts), 0, 65535).astype(np.uint16), photons)


def _scaled(intensity: Float, radius: Float, photons: float, rng: np.random.Generator) -> Float:
    """Photons expected in each pixel: moved by up to 2 pixels, cos^3 for the slant of a flat detector.

    `photons` is their sum outside of the smallest hole, so that the hole's size does not change the rest.
    """
    moved = np.roll(intensity, tuple(rng.integers(-2, 3, 2)), (0, 1))
    slanted = moved * (1 - np.minimum((radius * MAX_SINE) ** 2, 0.75)) ** 1.5
    outside = np.where(radius < HOLE_SHARE, 0, slanted)
    scaled: Float = slanted * (photons / max(float(outside.sum()), 1e-30))
    return scaled


def _dead(angle_deg: Float, rng: np.random.Generator, most: int) -> NDArray[np.bool_]:
    """True in 0 to `most` wedges between the centre and the rim."""
    blind = np.zeros(angle_deg.shape, bool)
    for _ in range(rng.integers(0, most + 1) if most else 0):
        from_middle_deg = np.abs((angle_deg - rng.uniform(-180, 180) + 180) % 360 - 180)
        blind |= from_middle_deg < 0.5 * rng.uniform(*DEAD_SECTOR_DEG)
    return blind


def _amplified(photons: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Each photon gives an exponentially distributed charge, so n photons a gamma distribution of shape n."""
    counts = np.zeros(photons.shape)
    hit = photons > 0
    counts[hit] = rng.standard_gamma(photons[hit]) * GAIN_COUNTS
    return counts


@cache
def _polar(size_px: int) -> tuple[Float, Float]:
    """Distance from the centre over half the image, and the angle in degrees."""
    axis = (np.arange(size_px) - (size_px - 1) / 2) / (size_px / 2)
    radius: Float = np.hypot(axis[:, None], axis[None]).astype(np.float32)
    angle_deg: Float = np.rad2deg(np.arctan2(axis[:, None], axis[None])).astype(np.float32)
    return radius, angle_deg
