"""A microchannel-plate detector with a camera: from an intensity to raw uint16 counts.

In order: centre jitter, flat-detector fall-off, photon scale, stray light, Poisson, exponential gain of each
photon, saturation, central hole, readout noise on a pedestal. Numbers are typical of such detectors, not of
one.
"""

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


def expose(intensity: Float | None, rng: np.random.Generator, size_px: int) -> NDArray[np.uint16]:
    """One readout [size_px, size_px]; None gives the background alone."""
    radius = _radius(size_px)
    stray = rng.uniform(0.02, 0.25) * np.minimum(0.3 / np.maximum(radius, 0.05), 4)
    photons = stray if intensity is None else stray + _scaled(intensity, radius, rng)
    seen = rng.poisson(np.where(radius < HOLE_SHARE, 0, photons))
    counts = _amplified(seen, rng)
    counts = np.minimum(counts, FULL_WELL_COUNTS) + rng.normal(PEDESTAL_COUNTS, READOUT_COUNTS, counts.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _scaled(intensity: Float, radius: Float, rng: np.random.Generator) -> Float:
    """Photons expected in each pixel: moved by up to 2 pixels, cos^3 for the slant of a flat detector."""
    moved = np.roll(intensity, tuple(rng.integers(-2, 3, 2)), (0, 1))
    slanted = moved * (1 - np.minimum((radius * MAX_SINE) ** 2, 0.75)) ** 1.5
    outside = np.where(radius < HOLE_SHARE, 0, slanted)
    total = np.exp(rng.uniform(*np.log(PHOTONS)))
    scaled: Float = slanted * (total / max(float(outside.sum()), 1e-30))
    return scaled


def _amplified(photons: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Each photon gives an exponentially distributed charge, so n photons a gamma distribution of shape n."""
    counts = np.zeros(photons.shape)
    hit = photons > 0
    counts[hit] = rng.standard_gamma(photons[hit]) * GAIN_COUNTS
    return counts


@cache
def _radius(size_px: int) -> Float:
    """Distance from the centre over half the image."""
    axis = (np.arange(size_px) - (size_px - 1) / 2) / (size_px / 2)
    radius: Float = np.hypot(axis[:, None], axis[None]).astype(np.float32)
    return radius
