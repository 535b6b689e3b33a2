"""Balanced sets of the six exclusive droplet shapes of the published clustering.

Zimmermann's clustering study (julian-carpenter/beta-TCVAE @572d9e3) ran on six classes of the hand-labelled
images, one class an image. Owns which labels make up each of the six, and that they are balanced; the images
are those of `twice`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.simulation.nanodroplets import conditions
from models.simulation.twice import expose_twice

# The labels of each class, in the words of the multi-label data.
SHAPES: Final = {
    "Round": frozenset({"Spherical_Oblate", "Round"}),
    "Elliptical": frozenset({"Spherical_Oblate", "Elliptical"}),
    "Bent": frozenset({"Prolate", "Bent"}),
    "Asymmetric": frozenset({"Spherical_Oblate", "Elliptical", "Asymmetric"}),
    "DoubleRings": frozenset({"Spherical_Oblate", "Round", "DoubleRings"}),
    "Streak": frozenset({"Prolate", "Streak"}),
}
SHAPE_NAMES: Final = tuple(SHAPES)


def make(
    n: int, seed: int, options: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> dict[str, NDArray[Any]]:
    """`n` droplets, as many of each shape as can be, in random order; the same seed gives the same images.

    `inputs` uint16 [n, size, size] raw counts, `targets` float32 [n, 6] one-hot in the order of SHAPE_NAMES;
    facts as of `twice.expose_twice`. `options` as for the droplets, but `evenness` and `device` have no say.
    """
    classes = np.random.default_rng(seed).permutation(np.arange(n) % len(SHAPES))
    sets = [SHAPES[SHAPE_NAMES[own]] for own in classes]
    targets = np.eye(len(SHAPES), dtype=np.float32)[classes]
    return expose_twice(sets, seed, conditions(options), progress) | {"targets": targets}
