"""Water molecules and their X-ray absorption spectra, from the computed set that is shipped.

Owns the split, what is beside the molecule, and the noise. The spectra themselves are in
models/data/water/spectra.npz, written by `models.simulation.water_spectra` (quantum chemistry); this module
needs numpy only. A geometry belongs to one split for good, by its number in the set (`part_of`): no noise
copy of a training geometry is ever tested on.

Structure: the longer and the shorter bond (angstrom), the angle between them (degrees), then, on request,
coordinates that the mean over orientations does not depend on: three angles of orientation and the distances
of neighbours. They are what a component analysis must learn to leave out.

N events, G geometries, E energies, S structure coordinates.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Arrays = dict[str, NDArray[Any]]

SET: Final = Path(__file__).parent.parent / "data" / "water" / "spectra.npz"
MOLECULE: Final = ("long_bond_angstrom", "short_bond_angstrom", "angle_deg")
NEIGHBOURS: Final = 3
BESIDE: Final = (
    "azimuth_deg",
    "tilt_deg",
    "roll_deg",
    *(f"neighbour_{i + 1}_angstrom" for i in range(NEIGHBOURS)),
)
NEIGHBOUR_ANGSTROM: Final = (2.8, 0.15)  # mean and spread of the O-O distance in liquid water
# Of ten geometries, by number: eight to train on, one to stop on, one to be scored on.
PARTS: Final = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
SEEDS_A_PART: Final = 100_000


ENERGY_EV: Final = np.linspace(531.0, 545.0, 256)  # 0.055 eV: a seventh of the narrowest line's half width
SPECTRUM_NAMES: Final = tuple(f"{energy_ev:.3f} eV" for energy_ev in ENERGY_EV)
# Of the file: another set is another simulation, and what is cached of the old one no longer counts.
SET_SHA256: Final = "71855c95b4bdace4e436d34fcb1b521de86e5c8968e8fb497bcb4d6458c02342"


@dataclass(frozen=True)
class WaterSet:
    """structure f4 [G, 3] as named in MOLECULE; spectrum f4 [G, E] per eV; index i4 [G], rising."""

    structure: NDArray[np.float32]
    spectrum: NDArray[np.float32]
    index: NDArray[np.int32]


@cache
def water_set(path: Path = SET, sha256: str = SET_SHA256) -> WaterSet:
    """The computed set. Raises ModelError if the file is missing or not the one of this hash."""
    remedy = "install the package again, or compute the set as models/data/water/README.md says"
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ModelError(f"water spectra at {path}: expected sha256 {sha256}, got another; {remedy}")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return WaterSet(file["structure"], file["spectrum"].astype(np.float32), file["index"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"water spectra: expected them at {path}, got {error}; {remedy}") from error


def part_of(seed: int) -> str:
    """The split of a seed: recipes add 0, 100 000 or 200 000; all else is held out like the test split."""
    return {0: "train", 1: "validation"}.get(seed // SEEDS_A_PART, "test")


def rows_of(part: str) -> NDArray[np.int64]:
    """Rows of the computed set in this part."""
    return np.flatnonzero(np.isin(water_set().index % 10, PARTS[part]))


def structure_to_spectrum(
    n: int, seed: int, options: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> Arrays:
    """inputs: structure f4 [N, 9]; targets: its spectrum without noise f4 [N, E]; fact `geometry` [N].

    No options. More events than geometries repeat them, beside other neighbours.
    """
    _no_options(options, ())
    rng = np.random.default_rng(seed)
    rows, whole = _rows(n, seed, rng), water_set()
    structure = np.concatenate([whole.structure[rows], _beside(n, rng)], 1).astype(np.float32)
    if progress is not None:
        progress(n)
    return {"inputs": structure, "targets": whole.spectrum[rows], "geometry": whole.index[rows]}


def spectrum_to_structure(
    n: int, seed: int, options: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> Arrays:
    """inputs: counts f4 [N, E]; targets: structure f4 [N, 3]; facts `geometry` and `photons` [N].

    Option `photons`: the lowest and the highest expected number of photons in a spectrum; each event draws
    its own, evenly in the logarithm. None: the spectrum per eV, without noise.
    """
    _no_options(options, ("photons",))
    rng = np.random.default_rng(seed)
    rows, whole = _rows(n, seed, rng), water_set()
    clean = whole.spectrum[rows].astype(np.float64)
    photons = np.full(n, np.inf)
    if options.get("photons") is not None:
        lowest, highest = np.log(options["photons"])
        photons = np.exp(rng.uniform(lowest, highest, n))
        clean = rng.poisson(photons[:, None] * clean / clean.sum(1, keepdims=True))
    if progress is not None:
        progress(n)
    return {
        "inputs": clean.astype(np.float32),
        "targets": whole.structure[rows],
        "geometry": whole.index[rows],
        "photons": photons.astype(np.float32),
    }


def _rows(n: int, seed: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`n` rows of the seed's part in random order: each geometry once before any comes again."""
    own = rows_of(part_of(seed))
    turns = [rng.permutation(own) for _ in range(-(-n // len(own)))]
    return np.concatenate(turns)[:n]


def _beside(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random orientation in space and random neighbours, [N, 6]."""
    turns_deg = rng.uniform(0, 360, (n, 2))
    tilt_deg = np.rad2deg(np.arccos(rng.uniform(-1, 1, n)))
    distances = rng.normal(*NEIGHBOUR_ANGSTROM, (n, NEIGHBOURS))
    return np.column_stack([turns_deg[:, 0], tilt_deg, turns_deg[:, 1], distances])


def _no_options(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := sorted(set(options) - set(known)):
        raise ModelError(f"options of water: expected some of {known}, got {unknown}; correct the recipe")
