"""Droplets exposed twice: as a run sees them, and once more with as many photons as an image ever has.

An encoder may learn from the second exposure, without any label, what the first one would have shown with
more photons; it is never an input. Scenes, physics and detector are those of `scenes`, `diffraction` and
`detector`, unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.simulation.detector import PHOTONS, expose
from models.simulation.labels import CLASSES, draw_labels
from models.simulation.nanodroplets import Conditions, conditions
from models.simulation.scenes import draw_scene, intensities

BRIGHT: Final = (PHOTONS[1], PHOTONS[1])
Progress = Callable[[int], None]


def make(
    n: int, seed: int, options: Mapping[str, Any], progress: Progress | None = None
) -> dict[str, NDArray[Any]]:
    """The 11 labels of `nanodroplets` (same options; other droplets for the same seed), exposed twice.

    `inputs` and `targets` float32 [n, 11] as there; facts as of `expose_twice`.
    """
    chosen = conditions(options)
    labels = draw_labels(n, np.random.default_rng(seed), chosen.evenness)
    sets = [frozenset(CLASSES[i] for i in np.flatnonzero(row)) for row in labels]
    return expose_twice(sets, seed, chosen, progress) | {"targets": labels.astype(np.float32)}


def expose_twice(
    sets: Sequence[frozenset[str]], seed: int, chosen: Conditions, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    """One droplet for each set of labels: `inputs` and `again`, uint16 [n, size, size] raw counts.

    Facts float32 [n]: `radius_nm`, and `photons` of the first exposure. Each has its own random numbers.
    """
    images = np.empty((2, len(sets), chosen.size_px, chosen.size_px), np.uint16)
    facts = np.empty((2, len(sets)), np.float32)
    for place, names in enumerate(sets):
        # The place counts from 1: numpy pads entropy with zeros, so (seed, 0) would be `seed` itself.
        rng = np.random.default_rng((seed, 1 + place))
        images[:, place], facts[:, place] = _twice(names, chosen, rng)
        if progress is not None:
            progress(place + 1)
    return {"inputs": images[0], "again": images[1], "radius_nm": facts[0], "photons": facts[1]}


def _twice(
    names: frozenset[str], chosen: Conditions, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], tuple[float, float]]:
    intensity, radius_nm = None, 0.0
    if "Empty" not in names:
        scene = draw_scene(names, rng)
        intensity, radius_nm = intensities([scene], chosen.size_px)[0].numpy(), scene.body.extent_nm()
    detector = chosen.detector()
    first = expose(intensity, rng, chosen.size_px, detector)
    second = expose(intensity, rng, chosen.size_px, replace(detector, photons=BRIGHT))
    return np.stack([first.counts, second.counts]), (radius_nm, first.photons)
