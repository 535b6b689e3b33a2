"""A parametric stand-in for the X-ray emission of glassy GeO2 under pressure: a test of shape only.

Not physics to learn from: no emission spectrum was computed. It has the form of the problem of Vladyka et
al. (PCCP 2023): a Coulomb matrix of the surroundings of one germanium atom, and as targets four moments of
each of two emission peaks. The cross-over peak K-beta'' follows the overlap with each oxygen, which falls as
exp(-r / 0.35 angstrom); K-beta2 follows the mean distance. Both ignore the other germanium atoms, as the
published network could recover Ge-O distances and not Ge-Ge.

N events, A atoms, T targets.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Array = NDArray[np.float64]

OXYGENS: Final = (4, 5, 6)  # coordination grows with pressure
GERMANIUMS: Final = 4  # of the second shell
OXYGEN_ANGSTROM: Final = {4: 1.74, 5: 1.82, 6: 1.90}  # mean distance at each coordination
OXYGEN_SPREAD_ANGSTROM: Final = 0.03
GERMANIUM_ANGSTROM: Final = (3.15, 0.12)  # mean, spread
OVERLAP_ANGSTROM: Final = 0.35
WIDTH_EV: Final = (2.0, 3.0)  # of one line of K-beta'' and of K-beta2, standard deviation
SLOPE_EV_PER_ANGSTROM: Final = (-12.0, -6.0)  # a longer bond lies lower
ATOMS: Final = 1 + max(OXYGENS) + GERMANIUMS
GERMANIUM_CHARGE, OXYGEN_CHARGE = 32, 8
MOMENTS: Final = ("area", "mean_ev", "spread_ev", "skewness")
TARGET_NAMES: Final = tuple(f"{peak}_{moment}" for peak in ("kb_cross", "kb2") for moment in MOMENTS)
INPUTS: Final = ATOMS * (ATOMS + 1) // 2


def make(
    n: int, seed: int, options: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> dict[str, NDArray[Any]]:
    """inputs f4 [N, 66]: upper triangle of the sorted Coulomb matrix; targets f4 [N, 8].

    Facts: `oxygens` [N], their number, and `mean_oxygen_angstrom` [N]. No options.
    """
    if options:
        raise ModelError(f"options of germania: expected none, got {sorted(options)}; correct the recipe")
    rng = np.random.default_rng(seed)
    inputs, targets = np.empty((n, INPUTS), np.float32), np.empty((n, len(TARGET_NAMES)), np.float32)
    count, mean_angstrom = np.empty(n, np.int32), np.empty(n, np.float32)
    for i in range(n):
        count[i] = rng.choice(OXYGENS)
        oxygen_angstrom = rng.normal(OXYGEN_ANGSTROM[int(count[i])], OXYGEN_SPREAD_ANGSTROM, count[i])
        germanium_angstrom = rng.normal(*GERMANIUM_ANGSTROM, GERMANIUMS)
        inputs[i] = coulomb_matrix(oxygen_angstrom, germanium_angstrom, rng)
        targets[i], mean_angstrom[i] = targets_of(oxygen_angstrom), oxygen_angstrom.mean()
    if progress is not None:
        progress(n)
    return {
        "inputs": inputs,
        "targets": targets,
        "oxygens": count,
        "mean_oxygen_angstrom": mean_angstrom,
    }


def targets_of(oxygen_angstrom: Array) -> Array:
    """Four moments of each peak; lines at their distances, weighted by overlap or evenly."""
    overlap = np.exp(-oxygen_angstrom / OVERLAP_ANGSTROM)
    even = np.full(len(oxygen_angstrom), 1 / max(OXYGENS))
    position_ev = [slope * (oxygen_angstrom - OXYGEN_ANGSTROM[4]) for slope in SLOPE_EV_PER_ANGSTROM]
    peaks = zip((overlap, even), position_ev, WIDTH_EV, strict=True)
    return np.concatenate([moments(weight, energy_ev, width_ev) for weight, energy_ev, width_ev in peaks])


def moments(weight: Array, energy_ev: Array, width_ev: float) -> Array:
    """Area, mean, standard deviation and skewness of a sum of Gaussians of one width."""
    share = weight / weight.sum()
    mean_ev = share @ energy_ev
    away_ev = energy_ev - mean_ev
    spread_ev = np.sqrt(share @ away_ev**2 + width_ev**2)
    return np.array([weight.sum(), mean_ev, spread_ev, share @ away_ev**3 / spread_ev**3])


def coulomb_matrix(
    oxygen_angstrom: Array, germanium_angstrom: Array, rng: np.random.Generator
) -> NDArray[np.float32]:
    """0.5 Z^2.4 on the diagonal, Z Z' / distance beside it; atoms sorted by distance, missing ones 0."""
    charge, place_angstrom = np.zeros(ATOMS), np.zeros((ATOMS, 3))
    charge[0] = GERMANIUM_CHARGE
    shells = ((1, oxygen_angstrom, OXYGEN_CHARGE), (1 + max(OXYGENS), germanium_angstrom, GERMANIUM_CHARGE))
    for first, distance_angstrom, z in shells:
        rows = slice(first, first + len(distance_angstrom))
        charge[rows] = z
        place_angstrom[rows] = np.sort(distance_angstrom)[:, None] * _directions(len(distance_angstrom), rng)
    apart = np.linalg.norm(place_angstrom[:, None] - place_angstrom, axis=2)
    np.fill_diagonal(apart, 1.0)
    matrix = charge[:, None] * charge / np.maximum(apart, 1.0)  # directions are random: atoms may overlap
    np.fill_diagonal(matrix, 0.5 * charge**2.4)
    upper: NDArray[np.float32] = matrix[np.triu_indices(ATOMS)].astype(np.float32)
    return upper


def _directions(n: int, rng: np.random.Generator) -> Array:
    """Unit vectors, [n, 3]."""
    arrows = rng.normal(size=(n, 3))
    units: Array = arrows / np.linalg.norm(arrows, axis=1, keepdims=True)
    return units
