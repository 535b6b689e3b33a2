"""The two-point correlation image against its definition, and what it must not see."""

import numpy as np
import pytest
import torch

from models.correlation import two_point_correlation
from models.manifest import ModelError


def fan(size: int, order: int, phase: float = 0.0) -> torch.Tensor:
    """100 (1 + 0.5 cos(order phi)): C = 0.125 cos(order D), as <cos cos> = 1/2 cos."""
    axis = torch.arange(size) - (size - 1) / 2
    angle = torch.atan2(axis[:, None], axis[None])
    return (100 * (1 + 0.5 * torch.cos(order * (angle - phase))))[None, None]


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_fan_has_the_cosine_of_its_order(order: int) -> None:
    got = two_point_correlation(fan(129, order), 16, 64, 1.0)[0, 0]
    assert got.shape == (16, 32)
    expected = 0.125 * np.cos(order * np.arange(32) * 2 * np.pi / 64)
    assert got[6:].numpy() == pytest.approx(np.tile(expected, (10, 1)), abs=0.006)


def test_it_is_the_mean_over_pairs() -> None:
    """Against the sum over all pairs of four angles, where the rays hit pixels."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, 9, 9) * 50 + 10
    got = two_point_correlation(image, 4, 4, 1.0)[0, 0].double().numpy()  # 4 angles hit pixels exactly
    for ring in range(4):
        r = ring + 1
        on = np.array([float(image[0, 0, y, x]) for y, x in ((4, 4 + r), (4 + r, 4), (4, 4 - r), (4 - r, 4))])
        for lag in range(2):
            pairs = [on[i] * on[(i + lag) % 4] for i in range(4)]
            assert got[ring, lag] == pytest.approx(np.mean(pairs) / on.mean() ** 2 - 1, abs=1e-5)


def test_turning_brightness_and_rings_do_not_matter() -> None:
    torch.manual_seed(1)
    image = torch.rand(2, 1, 33, 33) * 100 + 20
    first = two_point_correlation(image, 8, 32, 1.0)
    assert torch.allclose(two_point_correlation(image.rot90(1, (2, 3)), 8, 32, 1.0), first, atol=1e-4)
    assert torch.allclose(two_point_correlation(3 * image, 8, 32, 1.0), first, atol=1e-4)
    assert two_point_correlation(fan(65, 0), 8, 32, 1.0).abs().max() < 1e-4


def test_a_dark_ring_gives_nothing_and_events_stay_apart() -> None:
    dark = torch.zeros(3, 1, 17, 17)
    dark[1] = float("nan")
    got = two_point_correlation(dark, 4, 16, 1.0)
    assert (got[[0, 2]] == 0).all()
    assert torch.isnan(got[1]).all()


@pytest.mark.parametrize(("rings", "angles", "floor"), [(0, 8, 1.0), (4, 7, 1.0), (4, 8, 0.0)])
def test_impossible_sizes_are_refused(rings: int, angles: int, floor: float) -> None:
    with pytest.raises(ModelError, match="two-point correlation"):
        two_point_correlation(torch.zeros(1, 1, 8, 8), rings, angles, floor)
