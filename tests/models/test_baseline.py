"""Asymmetric least squares on the device against the sparse solution of the whole system."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.baseline import sparse_baseline
from models.baseline import BaselineSubtraction, inverse, solve_banded
from models.manifest import BundleError
from models.preprocess import Preprocess
from models.simulation import diffractograms, pressure_ramps

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def raw() -> Array:
    made = pressure_ramps.make(3, 4, {"raw": True})
    spectra: Array = made["inputs"].astype(np.float64)
    return spectra


@pytest.mark.parametrize(("smoothness", "asymmetry"), [(1e6, 0.01), (2e4, 0.05)])
def test_is_close_to_the_sparse_solution_for_other_constants(
    raw: Array, smoothness: float, asymmetry: float
) -> None:
    y = raw[:2, :1501]
    found = BaselineSubtraction(y.shape[1], smoothness, asymmetry, 10).baseline(torch.from_numpy(y)).numpy()
    for own, spectrum in zip(found, y, strict=True):
        expected = sparse_baseline(spectrum, smoothness, asymmetry, 10)
        assert np.abs(own - expected).max() < 2e-4 * np.ptp(spectrum)


def test_is_the_sparse_solution_for_the_published_constants(raw: Array) -> None:
    found = BaselineSubtraction(raw.shape[1], 1e5, 0.002, 10).baseline(torch.from_numpy(raw)).numpy()
    for own, spectrum in zip(found, raw, strict=True):
        assert np.abs(own - sparse_baseline(spectrum, 1e5, 0.002, 10)).max() < 5e-5 * np.ptp(spectrum)


def test_a_straight_line_is_all_baseline() -> None:
    line = torch.linspace(3, 7, 700)[None, None]
    assert BaselineSubtraction(700, 1e5, 0.002, 10)(line).abs().max() < 1e-6


def test_each_spectrum_on_its_own_and_channels_apart(raw: Array) -> None:
    step = BaselineSubtraction(raw.shape[1], 1e5, 0.002, 3)
    x = torch.from_numpy(raw).float()
    together = step(x[None])
    assert together.shape == (1, 3, raw.shape[1])
    assert together.dtype == torch.float32
    alone = torch.cat([step(x[i : i + 1, None]) for i in range(3)], 1)[0]
    assert torch.allclose(together[0], alone, atol=1e-6)
    broken = x.clone()
    broken[1, 5] = float("nan")
    after = step(broken[:, None])[:, 0]
    assert after[1].isnan().any()
    assert torch.allclose(after[[0, 2]], together[0, [0, 2]], atol=1e-6)


def test_half_precision_around_it_changes_nothing(raw: Array) -> None:
    step, x = BaselineSubtraction(raw.shape[1], 1e5, 0.002, 3), torch.from_numpy(raw).float()[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(step(x), step(x).float())
        inside = step(x)
    assert torch.equal(inside, step(x))


def test_leaves_what_the_published_subtraction_leaves() -> None:
    raw = pressure_ramps.make(20, 6, {"raw": True, "spike_share": 0.0})["inputs"]
    step = {"op": "als_baseline", "smoothness": 1e5, "asymmetry": 0.002, "iterations": 10}
    left = Preprocess({"steps": [step]}, (raw.shape[1],))(torch.from_numpy(raw))[:, 0].numpy()
    quiet = left[:, 1450:1820]  # 15.3 to 16.8 degrees
    assert quiet.mean() == pytest.approx(0.15, abs=0.02)  # measured: 0.14 to 0.16
    measured, _ = diffractograms.measured()
    again = Preprocess({"steps": [step]}, (raw.shape[1],))(torch.from_numpy(measured))[:, 0].numpy()
    # Subtracted once more: little is left to take, most of it under the broad lines.
    assert np.abs(again - measured)[:, 200:-200].mean() < 0.1


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7, 12])
def test_block_reduction_for_every_number_of_blocks(blocks: int) -> None:
    n, generator = 3 * blocks - 1, torch.Generator().manual_seed(blocks)
    bands = torch.randn(2, n, 4, generator=generator, dtype=torch.float64)
    bands[..., 0] = 8.0
    matrix = torch.zeros(2, n, n, dtype=torch.float64)
    for j in range(n):
        for lag in range(min(4, n - j)):
            matrix[:, j, j + lag] = matrix[:, j + lag, j] = bands[:, j, lag]
    for j in range(n):
        bands[:, j, max(1, n - j) :] = 0.0
    right = torch.randn(2, n, generator=generator, dtype=torch.float64)
    assert torch.allclose(solve_banded(bands, right), torch.linalg.solve(matrix, right), atol=1e-10)


def test_inverse_of_three_by_three() -> None:
    a = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(inverse(a) @ a, torch.eye(3, dtype=torch.float64).expand(5, 3, 3), atol=1e-10)


@pytest.mark.parametrize("numbers", [(4023, 10.0, 0.002, 10), (4023, 1e5, 1.0, 10), (4023, 1e5, 0.002, 0)])
def test_refuses_numbers_that_make_no_baseline(numbers: tuple[int, float, float, int]) -> None:
    with pytest.raises(BundleError, match="als_baseline"):
        BaselineSubtraction(*numbers)
