"""X-ray absorption spectra of one water molecule at the oxygen K edge, by quantum chemistry.

Owns the computation: geometries, one self-consistent field each, lines, broadening, the file that
`models.simulation.water` reads. Needs PySCF (optional), so nothing else imports this module. The command:

    python -m models.simulation.water_spectra --out FILE.npz --geometries N --seed S

Slater's transition potential: half an electron is missing from the oxygen 1s orbital while the density is
converged; a line lies at the energy between an empty orbital and 1s, its oscillator strength is 2/3 of that
energy times the square of the dipole matrix element (length form, mean over orientations, atomic units).
Method: L. Triguero, L. G. M. Pettersson, H. Agren, Phys. Rev. B 58, 8097 (1998); program: PySCF
(pyscf/pyscf, Apache-2.0). The data of the papers on the same question (J. Niskanen et al., R. Soc. Open Sci.
2022; E. Passilahti et al., arXiv 2406.14044) are not public: this set stands in for them.

N geometries, E energies of the grid (of `models.simulation.water`), V empty orbitals.
"""

import argparse
import functools
import multiprocessing
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from models.manifest import ModelError
from models.simulation.water import ENERGY_EV

Array = NDArray[np.float64]

FUNCTIONAL: Final = "pbe"
BASIS: Final = "aug-cc-pvdz"  # diffuse functions: the lines above 4 eV are Rydberg states
CORE_OCCUPATION: Final = 1.5  # of 2: half a core hole
GRID_LEVEL: Final = 1  # PySCF's integration grid; level 3 moves a line by less than 0.001 eV
HARTREE_EV: Final = 27.211386
SHIFT_EV: Final = -12.3  # puts the first line of the equilibrium geometry at the measured 534.0 eV
BOND_MEAN_ANGSTROM: Final = 0.97
BOND_SPREAD_ANGSTROM: Final = 0.08  # about what quantum and thermal motion give, in both directions
BOND_RANGE_ANGSTROM: Final = (0.8, 1.4)  # outside, the potential is not bound or the basis is poor
ANGLE_MEAN_DEG: Final = 104.5
ANGLE_SPREAD_DEG: Final = 12.0
ANGLE_RANGE_DEG: Final = (65.0, 150.0)
# Full width at half maximum: core-hole lifetime and vibrations below the edge, short-lived states above.
WIDTH_EV: Final = ((537.0, 541.0), (0.8, 3.0))  # at these energies; linear between, constant outside
CHUNK: Final = 100  # geometries a part file: 20 s of work are lost at most


@dataclass(frozen=True)
class Geometry:
    """One molecule: two bond lengths, the longer first, and the angle between them."""

    long_angstrom: float
    short_angstrom: float
    angle_deg: float


def geometry(seed: int, index: int) -> Geometry:
    """The geometry of this number; it depends on nothing else, so a run can be cut anywhere."""
    rng = np.random.default_rng([seed, index])
    bonds = rng.normal(BOND_MEAN_ANGSTROM, BOND_SPREAD_ANGSTROM, 2).clip(*BOND_RANGE_ANGSTROM)
    angle_deg = rng.normal(ANGLE_MEAN_DEG, ANGLE_SPREAD_DEG)
    return Geometry(float(bonds.max()), float(bonds.min()), float(np.clip(angle_deg, *ANGLE_RANGE_DEG)))


def lines(molecule: Geometry) -> tuple[Array, Array] | None:
    """Energies (eV, shifted) and oscillator strengths of all lines, [V]; None if it does not converge."""
    field = _field(molecule)
    field.kernel()
    if not field.converged:
        field.damp, field.max_cycle = 0.3, 300  # slower and surer
        field.kernel()
    if not field.converged:
        return None
    core, empty = field.mo_coeff[:, 0], field.mo_coeff[:, field.mo_occ == 0]
    gap_hartree = field.mo_energy[field.mo_occ == 0] - field.mo_energy[0]
    dipole_3V = np.einsum("m,xmn,nv->xv", core, field.mol.intor("int1e_r"), empty)
    return gap_hartree * HARTREE_EV + SHIFT_EV, 2 / 3 * gap_hartree * np.square(dipole_3V).sum(0)


def spectrum(energy_ev: Array, strength: Array) -> Array:
    """The lines as Gaussians of their area on ENERGY_EV, [E] per eV."""
    spread_ev = np.interp(energy_ev, *WIDTH_EV) / np.sqrt(8 * np.log(2))
    away = (ENERGY_EV[:, None] - energy_ev) / spread_ev
    total: Array = np.exp(-np.square(away) / 2) @ (strength / (spread_ev * np.sqrt(2 * np.pi)))
    return total


