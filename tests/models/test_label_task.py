"""The task of labels: thresholds that respect the hierarchy, scores beside the majority's, bad labels."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.data_sets.data_set import DataSet
from models.manifest import ModelError
from models.recipes import droplets
from models.recipes.recipe import Recipe, Stage
from models.scores import f1_per_label, from_bits
from models.simulation.labels import CLASSES, draw_labels
from models.tasks.labels import LabelTask

TINY: dict[str, Any] = {"widths": [4], "blocks": [1]}


def events(n: int, names: tuple[str, ...] = CLASSES, size_px: int = 32) -> DataSet:
    torch.manual_seed(n)
    targets = torch.from_numpy(draw_labels(n, np.random.default_rng(n), 0.8)[:, : len(names)]).float()
    return DataSet((torch.rand(n, size_px, size_px) * 500).to(torch.uint16), targets, names)


def tiny(recipe: Recipe) -> Recipe:
    return replace(recipe, options={**recipe.options, **TINY})


def test_finish_chooses_consistent_thresholds_and_scores_stand_beside_the_majority() -> None:
    train, test = events(60), events(50)
    task = LabelTask(tiny(droplets.droplet_cnn()), train)
    assert task.options["hierarchy"]["nothing"] == CLASSES.index("Empty")
    task.loss(train).backward()
    network = task.finish(train, events(40))
    packed = network(task.preprocess(test.inputs)).detach().numpy()
    said = from_bits(packed[:, len(CLASSES)], len(CLASSES))
    assert not (said[:, CLASSES.index("Streak")] & ~said[:, CLASSES.index("Prolate")]).any()
    scores = task.score(network, train, test)
    assert set(scores["f1"]) == set(scores["threshold"]) == set(CLASSES)
    truth = test.targets.numpy() > 0.5
    f1 = f1_per_label(truth, said)
    assert [scores["f1"][name] for name in CLASSES] == [None if np.isnan(v) else round(v, 5) for v in f1]
    assert scores["macro_f1"] == pytest.approx(np.nanmean(f1), abs=1e-5)
    sets, counts = np.unique(train.targets.numpy() > 0.5, axis=0, return_counts=True)
    majority = sets[counts.argmax()]  # of the training events, said of the test events
    assert scores["baseline_exact_match"] == pytest.approx((truth == majority).all(1).mean(), abs=1e-5)
    assert scores["baseline_bit_accuracy"] == pytest.approx((truth == majority).mean(), abs=1e-5)


def test_perfect_answers_score_one() -> None:
    data = events(40)
    task = LabelTask(tiny(droplets.droplet_cnn()), data)
    network = task.module.eval()
    index = {tuple(row): i for i, row in enumerate(data.inputs.flatten(1)[:, :40].tolist())}

    def known(x: torch.Tensor) -> torch.Tensor:
        raw = (x[:, 0].flatten(1)[:, :40] + 100).round().long().tolist()
        p = data.targets[[index[tuple(row)] for row in raw]]
        return torch.cat([p, (p * network.get_buffer("bit")).sum(1, keepdim=True)], 1)

    network.forward = known  # type: ignore[method-assign]
    scores = task.score(network, data, data)
    there = [name for name, value in zip(CLASSES, data.targets.any(0).tolist(), strict=True) if value]
    assert all(scores["f1"][name] == scores["average_precision"][name] == 1 for name in there)
    assert scores["exact_match"] == scores["bit_accuracy"] == 1
    assert scores["baseline_exact_match"] < 1


def test_own_classes_and_own_shapes_are_learned_too() -> None:
    data = replace(events(12, ("hit", "ice", "streak")), targets=torch.eye(3).repeat(4, 1))
    task = LabelTask(tiny(droplets.droplet_cnn()), data)
    assert "hierarchy" not in task.options
    assert task.columns[0].labels == ("hit", "ice", "streak")
    oblong = replace(data, inputs=data.inputs[:, :, :24])  # quarter turns would not fit
    assert torch.isfinite(LabelTask(tiny(droplets.droplet_cnn()), oblong).loss(oblong))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.ones(12, 11), "two different label sets"),
        (torch.eye(11)[[0, 1] * 6] * 2, "expected 0 and 1"),
    ],
)
def test_unusable_labels_are_refused(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LabelTask(tiny(droplets.droplet_cnn()), replace(events(12), targets=targets))


def test_unknown_architectures_are_refused() -> None:
    recipe = droplets.droplet_cnn()
    for bad in ({"architecture": "droplet"}, {"architecture": "ednn"}, {"options": {"depth": 18}}):
        with pytest.raises(ModelError, match="architecture of recipe droplet_cnn"):
            LabelTask(replace(recipe, **bad), events(12))


@pytest.mark.parametrize("make", droplets.RECIPES, ids=lambda make: make.__name__)
def test_every_recipe_names_a_network_of_its_classes(make: Any) -> None:
    """Built without memory; the preprocessing takes the recipe's own events."""
    recipe = make()
    assert recipe.name == make.__name__
    size_px = recipe.data.options.get("size_px", 128)
    data = events(4, size_px=size_px)
    with torch.device("meta"):
        task = LabelTask(recipe, data)
        assert task.module.packed_width == len(CLASSES) + 1
    assert isinstance(recipe.stages[0], Stage)


@pytest.mark.parametrize("name", ["droplet_cnn_ccf", "droplet_resnet18", "droplet_resnet18_attention"])
def test_one_step_of_descent(name: str) -> None:
    recipe = getattr(droplets, name)()
    data = events(2, size_px=64)
    task = LabelTask(recipe, data)
    loss = task.loss(data)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in task.module.parameters())
