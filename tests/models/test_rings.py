"""What the rings say: the same whatever azimuth, brightness, size; and right where it can be worked out."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.networks.rings import ANGLES, FLOORS, NAMES, SMOOTHING_RAD, RingReader, upright_picture

READER = RingReader()


def rings(period_px: float, ratio: float = 1.0, turn: float = 0.0, photons: float = 300.0) -> Tensor:
    """Elliptical rings that fall off: counts [1, 1, 128, 128]; `ratio` of the long to the short period."""
    axis = torch.arange(128) - 63.5
    x, y = axis[None] * math.cos(turn) + axis[:, None] * math.sin(turn), axis[:, None] * math.cos(turn)
    y = y - axis[None] * math.sin(turn)
    radius = torch.hypot(x / math.sqrt(ratio), y * math.sqrt(ratio))
    wave = 1.3 + torch.cos(2 * math.pi * radius / period_px)
    return (30 * photons * wave * torch.exp(-radius / 40))[None, None]


def number(image: Tensor, name: str) -> float:
    return float(READER(image).numbers[0, NAMES.index(name)])


def test_quarter_turns_and_flips_change_nothing() -> None:
    image = rings(9.0, 1.4, 0.4) * torch.linspace(0.5, 1.5, 128)  # uneven, so that no symmetry helps
    expected = READER(image)
    for other in (image.rot90(1, (2, 3)), image.rot90(2, (2, 3)), image.flip(3), image.transpose(2, 3)):
        found = READER(other)
        assert torch.allclose(found.numbers, expected.numbers, atol=2e-3)
        assert torch.allclose(found.strength, expected.strength, atol=2e-3)
        assert torch.allclose(found.picture, expected.picture, atol=2e-2)
        drawn, wanted = upright_picture(other, found), upright_picture(image, expected)
        assert (drawn - wanted).abs().mean() < 5e-3


def test_brightness_changes_nothing_while_there_is_light() -> None:
    dim, bright = READER(rings(9.0, 1.4, 0.4)), READER(rings(9.0, 1.4, 0.4, photons=3000.0))
    assert torch.allclose(dim.numbers, bright.numbers, atol=0.03)


def test_size_is_a_shift_of_one_number() -> None:
    small, large = (rings(period, 1.3, 0.7) for period in (8.0, 10.0))
    shift = math.log(10.0 / 8.0)
    assert number(small, "size") - number(large, "size") == pytest.approx(shift, abs=0.03)
    for name in ("period_2", "photons_2", "photons_4", "tilt_along", "tilt_across"):
        assert number(small, name) == pytest.approx(number(large, name), abs=0.15), name
    assert torch.nn.functional.mse_loss(READER(small).picture, READER(large).picture) < 0.02


def test_period_is_found() -> None:
    for period_px in (6.0, 9.0, 14.0):
        assert math.exp(-number(rings(period_px), "size")) == pytest.approx(period_px, rel=0.04)


def test_ellipse_gives_two_waves_a_turn() -> None:
    """Against the Fourier coefficient of ln(frequency) of the ellipse, through the smoothing over sectors."""
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    for ratio in (1.2, 1.5):
        frequency = np.hypot(np.cos(angle) / np.sqrt(ratio), np.sin(angle) * np.sqrt(ratio))
        wave = abs(np.mean(np.log(frequency) * np.exp(2j * angle))) * math.exp(
            -0.5 * (2 * SMOOTHING_RAD) ** 2
        )
        found = math.exp(number(rings(9.0, ratio, 0.3), "period_2")) - FLOORS["period_2"]
        assert found == pytest.approx(wave, rel=0.15)


def test_four_beams_give_four_waves_a_turn() -> None:
    axis = torch.arange(128) - 63.5
    angle = torch.atan2(axis[:, None].expand(128, 128), axis[None].expand(128, 128))
    image = 3000 * (1 + 0.5 * torch.cos(4 * angle))[None, None]
    within = math.sin(4 * math.pi / ANGLES) / (4 * math.pi / ANGLES)  # mean over a sector
    expected = math.log(0.25 * within + FLOORS["photons_4"])
    assert number(image, "photons_4") == pytest.approx(expected, abs=0.05)


def test_two_sizes_have_weaker_rings() -> None:
    one, two = rings(8.0), rings(8.0) + rings(9.5)
    assert number(two, "strength") < number(one, "strength") - 1


@pytest.mark.parametrize("fill", [0.0, 5.0, -20.0])
def test_featureless_images_give_finite_numbers(fill: float) -> None:
    found = READER(torch.full((2, 1, 128, 128), fill))
    assert all(torch.isfinite(part).all() for part in (found.numbers, found.strength, found.picture))


def test_nan_is_seen_and_touches_no_neighbour() -> None:
    images = torch.cat([rings(8.0), rings(9.0), rings(10.0)])
    clean = READER(images).numbers
    images[1, 0, 60, 70] = float("nan")
    spoiled = READER(images).numbers
    assert torch.isnan(spoiled[1]).any()
    assert torch.equal(spoiled[[0, 2]], clean[[0, 2]])