def _field(molecule: Geometry) -> Any:
    """PySCF's Kohn-Sham object with the half core hole, not yet converged."""
    gto, dft = _pyscf()
    half = np.deg2rad(molecule.angle_deg) / 2
    atoms = [("O", (0.0, 0.0, 0.0))]
    for side, bond_angstrom in ((1, molecule.long_angstrom), (-1, molecule.short_angstrom)):
        atoms.append(("H", (0.0, side * bond_angstrom * np.sin(half), bond_angstrom * np.cos(half))))
    field = dft.RKS(gto.M(atom=atoms, basis=BASIS, verbose=0), xc=FUNCTIONAL)
    field.grids.level = GRID_LEVEL
    field.get_occ = functools.partial(_occupation, electron_pairs=5)
    return field


def _occupation(mo_energy: Array, mo_coeff: Array, electron_pairs: int) -> Array:  # noqa: ARG001  (PySCF's hook)
    occupation = np.zeros(len(mo_energy))
    order = np.argsort(mo_energy)
    occupation[order[:electron_pairs]] = 2.0
    occupation[order[0]] = CORE_OCCUPATION
    return occupation


def _pyscf() -> tuple[Any, Any]:
    try:
        from pyscf import dft, gto, lib
    except ImportError as error:
        remedy = "pip install -c constraints.txt '.[chemistry]'"
        raise ModelError(f"water spectra: need PySCF, which is not installed; {remedy}") from error
    lib.num_threads(1)  # ten electrons: threads cost more than they give; use --processes
    return gto, dft


def _one(seed: int, index: int) -> tuple[Geometry, Array] | None:
    molecule = geometry(seed, index)
    found = lines(molecule)
    return None if found is None else (molecule, spectrum(*found))


def compute(seed: int, indices: list[int], processes: int = 1) -> Iterator[tuple[Geometry, Array] | None]:
    """Geometry and spectrum [E] of each number, in order; None where the field did not converge."""
    work = functools.partial(_one, seed)
    with ExitStack() as stack:
        if processes == 1:
            yield from map(work, indices)
        else:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
            yield from pool.imap(work, indices, chunksize=4)


def write_set(out: Path, geometries: int, seed: int, processes: int = 1) -> int:
    """Compute the missing parts beside `out`, join them into it; gives the number of spectra.

    Raises ModelError without PySCF or if a part is of another run.
    """
    _pyscf()
    folder = out.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, geometries, CHUNK)
    parts = [folder / f"{seed}_{start:06d}_{min(CHUNK, geometries - start)}.npz" for start in starts]
    for start, part in zip(track(starts, "water spectra", transient=True), parts, strict=True):
        if not part.exists():
            indices = list(range(start, min(start + CHUNK, geometries)))
            _write_part(part, indices, list(compute(seed, indices, processes)))
    return _join(out, parts)


def _write_part(part: Path, indices: list[int], found: list[tuple[Geometry, Array] | None]) -> None:
    kept = [(index, pair) for index, pair in zip(indices, found, strict=True) if pair is not None]
    shapes = [(g.long_angstrom, g.short_angstrom, g.angle_deg) for _, (g, _) in kept]
    arrays: dict[str, NDArray[Any]] = {
        "index": np.array([index for index, _ in kept], np.int32),
        "structure": np.array(shapes, np.float32).reshape(-1, 3),
        "spectrum": np.array([s for _, (_, s) in kept], np.float16).reshape(-1, len(ENERGY_EV)),
    }
    _save(part, arrays)


def _join(out: Path, parts: list[Path]) -> int:
    loaded = []
    for part in parts:
        try:
            with np.load(part, allow_pickle=False) as file:
                loaded.append({name: file[name] for name in ("index", "structure", "spectrum")})
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ModelError(f"water spectra: cannot read the part {part} ({error}); remove it") from error
    arrays = {name: np.concatenate([part[name] for part in loaded]) for name in loaded[0]}
    _save(out, arrays)
    return len(arrays["index"])


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m models.simulation.water_spectra", description="Compute spectra of water."
    )
    parser.add_argument("--out", type=Path, required=True, help="file (.npz) to write; parts lie beside it")
    parser.add_argument("--geometries", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        count = write_set(options.out, options.geometries, options.seed, options.processes)
    except ModelError as error:
        Console(stderr=True).print(str(error))
        return 1
    Console().print(f"{count} spectra of {options.geometries} geometries in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
