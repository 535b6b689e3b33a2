"""The task of exclusive classes: what it refuses, fits and scores; few labels; its recipes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.data_sets.data_set import DataSet
from models.fit import fit
from models.manifest import ModelError
from models.phase_baseline import fit_linear
from models.phase_scores import believability
from models.preprocess import Preprocess
from models.recipes import spectra
from models.recipes.recipe import Data, Recipe, Stage
from models.simulation import pressure_ramps
from models.spectrum_views import mounted_anew, view
from models.tasks.phases import PhaseTask
from models.tasks.phases_few import FewLabelsTask, most_different

POINTS = 120
NAMES = ("before", "after")


def events(count: int, seed: int = 0, runs: int = 0) -> DataSet:
    """A line at one of two places; with `runs`, in time order with the switch in the middle of each."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.arange(count) % (count // max(runs, 1))
    phase = (number >= count // max(runs, 1) // 2).long() if runs else torch.arange(count) % 2
    x = 0.1 * torch.randn(count, POINTS, generator=generator)
    for i, own in enumerate(phase):
        x[i, 30 + 40 * int(own) : 50 + 40 * int(own)] += 2.0
    facts = {}
    if runs:
        each = count // runs
        facts = {
            "ramp": torch.arange(count) // each,
            "curve_number": number,
            "boundary": torch.full((count,), each // 2),
            "speed": torch.ones(count, dtype=torch.float64),
        }
    return DataSet(x, torch.eye(2)[phase], NAMES, facts)


def recipe(architecture: str, options: dict[str, Any], **changes: Any) -> Recipe:
    made = Recipe(
        name="small",
        task="phases",
        architecture=architecture,
        options=options,
        preprocess={"steps": [{"op": "log1p"}]},
        data=Data("pressure_ramps", 1, 1, 1),
        stages=(Stage("fit", 1, 1, 16, 1e-2, 0.0),),
        seed=0,
        about="",
        origin="",
        limits="",
    )
    return replace(made, **changes)


CNN: dict[str, Any] = {"widths": [4, 4], "kernels": [8, 3], "steps": [[4, 2], [1, 1]]}


def descend(task: PhaseTask, train: DataSet, steps: int = 30) -> None:
    """So many steps with all events in each."""
    fit(task, Stage("fit", steps, steps, 0, 1e-2, 0.0), (train, train), seed=0)


def test_trains_and_scores_beside_its_baselines() -> None:
    torch.manual_seed(0)
    train, test = events(40), events(60, 1, runs=3)
    task = PhaseTask(recipe("spectra_cnn", CNN), train)
    assert task.options["points"] == POINTS
    assert task.columns[0].labels == NAMES
    descend(task, train)
    network = task.finish(train, train)
    scores = task.score(network, train, test)
    assert scores["accuracy"] == 1.0
    assert scores["boundary_error_curves_worst"] == 0.0
    assert scores["runs"] == 3
    assert scores["baseline_linear_accuracy"] == 1.0
    assert scores["baseline_majority_accuracy"] == 0.5
    assert scores["baseline_majority_boundary_error_curves"] == 10.0
    assert scores["f1"] == {"before": 1.0, "after": 1.0}
    assert "measured_right" not in scores


def test_single_curves_have_no_boundary() -> None:
    train = events(40)
    task = PhaseTask(recipe("spectra_cnn", CNN), train)
    assert "boundary_error_curves" not in task.score(task.network.eval(), train, events(20, 2))


def test_bins_are_believed_by_their_training_accuracy() -> None:
    torch.manual_seed(0)
    train = events(40)
    task = PhaseTask(recipe("spectra_binned", {"bins": 4, "hidden": 8}), train)
    descend(task, train, 60)
    network = task.finish(train, train)
    right = (network.votes(task.preprocess(train.inputs)) * train.targets[:, None]).sum(2).mean(0).numpy()
    weights = network.get_buffer("believability_K").numpy()
    assert weights == pytest.approx(believability(right), abs=1e-3)
    assert weights[[1, 2]].min() > weights[[0, 3]].max()  # lines lie in bins 1 and 2 only
    scores = task.score(network, train, events(30, 4))
    assert scores["accuracy"] == 1.0
    assert 0 <= scores["baseline_published_vote_accuracy"] <= 1


def test_measured_curves_are_scored_for_the_ramp_of_this_material() -> None:
    made = pressure_ramps.make(12, 1, {})
    targets = torch.from_numpy(made["targets"])
    train = DataSet(torch.from_numpy(made["inputs"]), targets, pressure_ramps.PHASES)
    task = PhaseTask(recipe("spectra_cnn", {**CNN, "steps": [[16, 4], [1, 1]]}), train)
    measured = task.score(task.network.eval(), train, train)["measured_right"]
    assert measured["curves"] == 2
    assert 0 <= measured["right"] <= 2
    assert all(0 <= p <= 1 for p in measured["p_right"])


def test_linear_baseline_is_the_optimum() -> None:
    train = events(40)
    preprocess = Preprocess({"steps": []}, (POINTS,))
    linear = fit_linear(preprocess, train)
    assert (linear(preprocess, train).argmax(1) == train.targets.argmax(1)).all()
    assert linear(preprocess, events(20, 5)).sum(1) == pytest.approx(np.ones(20), abs=1e-5)


def test_pretraining_sees_no_label_and_the_labels_only_few() -> None:
    torch.manual_seed(0)
    train = events(32)
    few = recipe(
        "spectra_attention",
        {"widths": [4, 4], "embedded": 16},
        stages=tuple(Stage(name, 1, 1, 16, 1e-2, 0.0) for name in ("pretrain", "labels", "unsure")),
        extra={"labelled": 8},
    )
    task = FewLabelsTask(few, train)
    task.begin(few.stages[0], train)
    wrong = replace(train, targets=train.targets.flip(1))
    torch.manual_seed(1)
    first = task.loss(train)
    torch.manual_seed(1)
    assert torch.equal(first, task.loss(wrong))
    descend(task, train, 3)
    task.begin(few.stages[1], train)
    assert len(task.few) == 4
    descend(task, train, 3)
    task.begin(few.stages[2], train)
    assert len(task.few) == 8
    assert len(task.few.inputs.unique(dim=0)) == 8  # none is labelled twice
    task.module.eval()
    watched = task.loss(train)
    assert torch.equal(watched, task.loss(wrong))  # the batch's labels have no say: only those of the few
    task.few.targets.copy_(task.few.targets.flip(1))
    assert not torch.equal(watched, task.loss(train))
    network = task.finish(train, train)
    scores = task.score(network, train, events(20, 3))
    assert 0 <= scores["baseline_few_labels_alone_accuracy"] <= 1


def test_the_most_different_are_chosen_to_be_labelled() -> None:
    embedded = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 0.0], [0.0, 5.0], [0.2, 0.1], [8.9, 0.1]])
    assert set(most_different(embedded, 3).tolist()[1:]) <= {2, 3, 5}
    assert len(set(most_different(embedded, 6).tolist())) == 6
    assert len(most_different(embedded, 10)) == 6


