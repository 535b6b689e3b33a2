"""Spectra of water: no geometry in two splits, noise as asked for, a damaged set refused."""

from pathlib import Path

import numpy as np
import pytest

from models.manifest import ModelError
from models.simulation import germania, water, water_spectra

SEEDS = {"train": 11, "validation": 100_011, "test": 200_011}


def test_no_geometry_is_in_two_splits() -> None:
    seen = {
        part: set(water.structure_to_spectrum(400, seed, {})["geometry"].tolist())
        | set(water.spectrum_to_structure(400, seed, {"photons": [1e4, 1e5]})["geometry"].tolist())
        for part, seed in SEEDS.items()
    }
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    for seed in (300_011, 900_000, 1_000_000):
        events = water.spectrum_to_structure(50, seed, {})
        assert set(events["geometry"].tolist()) <= set(
            water.water_set().index[water.rows_of("test")].tolist()
        )


def test_each_geometry_once_before_any_comes_again() -> None:
    whole = len(water.rows_of("test"))
    events = water.spectrum_to_structure(whole + 5, SEEDS["test"], {})
    assert len(set(events["geometry"][:whole].tolist())) == whole


def test_same_seed_same_events() -> None:
    one, two = (water.spectrum_to_structure(20, 7, {"photons": [1e3, 1e4]}) for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    other = water.spectrum_to_structure(20, 8, {"photons": [1e3, 1e4]})
    assert not np.array_equal(one["inputs"], other["inputs"])


def test_photons_are_counted() -> None:
    events = water.spectrum_to_structure(200, 3, {"photons": [1e4, 1e4]})
    counts = events["inputs"].sum(1)
    assert np.array_equal(events["inputs"], np.round(events["inputs"]))
    assert counts.mean() == pytest.approx(1e4, abs=4 * 100 / 200**0.5)
    assert counts.std() == pytest.approx(100, rel=0.25)


def test_structures_are_molecules_beside_neighbours() -> None:
    events = water.structure_to_spectrum(300, 5, {})
    structure = events["inputs"]
    assert structure.shape == (300, len(water.MOLECULE) + len(water.BESIDE))
    assert (structure[:, 0] >= structure[:, 1]).all(), "the longer bond first"
    assert structure[:, 1].min() >= 0.8
    assert structure[:, 0].max() <= 1.4
    assert events["targets"].shape == (300, len(water.SPECTRUM_NAMES))
    assert (events["targets"] >= 0).all()
    # What stands beside the molecule says nothing about it.
    correlation = np.corrcoef(structure[:, [0, 3, 4, 5, 6, 7, 8]].T)[0, 1:]
    assert np.abs(correlation).max() < 0.3


def test_longer_bonds_lower_the_first_line() -> None:
    whole = water.water_set()
    half = np.cumsum(whole.spectrum[:, :128], 1)
    onset = water.ENERGY_EV[(half > 0.02 * whole.spectrum.sum(1, keepdims=True)).argmax(1)]
    assert np.corrcoef(whole.structure[:, 0], onset)[0, 1] < -0.9


def test_unknown_option_is_named() -> None:
    with pytest.raises(ModelError, match="noise"):
        water.spectrum_to_structure(3, 0, {"noise": 1.0})
    with pytest.raises(ModelError, match="photons"):
        water.structure_to_spectrum(3, 0, {"photons": [1, 2]})
    with pytest.raises(ModelError, match="pressure"):
        germania.make(3, 0, {"pressure": 1.0})


def test_another_or_a_missing_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spectra.npz"
    with pytest.raises(ModelError, match="install the package again"):
        water.water_set(path)
    path.write_bytes(water.SET.read_bytes()[:-1])
    with pytest.raises(ModelError, match="sha256"):
        water.water_set(path)


def test_a_line_keeps_its_area() -> None:
    spectrum = water_spectra.spectrum(np.array([535.0]), np.array([0.01]))
    step_ev = water.ENERGY_EV[1] - water.ENERGY_EV[0]
    assert spectrum.sum() * step_ev == pytest.approx(0.01, rel=1e-3)
    assert water.ENERGY_EV[spectrum.argmax()] == pytest.approx(535.0, abs=step_ev)
    above_half = (spectrum > spectrum.max() / 2).sum() * step_ev
    assert above_half == pytest.approx(0.8, abs=2 * step_ev)


def test_computed_set_is_that_of_its_seed() -> None:
    """Geometries in float32; the shipped set was made with seed 1 (models/data/water/README.md)."""
    whole = water.water_set()
    for row in (0, 17, len(whole.index) - 1):
        drawn = water_spectra.geometry(1, int(whole.index[row]))
        expected = [drawn.long_angstrom, drawn.short_angstrom, drawn.angle_deg]
        assert whole.structure[row].tolist() == pytest.approx(expected, rel=1e-6)


def test_quantum_chemistry_gives_the_shipped_spectrum_again() -> None:
    pytest.importorskip("pyscf")
    whole = water.water_set()
    found = water_spectra.lines(water_spectra.geometry(1, int(whole.index[4])))
    assert found is not None
    again = water_spectra.spectrum(*found)
    assert np.abs(again - whole.spectrum[4]).max() < 2e-3 * whole.spectrum[4].max()


def test_germania_moments_follow_their_formulas() -> None:
    weight, energy_ev = np.array([1.0, 3.0]), np.array([0.0, 4.0])
    area, mean_ev, spread_ev, skewness = germania.moments(weight, energy_ev, 2.0)
    assert (area, mean_ev) == (4.0, 3.0)
    assert spread_ev == pytest.approx((0.25 * 9 + 0.75 * 1 + 4) ** 0.5)
    assert skewness == pytest.approx((-0.25 * 27 + 0.75 * 1) / spread_ev**3)


def test_germania_has_the_published_form() -> None:
    events = germania.make(50, 2, {})
    assert events["inputs"].shape == (50, germania.INPUTS)
    assert events["targets"].shape == (50, len(germania.TARGET_NAMES))
    assert set(events["oxygens"].tolist()) <= set(germania.OXYGENS)
    assert all(np.isfinite(values).all() for values in events.values())
    assert np.corrcoef(events["mean_oxygen_angstrom"], events["targets"][:, 5])[0, 1] < -0.99
