"""What stands along the axis of a spectrum, as far as names and recipes tell it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest
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
    """The axis of a one-dimensional event: the angle of diffractograms, else its points counted."""
    points = manifest.input_shape[-1]
    if points == POINTS:  # no other data of this project has 4023 points
        return Axis(two_theta_deg(), "scattering angle 2θ (deg)")
    return Axis(np.arange(points, dtype=np.float64), "point")
