"""The shipped bundles load, answer as they did, and beat a trivial baseline on events nobody trained on."""

import numpy as np
import pytest
import torch

from models.bundle import BFLOAT16, Bundle, load_bundle, run_bundle, unpack, verify_golden
from models.data_sets.data_set import DataSet
from models.scores import average_precision, cluster_scores, covered_variance, f1_per_label
from models.shipped import SHIPPED, shipped_names
from models.simulation import bank, diffractograms, nanodroplets, pressure_ramps, six_shapes, water
from models.simulation.diffractograms import lines_at, targets
from models.simulation.labels import CLASSES
from models.tasks.clusters import primary_class

NAMES = ("diffraction_ednn", "droplet_cnn", "droplet_vae", "six_shapes_vae", "spectra_cnn", "water_nnca")
FRESH_SEED = bank.HELD_OUT_SEED + 17


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    return {name: load_bundle(SHIPPED / name) for name in NAMES}


def answer(bundle: Bundle, raw: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    columns = unpack(bundle.manifest, run_bundle(bundle, torch.from_numpy(raw)))
    return {name: column.numpy() for name, column in columns.items()}


def test_every_folder_is_a_listed_bundle(bundles: dict[str, Bundle]) -> None:
    assert sorted(path.name for path in SHIPPED.iterdir()) == shipped_names() == list(NAMES)
    assert all(bundle.manifest.name == name for name, bundle in bundles.items())


@pytest.mark.parametrize("name", NAMES)
def test_golden_output_is_reproduced(bundles: dict[str, Bundle], name: str) -> None:
    bundle = bundles[name]
    verify_golden(bundle, lambda raw: run_bundle(bundle, raw))
    with torch.autocast("cpu", torch.bfloat16):
        verify_golden(bundle, lambda raw: run_bundle(bundle, raw), BFLOAT16)


@pytest.mark.parametrize("name", NAMES)
def test_card_names_the_manifest(bundles: dict[str, Bundle], name: str) -> None:
    assert bundles[name].manifest.sha256 in (SHIPPED / name / "MODEL_CARD.md").read_text()


def test_droplet_bundles_share_their_preprocessing(bundles: dict[str, Bundle]) -> None:
    assert bundles["droplet_cnn"].preprocess_key == bundles["droplet_vae"].preprocess_key


def test_classifier_beats_the_majority(bundles: dict[str, Bundle]) -> None:
    droplets = nanodroplets.simulate(64, FRESH_SEED, evenness=0.5)
    columns = answer(bundles["droplet_cnn"], droplets.images)
    bits = columns["labels"].astype(np.uint32)[:, None] >> np.arange(len(CLASSES), dtype=np.uint32)
    said = (bits & 1).astype(bool)
    majority = np.broadcast_to(droplets.labels.mean(0) > 0.5, said.shape)
    assert f1_per_label(droplets.labels, said).mean() > f1_per_label(droplets.labels, majority).mean() + 0.3
    ranked = [average_precision(t, p) for t, p in zip(droplets.labels.T, columns["p"].T, strict=True)]
    assert np.nanmean(ranked) > droplets.labels.mean() + 0.3


def test_clusters_know_more_than_chance(bundles: dict[str, Bundle]) -> None:
    droplets = nanodroplets.simulate(64, FRESH_SEED, evenness=0.5)
    columns = answer(bundles["droplet_vae"], droplets.images)
    labels = torch.from_numpy(droplets.labels).float()
    truth = primary_class(DataSet(torch.from_numpy(droplets.images), labels, CLASSES))
    cluster = columns["cluster"].astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(cluster)
    assert (
        cluster_scores(truth, cluster)["homogeneity"] > cluster_scores(truth, shuffled)["homogeneity"] + 0.1
    )
    assert np.isfinite(columns["log_likelihood"]).all()


def test_what_is_no_droplet_is_unlikely(bundles: dict[str, Bundle]) -> None:
    droplets = bank.droplet_bank(32, FRESH_SEED)
    noise = np.random.default_rng(0).integers(0, 60_000, droplets.images.shape, dtype=np.uint16)
    usual, strange = (answer(bundles["droplet_vae"], x)["log_likelihood"] for x in (droplets.images, noise))
    assert np.median(strange) < np.percentile(usual, 5)


def test_the_streak_threshold_keeps_what_it_promises(bundles: dict[str, Bundle]) -> None:
    """On fresh streaks: fewer kept than promised has a chance below one in a thousand."""
    bundle = bundles["droplet_cnn"]
    (threshold,) = [entry for entry in bundle.manifest.calibrated if entry.label == "Streak"]
    rng = np.random.default_rng(FRESH_SEED)
    names = frozenset({"Prolate", "Streak"})
    images = np.stack([nanodroplets.simulate_one(names, rng)[0] for _ in range(64)])
    p = answer(bundle, images)["p"][:, CLASSES.index("Streak")]
    assert threshold.recall == 0.99
    assert (p >= threshold.threshold).sum() >= 59
    others = nanodroplets.simulate(64, FRESH_SEED)
    vetoed = answer(bundle, others.images)["p"][:, CLASSES.index("Streak")] < threshold.threshold
    assert vetoed.mean() > 0.6, "a threshold that keeps everything is none"


def test_six_shapes_are_found_without_labels(bundles: dict[str, Bundle]) -> None:
    made = six_shapes.make(96, FRESH_SEED, {"photons": (1e5, 3e6)})
    cluster = answer(bundles["six_shapes_vae"], made["inputs"])["cluster"].astype(np.int64)
    assert cluster_scores(made["targets"].argmax(1), cluster)["adjusted_rand"] > 0.6


def test_phases_of_fresh_ramps_and_of_the_measured_curves(bundles: dict[str, Bundle]) -> None:
    made = pressure_ramps.make(64, FRESH_SEED, {})
    said = answer(bundles["spectra_cnn"], made["inputs"])["phase"]
    assert (said == made["targets"].argmax(1)).mean() > 0.9
    intensity, label = diffractograms.measured()
    assert answer(bundles["spectra_cnn"], intensity)["phase"].tolist() == label.tolist()


def test_structure_of_water_from_its_spectrum(bundles: dict[str, Bundle]) -> None:
    made = water.spectrum_to_structure(64, 200_017, {"photons": [1e5, 1e6]})
    said = answer(bundles["water_nnca"], made["inputs"])["target"].astype(np.float64)
    truth = made["targets"].astype(np.float64)
    scale = truth.std(0)
    assert covered_variance(truth[:, :2] / scale[:2], said[:, :2] / scale[:2]) > 0.7, "the bond lengths"


def test_structure_beats_the_mean(bundles: dict[str, Bundle]) -> None:
    spectra = bank.diffractogram_bank(64, FRESH_SEED)
    said = answer(bundles["diffraction_ednn"], spectra.intensity)["target"].astype(np.float64)
    truth = spectra.target.astype(np.float64)
    scale = truth.std(0)
    assert covered_variance(truth / scale, said / scale) > 0.95


def test_structure_of_the_two_measured_curves(bundles: dict[str, Bundle]) -> None:
    """The only measured data at hand: the start and nearly the end of the published ramp."""
    measured, _ = diffractograms.measured()
    said = answer(bundles["diffraction_ednn"], measured)["target"]
    fitted = np.stack([targets(number, lines_at(number)) for number in (0, 340)])
    assert said[:, 0] == pytest.approx(fitted[:, 0], abs=0.03)
    assert said[:, 1:5] == pytest.approx(fitted[:, 1:5], abs=0.004)
