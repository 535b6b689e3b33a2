"""Tasks between structure and spectrum: scores by hand, what is shipped, clear words for bad events."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from models import compare_structure, scores, structure_scores, train
from models.bundle import BFLOAT16, load_bundle, run_bundle, verify_golden
from models.data_sets.data_set import DataSet
from models.fit import Hardware
from models.manifest import Manifest, ModelError
from models.networks.nnca import departure
from models.recipes.recipe import Data, Recipe
from models.recipes.table import recipe
from models.tasks.structure import InverseTask, StructureTask, covered, scored
from models.tasks.table import make_task

CPU = Hardware(torch.device("cpu"), False)


def small(name: str, **options: Any) -> Recipe:
    chosen = recipe(name)
    stages = tuple(replace(stage, epochs=2, batch=16) for stage in chosen.stages)
    data = Data(chosen.data.source, 64, 16, 24, chosen.data.options)
    return replace(chosen, stages=stages, data=data, options={**chosen.options, "hidden": [8], **options})


def write(chosen: Recipe, folder: Path) -> Manifest:
    console = Console(quiet=True)
    splits = train.simulated_splits(chosen, folder / "cache", console)
    return train.train_bundle(chosen, splits, train.Where(folder / "out", CPU, console))


def events(n: int = 20, points: int = 6, targets: int = 3) -> DataSet:
    torch.manual_seed(0)
    inputs = torch.randn(n, points)
    return DataSet(inputs, inputs[:, :targets].sin(), tuple(f"y{i}" for i in range(targets)))


def test_covered_variance_by_hand() -> None:
    truth = np.array([[0.0, 0.0], [2.0, 4.0]])  # about the mean (1, 2): 1 + 1 + 4 + 4 = 10
    said = np.array([[1.0, 0.0], [2.0, 2.0]])  # off by 1 and 2: 1 + 4 = 5
    assert scores.covered_variance(truth, said) == pytest.approx(0.5)
    assert covered(truth, said, shared_scale=True) == pytest.approx(0.5)
    # In their spread, 1 and 2: (1 + 1) missed of (2 + 2).
    assert covered(truth, said, shared_scale=False) == pytest.approx(0.5)
    assert covered(truth, truth * [1.0, 0.5], shared_scale=True) == pytest.approx(1 - 4 / 10)
    assert covered(truth, truth * [1.0, 0.5], shared_scale=False) == pytest.approx(1 - 1 / 4)


def test_scores_of_each_target() -> None:
    data = DataSet(torch.zeros(2, 1), torch.tensor([[0.0, 0.0], [2.0, 4.0]]), ("a", "b"))
    found = scored(np.array([[1.0, 0.0], [2.0, 2.0]], np.float32), data, shared_scale=False)
    assert found["covered_variance_each"] == {"a": 0.5, "b": 0.5}
    assert found["mean_absolute_error"] == {"a": 0.5, "b": 1.0}


def test_linear_baselines_find_a_linear_map() -> None:
    rng = np.random.default_rng(0)
    x, away = rng.normal(size=(60, 4)) * [5.0, 3.0, 0.1, 0.1], rng.normal(size=(10, 4))
    turn = rng.normal(size=(2, 3))
    pair = x, x[:, :2] @ turn
    components = structure_scores.component_regression(pair, away * [1, 1, 0, 0], 2)
    assert np.abs(components - away[:, :2] @ turn).max() < 0.1
    said = structure_scores.partial_least_squares(pair, away, 4)
    assert np.abs(said - away[:, :2] @ turn).max() < 1e-6


@pytest.mark.parametrize("name", ["water_nnca_emulator", "water_nnca", "water_eca"])
def test_recipe_becomes_a_verified_bundle(name: str, tmp_path: Path) -> None:
    fast = {"eca": {"most_epochs": 2}} if "eca" in name else {}
    chosen = small(name)
    written = write(replace(chosen, extra={**chosen.extra, **fast}), tmp_path)
    bundle = load_bundle(tmp_path / "out")
    verify_golden(bundle, lambda raw: run_bundle(bundle, raw))
    with torch.autocast("cpu", torch.bfloat16):
        verify_golden(bundle, lambda raw: run_bundle(bundle, raw), BFLOAT16)
    vectors = getattr(getattr(bundle.network, "emulator", bundle.network), "vectors", None)
    if vectors is not None:
        assert departure(vectors) < 1e-5
    found = written.scores["test"]
    assert {"covered_variance", "baseline_covered_variance", "baseline_pls_covered_variance"} <= set(found)
    assert written.kind == "encoder_decoder"
    assert [column.name for column in written.columns] == ["latent", "target"]


def test_germania_is_learnt_in_its_shape(tmp_path: Path) -> None:
    written = write(small("germania_nnca"), tmp_path)
    assert written.columns[1].labels[0] == "kb_cross_area"
    assert len(written.scores["test"]["mean_absolute_error"]) == 8


def test_inverse_after_training_reads_back_what_it_emulates() -> None:
    """Half a second of training on a smooth map of one number: the inverse must come near to it."""
    torch.manual_seed(0)
    place = torch.rand(128, 1) * 2 - 1
    axis = torch.linspace(-2, 2, 24)
    data = DataSet(torch.exp(-4 * (axis - place).square()), place, ("position",))
    chosen = small("water_nnca", latent=1, hidden=[24])
    torch.manual_seed(0)
    task = InverseTask(chosen, data)
    task.begin(chosen.stages[0], data)
    optimiser = torch.optim.AdamW(task.module.parameters(), 2e-2)
    for _ in range(100):
        optimiser.zero_grad()
        task.loss(data).backward()
        optimiser.step()
    found = task.score(task.finish(data, data).eval(), data, data)
    assert found["mean_absolute_error"]["position"] < 0.05
    assert found["covered_variance"] > found["baseline_covered_variance"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["inputs", "targets"])
def test_a_structure_that_is_not_finite_is_refused(what: str, bad: float) -> None:
    data = events()
    getattr(data, what)[3, 1] = bad
    for task, name in ((StructureTask, "water_nnca_emulator"), (InverseTask, "water_nnca")):
        with pytest.raises(ModelError, match=rf"training {what}: .* 1 of 20 events .*leave those events out"):
            task(small(name), data)


def test_events_that_are_all_alike_are_refused() -> None:
    data = replace(events(), targets=torch.ones(20, 3))
    with pytest.raises(ModelError, match="all alike"):
        StructureTask(small("water_nnca_emulator"), data)


def test_more_latent_numbers_than_coordinates_are_refused() -> None:
    with pytest.raises(ModelError, match=r"options of nnca: .*6 coordinates, got 7.*correct the recipe"):
        StructureTask(small("water_nnca_emulator", latent=7), events())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match="architecture of a structure recipe"):
        StructureTask(replace(small("water_nnca_emulator"), architecture="droplet_cnn"), events())
    with pytest.raises(ModelError, match="architecture of a structure recipe"):
        InverseTask(replace(small("water_nnca"), architecture="nnca"), events())
    with pytest.raises(ModelError, match="extra of recipe water_nnca_emulator"):
        make_task(replace(small("water_nnca_emulator"), extra={"beta": 1.0}), events())


def test_principal_axes_stay_what_they_are() -> None:
    data = events(40)
    chosen = small("water_nnca_emulator", latent=2)
    task = compare_structure.PrincipalTask(chosen, data)
    task.begin(chosen.stages[0], data)
    z = ((data.inputs - data.inputs.mean(0)) / data.inputs.std(0, correction=0)).double().numpy()
    axes = structure_scores.principal_axes(z, 2)
    task.loss(data).backward()
    assert all(p.grad is None for p in [task.module.encoder.weight])
    found = task.finish(data, data).vectors.detach().numpy()
    assert np.abs(found - axes).max() < 1e-5
    largest = np.linalg.eigvalsh(np.cov(z.T))[-2:]
    assert np.sort((z @ axes.T).var(0, ddof=1)) == pytest.approx(largest)
