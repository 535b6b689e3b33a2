"""What stands along the axis of a spectrum, as far as names and recipes tell it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest
from models.simulation import water
from models.simulation.diffractograms import POINTS, two_theta_deg

_NUMBERED = re.compile(r"(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)")


@dataclass(frozen=True)
class Axis:
    """One value a point, and the name of the axis with its unit."""

    values: NDArray[np.float64]
    label: str


def target_axis(names: Sequence[str]) -> Axis:
    """Targets named "531.000 eV" lie along an axis in eV; others are counted."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    units = {match.group(2) for match in found if match}
    if all(found) and len(units) == 1:
        values = np.array([float(match.group(1)) for match in found if match])
        if (np.diff(values) > 0).all():
            unit = units.pop()
            return Axis(
                values, "energy (eV)" if unit == "eV" else f"position ({unit})" if unit else "position"
            )
    return Axis(np.arange(len(names), dtype=np.float64), "target")


def input_axis(manifest: Manifest) -> Axis:
    """The axis of a one-dimensional event: angle or energy where the recipe's data tell, else its points."""
    points = manifest.input_shape[-1]
    if points == POINTS:  # no other data of this project has 4023 points
        return Axis(two_theta_deg(), "scattering angle 2θ (deg)")
    if _source(manifest) == "water_spectra" and points == len(water.ENERGY_EV):
        return Axis(water.ENERGY_EV, "energy (eV)")
    return Axis(np.arange(points, dtype=np.float64), "point")


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of the coordinates of a structure that is given as input; numbered where nobody named them."""
    count = manifest.input_shape[-1]
    known = (*water.MOLECULE, *water.BESIDE)
    if _source(manifest) == "water_structures" and count == len(known):
        return known
    return tuple(f"input {i + 1}" for i in range(count))


def _source(manifest: Manifest) -> str:
    data = manifest.training.get("data")
    return str(data.get("source", "")) if isinstance(data, dict) else ""
