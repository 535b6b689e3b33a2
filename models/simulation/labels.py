"""The 11 labels of the helium nanodroplet images, how often they occur together, and how large the droplets
are.

Counts of the 7264 hand-labelled images of Zimmermann et al. (PRE 99, 063309, 2019), tabulated from
julian-carpenter/contrastive_projection_learning @38328cc; models/data/zimmermann_label_stats has the tables.
"""

import csv
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The authors' order; it is the order of the bits in the column `labels`.
CLASSES: Final = (
    "Spherical_Oblate",
    "Round",
    "Elliptical",
    "Prolate",
    "Streak",
    "Bent",
    "Asymmetric",
    "NewtonRings",
    "DoubleRings",
    "Layered",
    "Empty",
)
_TABLES: Final = Path(__file__).parent.parent / "data" / "zimmermann_label_stats"


@cache
def label_combinations() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The 43 combinations that occur, bool [43, 11], and the number of images of each, [43]."""
    with (_TABLES / "label_combinations.csv").open(newline="") as file:
        rows = np.array(list(csv.reader(file))[1:], dtype=np.int64)
    return rows[:, 1:].astype(bool), rows[:, 0].astype(np.float64)


@cache
def radius_quantiles_nm() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares and the droplet radii (nm) below which they lie, over all images with a fitted radius."""
    with (_TABLES / "radius_quantiles_nm.csv").open(newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    names = [name for name in rows["ALL"] if name.startswith("q")]
    return (
        np.array([int(name[1:]) / 100 for name in names]),
        np.array([float(rows["ALL"][name]) for name in names]),
    )


def draw_labels(n: int, rng: np.random.Generator, evenness: float = 0.0) -> NDArray[np.bool_]:
    """`n` label sets, bool [n, 11]. `evenness` 0 keeps the measured shares, 1 makes all sets equal."""
    sets, counts = label_combinations()
    weights = counts ** (1 - evenness)
    return sets[rng.choice(len(sets), size=n, p=weights / weights.sum())]


def draw_radius_nm(rng: np.random.Generator) -> float:
    """One droplet radius by linear interpolation of the measured quantiles, 1 % to 99 %."""
    shares, radii_nm = radius_quantiles_nm()
    return float(np.interp(rng.uniform(shares[0], shares[-1]), shares, radii_nm))
