"""The shipped bundles load, answer as they did, and beat a trivial baseline on events nobody trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.bundle import BFLOAT16, Bundle, load_bundle, run_bundle, unpack, verify_golden
from models.scores import average_precision, cluster_scores, covered_variance, f1_per_label
from models.simulation import bank, nanodroplets
from models.simulation.diffractograms import lines_at, targets
from models.simulation.labels import CLASSES
from models.tasks.clusters import primary_class

SHIPPED = Path(models.__file__).parent / "bundles"
NAMES = ("diffraction_ednn", "droplet_cnn", "droplet_vae")
FRESH_SEED = bank.HELD_OUT_SEED + 17


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    return {name: load_bundle(SHIPPED / name) for name in NAMES}


def answer(bundle: Bundle, raw: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    columns = unpack(bundle.manifest, run_bundle(bundle, torch.from_numpy(raw)))
    return {name: column.numpy() for name, column in columns.items()}


def test_every_folder_is_a_listed_bundle(bundles: dict[str, Bundle]) -> None:
    assert sorted(path.name for path in SHIPPED.iterdir()) == list(NAMES)
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
    truth = primary_class(torch.from_numpy(droplets.labels).float())
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


def test_structure_beats_the_mean(bundles: dict[str, Bundle]) -> None:
    spectra = bank.diffractogram_bank(64, FRESH_SEED)
    said = answer(bundles["diffraction_ednn"], spectra.intensity)["target"].astype(np.float64)
    truth = spectra.target.astype(np.float64)
    scale = truth.std(0)
    assert covered_variance(truth / scale, said / scale) > 0.95


def test_structure_of_the_two_measured_curves(bundles: dict[str, Bundle]) -> None:
    """The only measured data at hand: the start and nearly the end of the published ramp."""
    with np.load(SHIPPED.parent / "data" / "hed_fe80mg20" / "curves_0_340.npz", allow_pickle=False) as file:
        measured = file["intensity"].astype(np.float32)
    said = answer(bundles["diffraction_ednn"], measured)["target"]
    fitted = np.stack([targets(number, lines_at(number)) for number in (0, 340)])
    assert said[:, 0] == pytest.approx(fitted[:, 0], abs=0.03)
    assert said[:, 1:5] == pytest.approx(fitted[:, 1:5], abs=0.004)
