"""Simulated diffraction images of superfluid helium nanodroplets with their 11 non-exclusive labels.

Stands in for the data of Zimmermann et al. (PRE 99, 063309, 2019), recorded at FERMI: label sets and radii
follow the measured statistics (`labels`), what is in the beam follows from the labels (`scenes`), the images
follow wide-angle scattering theory (`diffraction`) and a simple detector (`detector`).

Every image has its own random numbers, from the seed and its place: the first n images of a seed are the
same however many follow, and on whatever device the physics ran, up to the rounding of the intensity (which
now and then moves a photon).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError
from models.simulation.detector import HOLE_SHARE, PHOTONS, READOUT_COUNTS, Detector, Exposure, expose
from models.simulation.labels import CLASSES, draw_labels
from models.simulation.scenes import draw_scene, intensities

BATCH: Final = {"cpu": 1, "cuda": 32}  # bodies at once: one fits a cache; 32 are 140 MB and fill a GPU
DEFAULT_DETECTOR: Final = Detector()
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Conditions:
    """The options of `make`: label statistics and detector.

    evenness: 0 keeps the measured label statistics (73 % plainly round), 1 draws all 43 combinations equally.
    photons, readout_counts, dead_sectors, hole_share: see `Detector`. device: where the physics runs.
    """

    evenness: float = 0.0
    photons: tuple[float, float] = PHOTONS
    readout_counts: float = READOUT_COUNTS
    dead_sectors: int = 0
    hole_share: tuple[float, float] = (HOLE_SHARE, HOLE_SHARE)
    size_px: int = 128
    device: str = "cpu"

    def detector(self) -> Detector:
        """The part of it that the detector is told."""
        return Detector(
            (float(self.photons[0]), float(self.photons[1])),
            self.readout_counts,
            self.dead_sectors,
            (float(self.hole_share[0]), float(self.hole_share[1])),
        )


@dataclass(frozen=True)
class Droplets:
    """images uint16 [n, size, size] raw counts, labels bool [n, 11].

    radius_nm float32 [n] and photons float32 [n] (scattered onto the detector): 0 for Empty.
    """

    images: NDArray[np.uint16]
    labels: NDArray[np.bool_]
    radius_nm: NDArray[np.float32]
    photons: NDArray[np.float32]


def make(
    n: int, seed: int, options: Mapping[str, Any], progress: Progress | None = None
) -> dict[str, NDArray[Any]]:
    """`inputs` uint16 [n, size, size], `targets` float32 [n, 11], and the facts `radius_nm`, `photons`.

    `options` are fields of `Conditions`; raises ModelError for others, and for values that cannot be.
    """
    droplets = _simulate(n, seed, conditions(options), progress)
    return {
        "inputs": droplets.images,
        "targets": droplets.labels.astype(np.float32),
        "radius_nm": droplets.radius_nm,
        "photons": droplets.photons,
    }


def simulate(
    n: int,
    seed: int,
    size_px: int = 128,
    progress: Progress | None = None,
    evenness: float = 0.0,
) -> Droplets:
    """`n` images with the usual detector; the same seed gives the same images.

    `progress` hears how many are done.
    """
    return _simulate(n, seed, Conditions(evenness=evenness, size_px=size_px), progress)


def simulate_one(
    names: frozenset[str],
    rng: np.random.Generator,
    size_px: int = 128,
    detector: Detector = DEFAULT_DETECTOR,
) -> tuple[NDArray[np.uint16], float]:
    """One image uint16 [size_px, size_px] with these labels, and its radius in nm."""
    if "Empty" in names:
        return expose(None, rng, size_px, detector).counts, 0.0
    scene = draw_scene(names, rng)
    intensity = intensities([scene], size_px)[0].numpy()
    return expose(intensity, rng, size_px, detector).counts, scene.body.extent_nm()


def conditions(options: Mapping[str, Any]) -> Conditions:
    """Checked options; raises ModelError that names the bad one."""
    known = {field.name for field in fields(Conditions)}
    if unknown := sorted(set(options) - known):
        raise ModelError(
            f"options of the droplet simulation: expected {sorted(known)}, got {unknown}; remove those"
        )
    chosen = Conditions(**options)
    low, high = chosen.photons
    _check("photons", 0 < low <= high, "0 < lowest <= highest", chosen.photons)
    _check("device", chosen.device.partition(":")[0] in BATCH, f"one of {tuple(BATCH)}", chosen.device)
    _check("evenness", 0 <= chosen.evenness <= 1, "0..1", chosen.evenness)
    _check("dead_sectors", 0 <= chosen.dead_sectors <= 8, "0..8", chosen.dead_sectors)
    _check("size_px", 16 <= chosen.size_px <= 2048, "16..2048", chosen.size_px)
    low, high = chosen.hole_share
    _check("hole_share", 0 <= low <= high < 1, "0 <= smallest <= largest < 1", chosen.hole_share)
    return chosen


def _check(name: str, fits: bool, expected: str, got: object) -> None:
    if not fits:
        raise ModelError(
            f"{name} of the droplet simulation: expected {expected}, got {got}; correct the recipe's options"
        )


def _simulate(n: int, seed: int, chosen: Conditions, progress: Progress | None) -> Droplets:
    labels = draw_labels(n, np.random.default_rng(seed), chosen.evenness)
    size_px = chosen.size_px
    images = np.empty((n, size_px, size_px), np.uint16)
    facts = np.zeros((2, n), np.float32)  # radius, photons
    step = BATCH[chosen.device.partition(":")[0]]
    for part in [range(start, min(start + step, n)) for start in range(0, n, step)]:
        # The place counts from 1: numpy pads entropy with zeros, so (seed, 0) would be `seed` itself.
        own = [np.random.default_rng((seed, 1 + place)) for place in part]
        for place, (exposure, radius_nm) in zip(part, _exposed(labels[[*part]], own, chosen), strict=True):
            images[place], facts[:, place] = exposure.counts, (radius_nm, exposure.photons)
        if progress is not None:
            progress(part[-1] + 1)
    return Droplets(images, labels, facts[0], facts[1])


def _exposed(
    labels: NDArray[np.bool_], own: list[np.random.Generator], chosen: Conditions
) -> list[tuple[Exposure, float]]:
    """One batch: draw every scene, compute their intensities together, expose each."""
    sets = [frozenset(CLASSES[i] for i in np.flatnonzero(row)) for row in labels]
    scenes = {
        i: draw_scene(names, rng)
        for i, (names, rng) in enumerate(zip(sets, own, strict=True))
        if "Empty" not in names
    }
    seen = {}
    if scenes:
        found = intensities([*scenes.values()], chosen.size_px, chosen.device).cpu().numpy()
        seen = dict(zip(scenes, found, strict=True))
    detector = chosen.detector()
    return [
        (
            expose(seen.get(i), rng, chosen.size_px, detector),
            scenes[i].body.extent_nm() if i in scenes else 0.0,
        )
        for i, rng in enumerate(own)
    ]
