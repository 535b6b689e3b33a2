"""The droplet simulation obeys scattering theory and the label statistics."""

import numpy as np
import pytest
import torch

from models.manifest import ModelError
from models.simulation.detector import GAIN_COUNTS, PEDESTAL_COUNTS, Detector, expose
from models.simulation.diffraction import Body, Complex, Optics, amplitude, amplitudes, shift, wave_grid
from models.simulation.labels import CLASSES, draw_labels, draw_radius_nm, label_combinations
from models.simulation.nanodroplets import make, simulate, simulate_one
from models.simulation.scenes import draw_scene, intensities, turn

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
    flat = Body((200.0, 400.0, 400.0), turn(0.5, 0.0))
    tilted = Body((200.0, 400.0, 400.0), turn(0.5, np.deg2rad(40)))
    assert asymmetry(amplitude(flat, VACUUM_LIKE)) < 0.01
    assert asymmetry(amplitude(tilted, VACUUM_LIKE)) > 0.1


def test_pill_streaks_across_its_axis() -> None:
    pill = Body((500.0, 150.0, 150.0), UPRIGHT, half_length_nm=350.0)  # along x
    intensity = np.abs(amplitude(pill, VACUUM_LIKE)) ** 2
    across, along = intensity[96:, 60:68].sum(), intensity[60:68, 96:].sum()
    assert across > 10 * along


def test_shift_only_turns_the_phase() -> None:
    field = amplitudes([Body((200.0,) * 3, UPRIGHT)], [VACUUM_LIKE])
    moved = shift(field, np.array([[100.0, -50.0, 2000.0]]), [VACUUM_LIKE.wavelength_nm])
    assert torch.allclose(moved.abs(), field.abs(), rtol=1e-4, atol=1.0)
    assert not torch.allclose(moved, field)


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
    image = expose(None, np.random.default_rng(0), 128).counts
    assert np.median(image) == pytest.approx(PEDESTAL_COUNTS, abs=3)
    bright = expose(np.ones((128, 128), np.float32), np.random.default_rng(0), 128).counts
    assert bright[60:68, 60:68].max() < PEDESTAL_COUNTS + 30
    assert np.median(bright) > PEDESTAL_COUNTS


def directly(body: Body, optics: Optics, sines: tuple[float, float]) -> complex:
    """F at q = k (sines, sqrt(1 - sines^2) - 1), in float64, by a plain sum over the same voxels."""
    half, k = 1.04 * body.extent_nm(), 2 * np.pi / optics.wavelength_nm
    lateral = ((np.arange(48) + 0.5) / 48 * 2 - 1) * half
    beam = ((np.arange(32) + 0.5) / 32 * 2 - 1) * half
    z, y, x = np.meshgrid(beam, lateral, lateral, indexing="ij")
    own = np.stack([x, y, z], -1) @ body.rotation.astype(float)
    voxel = lateral[1] - lateral[0]
    if body.half_length_nm:
        along = np.clip(own[..., 0], -body.half_length_nm, body.half_length_nm)
        distance = np.hypot(np.hypot(own[..., 0] - along, own[..., 1]), own[..., 2]) - body.semi_axes_nm[1]
    else:
        f = np.sqrt(((own / body.semi_axes_nm) ** 2).sum(-1))
        distance = f * (f - 1) / np.sqrt(((own / np.square(body.semi_axes_nm)) ** 2).sum(-1))
    inside = np.clip(0.5 - distance / voxel, 0, 1)
    step = beam[1] - beam[0]
    path = (np.cumsum(inside, 0) - 0.5 * inside) * step
    wave = inside * np.exp(-path / (2 * optics.absorption_nm) + 1j * k * optics.refraction * path)
    q_z = k * (np.sqrt(1 - sines[0] ** 2 - sines[1] ** 2) - 1)
    turned = np.exp(-1j * (k * sines[0] * x + k * sines[1] * y + q_z * z))
    return complex((wave * turned).sum() * step * voxel**2)


@pytest.mark.parametrize("half_length_nm", [0.0, 350.0])
def test_amplitude_is_the_sum_over_the_voxels(half_length_nm: float) -> None:
    body = Body((500.0, 150.0, 150.0), turn(0.4, 0.3), half_length_nm)
    other = Body((200.0, 300.0, 400.0), turn(1.4, -0.3))
    optics = Optics(45.0, 600.0, 0.03)
    fields = amplitudes([body, other], [optics, VACUUM_LIKE], 32).numpy()
    peak = np.abs(fields[0]).max()
    for row, column in ((16, 16), (20, 3), (31, 12)):
        sines = ((column - 15.5) / 32, (row - 15.5) / 32)
        expected = directly(body, optics, sines)
        assert abs(fields[0, row, column] - expected) < 1e-4 * peak
    assert np.allclose(fields[0], amplitude(body, optics, 32), atol=1e-5 * peak)


def test_a_batch_of_scenes_is_each_scene_alone() -> None:
    rng = np.random.default_rng(0)
    sets = ({"Round"}, {"Prolate", "Streak", "Layered", "NewtonRings"}, {"Round", "DoubleRings"}, {"Layered"})
    scenes = [draw_scene(frozenset(names), rng) for names in sets]
    together = intensities(scenes, 32)
    for scene, intensity in zip(scenes, together, strict=True):
        assert torch.allclose(
            intensity, intensities([scene], 32)[0], rtol=1e-3, atol=1e-5 * float(intensity.max())
        )


def test_first_images_do_not_depend_on_how_many_follow() -> None:
    short, long = simulate(2, 5, 32), simulate(4, 5, 32)
    assert np.array_equal(short.images[0], long.images[0])
    assert (short.labels[0] == long.labels[0]).all()


def test_photons_dead_sectors_and_hole_are_options() -> None:
    options = {"photons": [1e4, 1e4], "readout_counts": 0.0, "evenness": 1.0, "size_px": 64}
    made = make(12, 3, options)
    assert set(made) == {"inputs", "targets", "radius_nm", "photons"}
    filled = made["targets"][:, -1] == 0
    assert made["photons"][filled] == pytest.approx(1e4)
    assert (made["photons"][~filled] == 0).all()
    counted = (made["inputs"][filled].astype(float) - PEDESTAL_COUNTS).sum((1, 2)) / GAIN_COUNTS
    assert (counted > 0.5 * 1e4).all()  # a shifted pattern may put some of its photons in the hole

    flat = np.ones((64, 64), np.float32)
    detector = Detector(photons=(1e6, 1e6), readout_counts=0.0, dead_sectors=2, hole_share=(0.3, 0.3))
    dark = [
        (expose(flat, np.random.default_rng(seed), 64, detector).counts <= PEDESTAL_COUNTS).mean()
        for seed in range(20)
    ]
    hole = np.pi * 0.3**2 / 4
    assert min(dark) == pytest.approx(hole, abs=0.01)  # no sector
    assert hole + 0.06 < max(dark) < hole + 0.93 * 50 / 360 + 0.02  # two of up to 25 degrees


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 1}, "got \\['noise'\\]"),
        ({"photons": [0, 1]}, "photons"),
        ({"evenness": 2.0}, "evenness"),
        ({"dead_sectors": -1}, "dead_sectors"),
        ({"hole_share": [0.3, 0.2]}, "hole_share"),
        ({"device": "tpu"}, "device"),
        ({"size_px": 2}, "size_px"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(1, 0, options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_computes_the_same_images() -> None:
    cpu, gpu = (
        make(8, 1, {"device": device, "evenness": 1.0})["inputs"].astype(float) for device in ("cpu", "cuda")
    )
    assert (np.abs(cpu - gpu) < 2).mean() > 0.99
