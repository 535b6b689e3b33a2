"""The training command from end to end on a few events, that a seed decides the result, and resuming."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from models import fit, train
from models.bundle import BFLOAT16, load_bundle, run_bundle, verify_golden
from models.checkpoint import Checkpoint
from models.data_sets.data_set import DataSet
from models.data_sets.splits import held_out, load_split, split_names
from models.fit import Hardware
from models.manifest import Manifest, ModelError
from models.recipes.recipe import Data, Recipe
from models.recipes.table import recipe
from models.tasks.table import make_task

CPU = Hardware(torch.device("cpu"), False)


def small(name: str = "diffraction_ednn", **stage: Any) -> Recipe:
    """A recipe with few events and short stages."""
    chosen = recipe(name)
    changes = {"epochs": 2, "batch": 16} | stage
    stages = tuple(replace(s, **changes) for s in chosen.stages)
    data = Data(chosen.data.source, 48, 16, 24, chosen.data.options)
    options = {"points": 4023, "hidden": [16], "latent": 2, "targets": 6}
    return replace(chosen, stages=stages, data=data, options=options)


def splits(chosen: Recipe, folder: Path) -> dict[str, DataSet]:
    return train.simulated_splits(chosen, folder, Console(quiet=True))


def write(chosen: Recipe, folder: Path, name: str = "out") -> Manifest:
    where = train.Where(folder / name, CPU, Console(quiet=True))
    return train.train_bundle(chosen, splits(chosen, folder / "cache"), where)


def test_recipe_becomes_a_verified_bundle(tmp_path: Path) -> None:
    written = write(small(), tmp_path)
    bundle = load_bundle(tmp_path / "out")
    assert bundle.manifest == written
    verify_golden(bundle, lambda raw: run_bundle(bundle, raw))
    with torch.autocast("cpu", torch.bfloat16):
        verify_golden(bundle, lambda raw: run_bundle(bundle, raw), BFLOAT16)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert written.sha256 in card
    assert "baseline_" in card
    assert str(tmp_path) not in card + (tmp_path / "out" / "manifest.json").read_text()
    assert not list((tmp_path / "out").rglob("*.safetensors.part"))
    assert not list((tmp_path / "out" / train.STATE_FOLDER).iterdir()), "the state is not needed any more"
    again = held_out(written, tmp_path / "cache")
    assert torch.equal(again["test"].inputs, splits(small(), tmp_path / "cache")["test"].inputs)


def test_same_seed_same_weights(tmp_path: Path) -> None:
    hashes = [write(small(), tmp_path, name).weights_sha256 for name in ("first", "second")]
    assert hashes[0] == hashes[1]


def test_stopped_and_resumed_is_as_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_EVERY_S", 0.0)
    chosen = small(epochs=5)
    expected = write(chosen, tmp_path, "whole").weights_sha256
    whole = fit.Descent.epoch

    def stop_in_the_fourth(descent: fit.Descent) -> fit.Epoch:
        if descent.progress.epoch == 3:
            raise KeyboardInterrupt
        return whole(descent)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Descent, "epoch", stop_in_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            write(chosen, tmp_path, "halves")
    heard: list[int] = []

    def count(descent: fit.Descent) -> fit.Epoch:
        heard.append(descent.progress.epoch + 1)
        return whole(descent)

    monkeypatch.setattr(fit.Descent, "epoch", count)
    assert write(chosen, tmp_path, "halves").weights_sha256 == expected
    assert heard == [4, 5]


def test_state_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out" / train.STATE_FOLDER / "0-fit.safetensors"
    Checkpoint(path, {"recipe": "another"}).write({"now.x": torch.zeros(1)}, {"step": 1})
    with pytest.raises(ModelError, match="another recipe, seed or data; delete it"):
        write(small(), tmp_path)
    path.write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"unreadable file .*; delete it"):
        write(small(), tmp_path)


def test_training_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    """With a learning rate of 0 no epoch improves on the first."""
    chosen = small(learning_rate=0.0, epochs=9, patience=2)
    parts = splits(chosen, tmp_path)
    task = make_task(chosen, parts["train"])
    task.begin(chosen.stages[0], parts["train"])
    heard: list[fit.Epoch] = []
    done = fit.fit(task, chosen.stages[0], (parts["train"], parts["validation"]), 0, CPU, heard.append)
    assert [epoch.number for epoch in heard] == [1, 2, 3]
    assert (done.epoch, done.best_epoch, len(done.history)) == (3, 1, 3)


def test_diverging_training_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lower the learning rate"):
        write(small(learning_rate=float("inf")), tmp_path)


def test_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"expected one of .*droplet_cnn.*got 'gpt'"):
        recipe("gpt")


def test_splits_are_disjoint(tmp_path: Path) -> None:
    chosen = small()
    names = split_names(chosen.data)
    assert names[:3] == ("train", "validation", "test")
    rows = torch.cat([load_split(chosen, name, tmp_path).inputs for name in names])
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    chosen = small()
    first = load_split(chosen, "test", tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(load_split(chosen, "test", tmp_path).inputs, first.inputs)


def test_command_refuses_an_unknown_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refusal:
        train.main(["gpt", "--out", str(tmp_path)])
    assert refusal.value.code == 2
    assert "droplet_cnn" in capsys.readouterr().err


def test_command_refuses_a_seed_that_would_mix_the_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["diffraction_ednn", "--out", str(tmp_path / "out"), "--cache", str(tmp_path)]
    assert train.main([*arguments, "--seed", "100000"]) == 1
    assert "--seed: expected 0 to 99999" in capsys.readouterr().err
