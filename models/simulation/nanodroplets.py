"""Simulated diffraction images of superfluid helium nanodroplets with their 11 non-exclusive labels.

Stands in for the data of Zimmermann et al. (PRE 99, 063309, 2019), recorded at FERMI: label sets and radii
follow the measured statistics (`labels`), the images follow wide-angle scattering theory (`diffraction`) and
a simple detector (`detector`). Each label has its recipe here:

    Round         nearly a sphere                 Elliptical   oblate, short axis in the detector plane
    Prolate       elongated                       Asymmetric   the short axis tilted out of the plane (21..60
    deg) Streak        much elongated, long axis in the plane       Bent    long axis tilted: arcs to one side
    NewtonRings   a second droplet 0.5..5 um behind: coherent fringes    DoubleRings   two sizes, incoherent
    sum Layered       a parallel twin beside it: thin straight fringes       Empty         background alone

That NewtonRings, DoubleRings and Layered come from these arrangements is our reading of the published
pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.simulation.detector import expose
from models.simulation.diffraction import Body, Complex, Float, Optics, amplitude, shift
from models.simulation.labels import CLASSES, draw_labels, draw_radius_nm

MAX_EXTENT_NM: Final = 750.0  # 99.5 % of the radii; a larger body would have voxels coarser than lambda / 2
INDEX: Final = {name: i for i, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Droplets:
    """images uint16 [n, size, size] raw counts, labels bool [n, 11], radius_nm float32 [n] (0 for Empty)."""

    images: NDArray[np.uint16]
    labels: NDArray[np.bool_]
    radius_nm: NDArray[np.float32]


def simulate(
    n: int,
    seed: int,
    size_px: int = 128,
    progress: Callable[[int], None] | None = None,
    evenness: float = 0.0,
) -> Droplets:
    """`n` images; the same seed gives the same images. `progress` hears how many are done.

    `evenness` 0 keeps the measured label statistics (73 % plainly round), 1 draws all 43 combinations
    equally.
    """
    rng = np.random.default_rng(seed)
    labels = draw_labels(n, rng, evenness)
    images = np.empty((n, size_px, size_px), np.uint16)
    radius_nm = np.empty(n, np.float32)
    for i, own in enumerate(labels):
        names = frozenset(name for name, is_set in zip(CLASSES, own, strict=True) if is_set)
        images[i], radius_nm[i] = simulate_one(names, rng, size_px)
        if progress is not None:
            progress(i + 1)
    return Droplets(images, labels, radius_nm)


def simulate_one(
    names: frozenset[str], rng: np.random.Generator, size_px: int = 128
) -> tuple[NDArray[np.uint16], float]:
    """One image uint16 [size_px, size_px] with these labels, and its radius in nm."""
    if "Empty" in names:
        return expose(None, rng, size_px), 0.0
    optics = Optics(
        wavelength_nm=59.0,  # 21 eV, one photon energy: a run does not change it
        absorption_nm=float(np.exp(rng.uniform(np.log(300), np.log(3000)))),
        refraction=float(rng.uniform(0.005, 0.05)),
    )
    body = draw_body(names, rng)
    return expose(intensity(names, body, optics, rng, size_px), rng, size_px), body.extent_nm()


def intensity(
    names: frozenset[str], body: Body, optics: Optics, rng: np.random.Generator, size_px: int = 128
) -> Float:
    """|F|^2 of the body with the companions that its labels ask for, [size_px, size_px], arbitrary scale."""
    field = amplitude(body, optics, size_px)
    if "Layered" in names:
        field = field + rng.uniform(0.7, 1.0) * _beside(field, body, optics, rng)
    if "NewtonRings" in names:
        field = field + rng.uniform(0.5, 1.0) * _behind(field, body, optics, rng)
    result: Float = np.abs(field) ** 2
    if "DoubleRings" in names:
        ratio = rng.choice([rng.uniform(0.80, 0.93), rng.uniform(1.07, 1.25)])
        other: Float = np.abs(amplitude(body.scaled(float(ratio)), optics, size_px)) ** 2
        result = result + other * (rng.uniform(0.5, 1.0) * result.sum() / other.sum())
    return result.astype(np.float32)


def draw_body(names: frozenset[str], rng: np.random.Generator) -> Body:
    """Size, shape and orientation for one label set."""
    radius_nm = min(draw_radius_nm(rng), 0.98 * MAX_EXTENT_NM)
    azimuth = rng.uniform(0, 2 * np.pi)
    if names & {"Prolate", "Streak", "Bent"} or names == {"Layered"}:
        return _elongated(names, radius_nm, azimuth, rng)
    return _oblate(names, radius_nm, azimuth, rng)


def _oblate(names: frozenset[str], radius_nm: float, azimuth: float, rng: np.random.Generator) -> Body:
    """The first axis is the short one; it lies in the detector plane unless the image is asymmetric."""
    low, high = (1.0, 1.06) if "Round" in names else (1.18, 1.7)
    flattening = rng.uniform(1.05, 1.1) if names >= {"Round", "Asymmetric"} else rng.uniform(low, high)
    tilt = np.deg2rad(rng.uniform(21, 60) if "Asymmetric" in names else rng.normal(0, 2))
    return Body((radius_nm / flattening, radius_nm, radius_nm), _turn(azimuth, tilt))


def _elongated(names: frozenset[str], radius_nm: float, azimuth: float, rng: np.random.Generator) -> Body:
    """The first axis is the long one. A pill if it streaks, else an ellipsoid; triaxial if asymmetric."""
    bent, streak = "Bent" in names, "Streak" in names
    tilt_range = (10.0, 28.0) if streak else (20.0, 50.0)
    tilt = np.deg2rad(rng.uniform(*tilt_range) if bent else rng.uniform(-4, 4))
    aspect = rng.uniform(2.6, 4.0) if streak else rng.uniform(1.5, 2.3)
    long_nm = min(max(1.3 * radius_nm, 260.0), MAX_EXTENT_NM)
    short_nm = long_nm / aspect
    rotation = _turn(azimuth, tilt)
    if "Asymmetric" in names:
        roll = np.deg2rad(rng.uniform(25, 65) * rng.choice([-1, 1]))
        return Body((long_nm, short_nm * 1.25, short_nm / 1.25), rotation @ _roll(roll))
    if streak:
        return Body((long_nm, short_nm, short_nm), rotation, half_length_nm=long_nm - short_nm)
    return Body((long_nm, short_nm, short_nm), rotation)


def _beside(field: Complex, body: Body, optics: Optics, rng: np.random.Generator) -> Complex:
    """The same body again, beside itself across its first axis: fringes along that axis."""
    distance_nm = rng.uniform(2.2, 4.0) * min(body.semi_axes_nm)
    across = body.rotation[:, 1] * distance_nm
    return shift(field, (float(across[0]), float(across[1]), float(across[2])), optics.wavelength_nm)


def _behind(field: Complex, body: Body, optics: Optics, rng: np.random.Generator) -> Complex:
    """The same body farther along the beam and a little aside: rings as between lens and plate."""
    aside_nm = rng.normal(0, 0.5 * min(body.semi_axes_nm), 2)
    beam_nm = rng.choice([-1, 1]) * rng.uniform(1200, 5000)
    return shift(field, (float(aside_nm[0]), float(aside_nm[1]), float(beam_nm)), optics.wavelength_nm)


def _turn(azimuth: float, tilt: float) -> Float:
    """Rotation: the first axis at `azimuth` in the detector plane, `tilt` out of it towards the beam."""
    ca, sa, ct, st = np.cos(azimuth), np.sin(azimuth), np.cos(tilt), np.sin(tilt)
    return np.array([[ca * ct, -sa, -ca * st], [sa * ct, ca, -sa * st], [st, 0, ct]], np.float32)


def _roll(angle: float) -> Float:
    """Rotation about the first axis."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
