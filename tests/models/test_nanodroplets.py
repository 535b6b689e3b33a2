"""The droplet simulation obeys scattering theory and the label statistics."""

import numpy as np
import pytest

from models.simulation.detector import PEDESTAL_COUNTS, expose
from models.simulation.diffraction import Body, Complex, Optics, amplitude, shift, wave_grid
from models.simulation.labels import CLASSES, draw_labels, draw_radius_nm, label_combinations
from models.simulation.nanodroplets import _turn, simulate, simulate_one

VACUUM_LIKE = Optics(absorption_nm=1e9, refraction=0.0)
UPRIGHT = np.eye(3, dtype=np.float32)


def momentum(size_px: int = 128) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """|q| = 2 k sin(theta / 2) of each pixel."""
    q, _ = wave_grid(VACUUM_LIKE.wavelength_nm, size_px)
    k = 2 * np.pi / VACUUM_LIKE.wavelength_nm
    return 2 * k * np.sin(np.arcsin(np.hypot(q[:, None], q[None]) / k) / 2)


def asymmetry(field: Complex) -> float:
    """sum |I(q) - I(-q)| / sum (I(q) + I(-q)) beyond 5 degrees (the bright centre is always symmetric)."""
    outside = momentum() > 0.17 * momentum().max()
    intensity = np.where(outside, np.abs(field) ** 2, 0)
    opposite = intensity[::-1, ::-1]
    return float(np.abs(intensity - opposite).sum() / (intensity + opposite).sum())


@pytest.mark.parametrize("radius_nm", [200.0, 335.0])
def test_sphere_has_its_minima_where_theory_puts_them(radius_nm: float) -> None:
    """The form factor 3 (sin x - x cos x) / x^3 vanishes at x = 4.493, 7.725, 10.904."""
    field = amplitude(Body((radius_nm,) * 3, UPRIGHT), VACUUM_LIKE)
    x = momentum()[64, 64:] * radius_nm
    profile = np.abs(field[64, 64:])
    is_minimum = (profile[1:-1] < profile[:-2]) & (profile[1:-1] < profile[2:])
    found = x[1:-1][is_minimum]
    assert found[0] == pytest.approx(4.493, abs=0.15)
    assert found[1] == pytest.approx(7.725, abs=0.15)


def test_small_sphere_follows_the_form_factor_everywhere() -> None:
    field = np.abs(amplitude(Body((120.0,) * 3, UPRIGHT), VACUUM_LIKE))
    x = momentum() * 120.0
    expected = 4 / 3 * np.pi * 120.0**3 * np.abs(3 * (np.sin(x) - x * np.cos(x)) / x**3)
    assert np.abs(field - expected).max() < 0.01 * expected.max()


def test_untilted_bodies_are_symmetric_and_tilted_ones_are_not() -> None:
    """Without absorption a body with an inversion centre is symmetric only with its axis in the plane."""
    flat = Body((200.0, 400.0, 400.0), _turn(0.5, 0.0))
    tilted = Body((200.0, 400.0, 400.0), _turn(0.5, np.deg2rad(40)))
    assert asymmetry(amplitude(flat, VACUUM_LIKE)) < 0.01
    assert asymmetry(amplitude(tilted, VACUUM_LIKE)) > 0.1


def test_pill_streaks_across_its_axis() -> None:
    pill = Body((500.0, 150.0, 150.0), UPRIGHT, half_length_nm=350.0)  # along x
    intensity = np.abs(amplitude(pill, VACUUM_LIKE)) ** 2
    across, along = intensity[96:, 60:68].sum(), intensity[60:68, 96:].sum()
    assert across > 10 * along


def test_shift_only_turns_the_phase() -> None:
    field = amplitude(Body((200.0,) * 3, UPRIGHT), VACUUM_LIKE)
    moved = shift(field, (100.0, -50.0, 2000.0), VACUUM_LIKE.wavelength_nm)
    assert np.abs(moved) == pytest.approx(np.abs(field), rel=1e-4)
    assert not np.allclose(moved, field)


def test_labels_follow_the_measured_statistics() -> None:
    sets, counts = label_combinations()
    assert sets.shape == (43, len(CLASSES))
    assert counts.sum() == 7264
    drawn = draw_labels(20_000, np.random.default_rng(0))
    assert drawn.mean(0) == pytest.approx((sets * counts[:, None]).sum(0) / 7264, abs=0.01)
    even = draw_labels(20_000, np.random.default_rng(0), evenness=1.0)
    assert even.mean(0) == pytest.approx(sets.mean(0), abs=0.02)


def test_radii_follow_the_measured_quantiles() -> None:
    rng = np.random.default_rng(0)
    assert np.median([draw_radius_nm(rng) for _ in range(4000)]) == pytest.approx(335, abs=12)


def test_same_seed_same_images_and_other_seed_others() -> None:
    first, again, other = simulate(4, 5), simulate(4, 5), simulate(4, 6)
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    assert first.images.dtype == np.uint16
    assert first.images.shape == (4, 128, 128)
    assert first.labels.shape == (4, len(CLASSES))


def test_progress_hears_every_image_and_size_is_free() -> None:
    heard: list[int] = []
    assert simulate(3, 1, size_px=64, progress=heard.append).images.shape == (3, 64, 64)
    assert heard == [1, 2, 3]


def test_every_label_set_can_be_made() -> None:
    rng = np.random.default_rng(2)
    for labels in label_combinations()[0]:
        names = frozenset(name for name, is_set in zip(CLASSES, labels, strict=True) if is_set)
        image, radius_nm = simulate_one(names, rng, 32)
        assert image.max() > PEDESTAL_COUNTS
        assert (radius_nm == 0) == ("Empty" in names)


def test_empty_is_background_and_the_hole_is_dark() -> None:
    image = expose(None, np.random.default_rng(0), 128)
    assert np.median(image) == pytest.approx(PEDESTAL_COUNTS, abs=3)
    bright = expose(np.ones((128, 128), np.float32), np.random.default_rng(0), 128)
    assert bright[60:68, 60:68].max() < PEDESTAL_COUNTS + 30
    assert np.median(bright) > PEDESTAL_COUNTS
