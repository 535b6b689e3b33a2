"""What is in the beam for a set of labels: bodies, companions and optics, drawn at random; and its intensity.

Each label has its recipe:

    Round        nearly a sphere                  Elliptical   oblate, short axis in the detector plane
    Prolate      elongated                        Asymmetric   short axis tilted 21..60 deg out of the plane
    Streak       long (2.6..4), axis in the plane Bent         long axis tilted: arcs to one side
    NewtonRings  a second droplet behind: coherent fringes     DoubleRings   two sizes, incoherent sum
    Layered      a parallel twin beside it: thin straight fringes              Empty        background alone

That NewtonRings, DoubleRings and Layered come from these arrangements is our reading of the pictures of
Zimmermann et al. (PRE 99, 063309, 2019). All randomness is drawn here, before any physics, so that physics
may run in batches on any device. B scenes, Q pixels of an edge, C chosen scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.simulation.diffraction import Body, Float, Optics, amplitudes, shift
from models.simulation.labels import draw_radius_nm

MAX_EXTENT_NM: Final = 750.0  # 99.5 % of the radii; a larger body would have voxels coarser than lambda / 2
WAVELENGTH_NM: Final = 59.0  # 21 eV, one photon energy: a run does not change it


@dataclass(frozen=True)
class Companion:
    """The same scene once more, moved by offset_nm (x, y, z), `strength` times in amplitude."""

    strength: float
    offset_nm: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """One shot. companions are applied in order, each to all before it. double: (size ratio, share)."""

    optics: Optics
    body: Body
    companions: tuple[Companion, ...] = ()
    double: tuple[float, float] | None = None


def draw_scene(names: frozenset[str], rng: np.random.Generator) -> Scene:
    """One shot that deserves the labels `names` (not Empty: there is nothing in it)."""
    optics = Optics(
        wavelength_nm=WAVELENGTH_NM,
        absorption_nm=float(np.exp(rng.uniform(np.log(300), np.log(3000)))),
        refraction=float(rng.uniform(0.005, 0.05)),
    )
    body = draw_body(names, rng)
    companions = [_beside(body, rng)] if "Layered" in names else []
    companions += [_behind(body, rng)] if "NewtonRings" in names else []
    double = None
    if "DoubleRings" in names:
        ratio = float(rng.choice([rng.uniform(0.80, 0.93), rng.uniform(1.07, 1.25)]))
        double = (ratio, float(rng.uniform(0.5, 1.0)))
    return Scene(optics, body, tuple(companions), double)


def intensities(scenes: Sequence[Scene], size_px: int, device: str | torch.device = "cpu") -> Tensor:
    """|F|^2 float32 [B, size_px, size_px] on `device`, arbitrary scale."""
    optics = [scene.optics for scene in scenes]
    fields_BQQ = amplitudes([scene.body for scene in scenes], optics, size_px, device)
    for place in range(max(len(scene.companions) for scene in scenes)):
        chosen = [i for i, scene in enumerate(scenes) if len(scene.companions) > place]
        added = _companions(fields_BQQ[chosen], [scenes[i] for i in chosen], place)
        fields_BQQ[chosen] += added
    result_BQQ = fields_BQQ.abs().square_()
    chosen = [i for i, scene in enumerate(scenes) if scene.double]
    if chosen:
        result_BQQ[chosen] += _second_size(result_BQQ[chosen], [scenes[i] for i in chosen])
    return result_BQQ


def _companions(fields_CQQ: Tensor, scenes: Sequence[Scene], place: int) -> Tensor:
    own = [scene.companions[place] for scene in scenes]
    offsets_nm = np.array([companion.offset_nm for companion in own])
    strength = torch.tensor([companion.strength for companion in own], dtype=torch.float32)
    moved = shift(fields_CQQ, offsets_nm, [scene.optics.wavelength_nm for scene in scenes])
    return moved * strength.to(moved.device)[:, None, None]


def _second_size(first_CQQ: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """The intensity of a droplet of another size in the same shot, `share` times as bright."""
    ratios = [scene.double[0] for scene in scenes if scene.double]
    shares = [scene.double[1] for scene in scenes if scene.double]
    bodies = [scene.body.scaled(ratio) for scene, ratio in zip(scenes, ratios, strict=True)]
    size, device = first_CQQ.shape[-1], first_CQQ.device
    other = amplitudes(bodies, [scene.optics for scene in scenes], size, device).abs().square_()
    share = torch.tensor(shares, dtype=torch.float32, device=device)[:, None, None]
    return other * (share * first_CQQ.sum((1, 2), keepdim=True) / other.sum((1, 2), keepdim=True))


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
    return Body((radius_nm / flattening, radius_nm, radius_nm), turn(azimuth, tilt))


def _elongated(names: frozenset[str], radius_nm: float, azimuth: float, rng: np.random.Generator) -> Body:
    """The first axis is the long one. A pill if it streaks, else an ellipsoid; triaxial if asymmetric."""
    bent, streak = "Bent" in names, "Streak" in names
    tilt_range = (10.0, 28.0) if streak else (20.0, 50.0)
    tilt = np.deg2rad(rng.uniform(*tilt_range) if bent else rng.uniform(-4, 4))
    aspect = rng.uniform(2.6, 4.0) if streak else rng.uniform(1.5, 2.3)
    long_nm = min(max(1.3 * radius_nm, 260.0), MAX_EXTENT_NM)
    short_nm = long_nm / aspect
    rotation = turn(azimuth, tilt)
    if "Asymmetric" in names:
        angle = np.deg2rad(rng.uniform(25, 65) * rng.choice([-1, 1]))
        return Body((long_nm, short_nm * 1.25, short_nm / 1.25), rotation @ _roll(angle))
    if streak:
        return Body((long_nm, short_nm, short_nm), rotation, half_length_nm=long_nm - short_nm)
    return Body((long_nm, short_nm, short_nm), rotation)


def _beside(body: Body, rng: np.random.Generator) -> Companion:
    """The same body again, beside itself across its first axis: fringes along that axis."""
    distance_nm = rng.uniform(2.2, 4.0) * min(body.semi_axes_nm)
    x, y, z = (float(part) for part in body.rotation[:, 1] * distance_nm)
    return Companion(float(rng.uniform(0.7, 1.0)), (x, y, z))


def _behind(body: Body, rng: np.random.Generator) -> Companion:
    """The same body farther along the beam and a little aside: rings as between lens and plate."""
    x_nm, y_nm = rng.normal(0, 0.5 * min(body.semi_axes_nm), 2)
    beam_nm = rng.choice([-1, 1]) * rng.uniform(1200, 5000)
    return Companion(float(rng.uniform(0.5, 1.0)), (float(x_nm), float(y_nm), float(beam_nm)))


def turn(azimuth: float, tilt: float) -> Float:
    """Rotation: the first axis at `azimuth` in the detector plane, `tilt` out of it to the beam (rad)."""
    ca, sa, ct, st = np.cos(azimuth), np.sin(azimuth), np.cos(tilt), np.sin(tilt)
    return np.array([[ca * ct, -sa, -ca * st], [sa * ct, ca, -sa * st], [st, 0, ct]], np.float32)


def _roll(angle: float) -> Float:
    """Rotation about the first axis (rad)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)
