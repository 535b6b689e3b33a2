"""The simulated ramp against the two measured curves and its own promises."""

from pathlib import Path

import numpy as np
import pytest

import models
from models.simulation.diffractograms import (
    BOUNDARY,
    NO_SAMPLE,
    POINTS,
    TARGET_NAMES,
    background,
    curve,
    lines_at,
    ramp,
    simulate,
    two_theta_deg,
)

MEASURED = Path(models.__file__).parent / "data" / "hed_fe80mg20" / "curves_0_340.npz"


@pytest.mark.parametrize(("row", "number"), [(0, 0), (1, 340)])
def test_resembles_the_measured_curve(row: int, number: int) -> None:
    with np.load(MEASURED, allow_pickle=False) as measured:
        assert two_theta_deg() == pytest.approx(measured["two_theta_deg"], abs=1e-4)
        expected = measured["intensity"][row]
    simulated = curve(lines_at(number)) + background(np.random.default_rng(0))
    assert np.corrcoef(simulated, expected)[0, 1] > 0.95
    assert simulated.max() == pytest.approx(expected.max(), rel=0.2)


def test_lines_move_as_pressure_rises() -> None:
    lines = ramp(0, speed=8.0)
    d_111 = lines.target[:, TARGET_NAMES.index("d_111_angstrom")]
    assert d_111[0] == pytest.approx(2.485, abs=0.02)
    assert d_111[-1] < 2.37
    assert lines.phase[0] == 0
    assert lines.phase[-1] == 1


def test_shapes_types_and_labels() -> None:
    spectra = simulate(40, 3, no_sample_share=0.3)
    assert spectra.intensity.shape == (40, POINTS)
    assert spectra.intensity.dtype == np.float32
    assert spectra.target.shape == (40, len(TARGET_NAMES))
    absent = spectra.phase == NO_SAMPLE
    assert 0 < absent.sum() < 40
    assert np.isnan(spectra.target[absent]).all()
    assert np.isfinite(spectra.target[~absent]).all()
    late = spectra.target[~absent, 0] * 348 >= BOUNDARY
    assert np.array_equal(spectra.phase[~absent] == 1, late)


def test_same_seed_same_curves() -> None:
    assert np.array_equal(simulate(3, 9).intensity, simulate(3, 9).intensity)
    assert not np.array_equal(simulate(3, 9).intensity, simulate(3, 10).intensity)


def test_background_has_the_measured_spread_and_memory() -> None:
    quiet = slice(1500, 1830)  # 15.5 to 16.8 degrees, where no line is
    noise = np.stack([background(np.random.default_rng(seed)) for seed in range(50)])[:, quiet]
    noise = noise - noise.mean(1, keepdims=True)
    assert noise.std() == pytest.approx(0.08, abs=0.01)
    assert (noise[:, 1:] * noise[:, :-1]).mean() / noise.var() == pytest.approx(0.7, abs=0.1)