def test_views_keep_lines_where_they_are() -> None:
    torch.manual_seed(0)
    x = torch.zeros(50, 400)
    x[:, 190:210] = 5.0
    seen = view(x)
    assert seen.shape == x.shape
    assert torch.isfinite(seen).all()
    centre = (seen.clamp_min(0.5) - 0.5) @ torch.arange(400.0) / (seen.clamp_min(0.5) - 0.5).sum(1)
    assert (centre - 199.5).abs().max() < 25
    assert centre.std() > 1


def test_mounted_anew_moves_and_scales_a_little() -> None:
    torch.manual_seed(0)
    x = torch.zeros(300, 400)
    x[:, 200] = 5.0
    seen = mounted_anew(x)
    moved = seen.argmax(1) - 200
    assert moved.float().std().item() == pytest.approx(3.0, rel=0.2)
    assert 3.8 < seen.amax(1).min() < seen.amax(1).max() < 6.2


def test_changes_spectra_in_training_only() -> None:
    train = events(40)
    task = PhaseTask(recipe("spectra_fcnn", {"hidden": [4]}, extra={"mounted_anew": True}), train)
    task.module.train()
    assert not torch.equal(task.loss(train), task.loss(train))
    task.module.eval()
    assert torch.equal(task.loss(train), task.loss(train))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.ones(40, 2)}, "exactly one"),
        ({"targets": torch.eye(2)[torch.zeros(40, dtype=torch.long)]}, "at least two classes"),
        ({"targets": torch.full((40, 2), 0.5)}, "exactly one"),
        ({"inputs": torch.zeros(40, 8, 8)}, "expected spectra"),
    ],
)
def test_refuses_data_that_teach_no_class(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PhaseTask(recipe("spectra_cnn", CNN), replace(events(40), **change))


def test_refuses_a_network_of_another_kind_and_options_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="expected one of"):
        PhaseTask(recipe("droplet_cnn", {}), events(40))
    with pytest.raises(ModelError, match="options of recipe"):
        PhaseTask(recipe("spectra_cnn", {"depth": 3}), events(40))
    with pytest.raises(ModelError, match="embedding"):
        FewLabelsTask(recipe("spectra_cnn", CNN, extra={"labelled": 8}), events(40))


@pytest.mark.parametrize("make", spectra.RECIPES, ids=lambda make: make.__name__)
def test_recipes_build_their_networks(make: Any) -> None:
    own = make()
    assert own.name == make.__name__
    made = pressure_ramps.make(6, 0, {**own.data.options, "no_sample_share": 0.3})
    targets = torch.eye(3)[torch.arange(6) % 3]
    train = DataSet(torch.from_numpy(made["inputs"]), targets, pressure_ramps.PHASES)
    kind = FewLabelsTask if own.task == "few_phases" else PhaseTask
    task = kind(own, train)
    with torch.inference_mode():
        answer = task.network.eval()(task.preprocess(train.inputs))
    assert answer.shape == (6, 4)
    assert torch.isfinite(answer).all()
