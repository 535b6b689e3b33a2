"""Training without labels, end to end on a few small images; and what it says to events it cannot use."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn import metrics

from models.data_sets.data_set import DataSet
from models.fit import fit
from models.manifest import ModelError
from models.recipes.clusters import six_shapes_tcvae_64, six_shapes_vae
from models.recipes.recipe import Recipe, Stage
from models.simulation import six_shapes
from models.tasks.clusters import ClusterTask, primary_class
from models.tasks.task import answers

STAGE = Stage("fit", epochs=2, patience=2, batch=20, learning_rate=1e-3, weight_decay=1e-2)


def small(recipe: Recipe, **options: int) -> Recipe:
    return replace(recipe, options={**recipe.options, **options}, stages=(STAGE,))


@cache
def events(n: int, seed: int = 0) -> DataSet:
    made = six_shapes.make(n, seed, {"size_px": 32})
    facts = {"again": torch.from_numpy(made["again"])}
    inputs, targets = torch.from_numpy(made["inputs"]), torch.from_numpy(made["targets"])
    return DataSet(inputs, targets, six_shapes.SHAPE_NAMES, facts)


RECIPES = {
    "rings": small(six_shapes_vae(), hidden=16, components=3),
    "published": replace(
        small(six_shapes_tcvae_64(), size_px=32, components=3),
        preprocess={"steps": [{"op": "scale", "offset": 100.0, "factor": 1.0}]},
    ),
}


OTHERS = ("baseline", "baseline_pca", "supervised_neighbours", "published_in_sample")


@pytest.mark.parametrize("name", [*RECIPES])
def test_from_events_to_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, train, test = RECIPES[name], events(40), events(20, 1)
    for limit in ("STILL", "USED_NATS"):  # two epochs move a latent little
        monkeypatch.setattr(f"models.tasks.clusters.{limit}", 0.0)
    torch.manual_seed(0)
    task = ClusterTask(recipe, train)
    task.begin(STAGE, train)
    fit(task, STAGE, (train, test), 0)
    network = task.finish(train, test)
    packed = answers(task.preprocess, network, test)
    assert packed.shape == (20, sum(column.width for column in task.columns))
    assert set(packed[:, -2]) <= {0.0, 1.0, 2.0}
    scored = task.score(network, train, test)
    truth, seen = primary_class(test), answers(task.preprocess, network, train)
    mu, log_variance = packed[:, :4].astype(np.float64), packed[:, 4:8].astype(np.float64)
    for prefix, classes, clusters in (
        ("", truth, packed[:, -2]),
        ("in_sample_", primary_class(train), seen[:, -2]),
    ):
        expected = metrics.adjusted_rand_score(classes, clusters)
        assert scored[f"{prefix}adjusted_rand"] == pytest.approx(expected, abs=1e-5)
        expected = metrics.homogeneity_score(classes, clusters)
        assert scored[f"{prefix}homogeneity"] == pytest.approx(expected, abs=1e-5)
    assert {f"{method}_adjusted_rand" for method in OTHERS} <= set(scored)
    nats = 0.5 * (mu**2 + np.exp(log_variance) - 1 - log_variance).mean(0)
    assert list(scored["latent_nats"].values()) == pytest.approx(nats, abs=1e-3)


def test_labels_are_not_used() -> None:
    """The same loss with other labels; another one with another second exposure."""
    train = events(20)
    task = ClusterTask(RECIPES["rings"], train)
    task.begin(STAGE, train)
    task.module.eval()

    def loss(batch: DataSet) -> float:
        torch.manual_seed(1)
        return task.loss(batch).item()

    assert loss(train) == loss(replace(train, targets=train.targets.flip(0)))
    assert loss(train) != loss(replace(train, facts={}))


def test_beta_rises_over_half_of_the_steps_and_is_full_in_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    train = events(20)
    task = ClusterTask(RECIPES["rings"], train)
    task.begin(replace(STAGE, epochs=8), train)
    betas: list[float] = []
    whole = task.module.loss

    def noted(seen: torch.Tensor, bright: torch.Tensor, beta: float) -> torch.Tensor:
        betas.append(beta)
        return whole(seen, bright, beta)

    monkeypatch.setattr(task.module, "loss", noted)
    for _ in range(6):
        task.loss(train)
    task.module.eval()
    task.loss(train)
    assert betas == pytest.approx([1.0, 1.75, 2.5, 3.25, 4.0, 4.0, 4.0])


def test_one_class_is_said_not_scored() -> None:
    train = events(20)
    task = ClusterTask(RECIPES["rings"], train)
    one = train.take(train.targets[:, 0].nonzero()[:, 0])
    assert "have one" in task.score(task.network, train, one)["not_scored"]


def test_fewer_events_than_components_are_refused() -> None:
    train = events(3)
    with pytest.raises(ModelError, match="more than the 3 components of the mixture, got 3; give more"):
        ClusterTask(RECIPES["rings"], train).begin(STAGE, train)


def test_pixels_that_are_no_numbers_are_refused() -> None:
    train = events(12)
    inputs = train.inputs.float()
    inputs[[3, 7], 5, 5] = float("nan")
    train = replace(train, inputs=inputs)
    with pytest.raises(ModelError, match="expected finite pixels, 2 of 12 events have others; mask"):
        ClusterTask(RECIPES["rings"], train).begin(STAGE, train)


def test_a_collapsed_latent_space_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Images that do not differ leave nothing for a latent to tell."""
    train = events(12)
    train = replace(train, inputs=train.inputs[:1].expand(12, -1, -1), facts={})
    task = ClusterTask(RECIPES["rings"], train)
    task.finish(train, train)
    assert "it has collapsed; lower `beta`, train longer" in caplog.text


def test_primary_class_of_own_names_and_of_the_labels() -> None:
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    labels = DataSet(torch.zeros(2, 4, 4), targets, ("Round", "Spherical_Oblate", "Streak"))
    assert primary_class(labels).tolist() == [0, 0]
    own = DataSet(torch.zeros(2, 4, 4), targets, ("cube", "rod", "disc"))
    assert np.array_equal(primary_class(own), [0, 1])
