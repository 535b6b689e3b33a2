"""The training command from end to end on a few events, that a seed decides the result, and resuming."""

import json
import re
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from models import fit, train
from models.bundle import BFLOAT16, load_bundle, run_bundle, verify_golden
from models.checkpoint import Checkpoint
from models.command import typed
from models.data_sets.data_set import DataSet
from models.data_sets.splits import held_out, load_split, split_names
from models.fit import Hardware
from models.manifest import Manifest, ModelError
from models.recipes.recipe import Data, Recipe
from models.recipes.table import RECIPES, recipe
from models.tasks.table import make_task
from models.training_folder import STATE_FOLDER, locked

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
    assert not list((tmp_path / "out" / STATE_FOLDER).iterdir()), "the state is not needed any more"
    assert "48 events for training, 16 for validation, held out: test 24" in card
    assert "Trained on no measured event." in card
    assert (written.training["command"], written.name) == (
        "streamer train diffraction_ednn --out out",
        "diffraction_ednn",
    )
    with pytest.raises(ModelError, match=r"got one that holds a bundle; name another, or delete it"):
        write(small(), tmp_path)
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
    path = tmp_path / "out" / STATE_FOLDER / "0-fit.safetensors"
    Checkpoint(path, {"recipe": "another"}).write({"now.x": torch.zeros(1)}, {"step": 1})
    with pytest.raises(ModelError, match="another recipe, seed or data; delete it"):
        write(small(), tmp_path)
    path.write_bytes(b"cut")
    with pytest.raises(ModelError, match=r"unreadable file .*; delete it"):
        write(small(), tmp_path)


def stopped(chosen: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the state of a training that was ended after its first epoch."""
    whole = fit.Descent.epoch

    def one(descent: fit.Descent) -> fit.Epoch:
        if descent.progress.epoch == 1:
            raise KeyboardInterrupt
        return whole(descent)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "CHECKPOINT_EVERY_S", 0.0)
        patch.setattr(fit.Descent, "epoch", one)
        with pytest.raises(KeyboardInterrupt):
            write(chosen, folder)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_state_of_other_events_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """As many events with the same recipe: other labels, or other inputs, are another training."""
    stopped(small(), tmp_path, monkeypatch)
    parts = splits(small(), tmp_path / "cache")
    where = train.Where(tmp_path / "out", CPU, Console(quiet=True))
    data = parts[part]
    for other in (replace(data, targets=data.targets.flip(0)), replace(data, inputs=data.inputs + 1)):
        with pytest.raises(ModelError, match="another recipe, seed or data; delete it"):
            train.train_bundle(small(), {**parts, part: other}, where)
    written = train.train_bundle(small(), parts, where)
    assert written.training["stages"][0]["epochs_run"] == 2


def test_the_time_before_a_stop_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(small(), tmp_path, monkeypatch)
    (path,) = (tmp_path / "out" / STATE_FOLDER).iterdir()
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    state = Checkpoint(path, facts["made_by"]).read()
    assert state is not None
    path.unlink()
    Checkpoint(path, facts["made_by"], time.process_time() - 500).write(state[0], state[1] | {"cpu_s": 500.0})
    assert 500 <= write(small(), tmp_path).training["cpu_s"] < 600


def test_a_bundle_beside_the_state_of_another_training_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(small(), tmp_path, monkeypatch)
    (tmp_path / "out" / "manifest.json").write_text("{}")
    (path,) = (tmp_path / "out" / STATE_FOLDER).iterdir()
    path.rename(path.with_name("0-of_another.safetensors"))
    with pytest.raises(ModelError, match="got one that holds a bundle"):
        write(small(), tmp_path)


def test_a_folder_is_for_one_training(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with locked(out), pytest.raises(ModelError, match="another training writes to; wait for it"), locked(out):
        pass
    assert not out.exists(), "what stayed empty goes"
    with locked(out):
        (out / "kept").touch()
    assert [path.name for path in out.iterdir()] == ["kept"]


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


def test_a_lone_last_event_joins_the_batch_before(tmp_path: Path) -> None:
    chosen = small()
    parts = splits(chosen, tmp_path)
    task = make_task(chosen, parts["train"])
    task.begin(chosen.stages[0], parts["train"])
    seen: list[int] = []
    loss = task.loss

    def counted(batch: DataSet) -> torch.Tensor:
        seen.append(len(batch))
        return loss(batch)

    task.loss = counted  # type: ignore[method-assign]
    train = parts["train"].take(torch.arange(33))
    stage = replace(chosen.stages[0], epochs=1, batch=16)
    fit.fit(task, stage, (train, parts["validation"]), 0, CPU)
    assert seen == [16, 17, 16], "and then the validation events"


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


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on one line before it gives up."""
    capsys.readouterr()
    assert train.main([*arguments]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_command_refuses_before_it_simulates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, however long; the cache stays empty."""
    out, blocked = str(tmp_path / "out"), tmp_path / "a_file"
    blocked.touch()
    arguments = ["diffraction_ednn", "--cache", str(tmp_path / "cache"), "--out"]
    for more, message in (
        (("--seed", "100000"), "--seed: expected 0 to 99999"),
        (("--threads", "0"), "--threads: expected 1 or more, got 0"),
        (("--device", "gpu"), "--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (("--device", "cuda:99"), "--device cuda:99: expected a CUDA device"),
        (("--name", "my cnn"), "name in --name: expected"),
        (("--labels", "l.csv", "--group", "run"), "--labels, --group: expected --data with the events"),
    ):
        assert message in refusal(capsys, *arguments, out, *more)
    assert "expected a folder with room to write to" in refusal(capsys, *arguments, str(blocked / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")
    assert "got one that holds a bundle" in refusal(capsys, *arguments, out)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(ModelError, match=r"expected a folder to keep events in.*another with --cache"):
        load_split(small(), "test", tmp_path / "a_file")


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """A limit on the size of a file stands for it; the state before stays, and nothing half written."""
    state, limits = Checkpoint(tmp_path / "0-fit.safetensors", {}), resource.getrlimit(resource.RLIMIT_FSIZE)
    state.write({"x": torch.zeros(1)}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ModelError, match="expected a folder with room to write to"):
            state.write({"x": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    read = state.read()
    assert read is not None
    assert len(read[0]["x"]) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_help_lists_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = capsys.readouterr().out
    assert "{droplet_cnn" not in said, "a list in braces is read by nobody"
    for name, make in RECIPES.items():
        assert re.search(rf"^  {name} +{re.escape((make.__doc__ or '?').splitlines()[0])}$", said, re.M), name


def test_a_stopped_command_says_how_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_events", stop)
    arguments = ["diffraction_ednn", "--out", str(tmp_path / "out")]
    assert train.main(arguments) == 130
    assert "the same command begins anew, as no epoch was saved" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    Checkpoint(tmp_path / "out" / STATE_FOLDER / "0-fit.safetensors", {}).write({}, {})
    assert train.main(arguments) == 130
    assert "the same command goes on from the last saved epoch" in capsys.readouterr().err


# --- own files --------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that trains on 60 images of two shapes in twelve runs, in one short epoch."""
    chosen = recipe("droplet_cnn")
    quick = replace(
        chosen,
        stages=(replace(chosen.stages[0], epochs=1, batch=16),),
        options={"labels": 11, "widths": [4], "blocks": [1]},
    )
    monkeypatch.setattr("models.train_options.recipe", lambda _: quick)
    bright = np.arange(60) % 2 * 400
    frames = np.random.default_rng(1).integers(0, 200, (60, 16, 16)) + bright[:, None, None]
    np.savez(tmp_path / "run.npz", frames=frames.astype(np.uint16))
    lines = [f"{'Ball' if i % 2 else 'Rod'},r{i % 12}" for i in range(60)]
    (tmp_path / "labels.csv").write_text("label,run\n" + "\n".join(lines) + "\n")
    data = [f"--data={tmp_path}/run.npz", "--labels", f"{tmp_path}/labels.csv", "--group", "run"]
    return ["droplet_cnn", "--out", str(tmp_path / "my_cnn"), *data, "--seed", "5"]


def test_a_bundle_of_own_files_says_what_it_is(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(own) == 0
    manifest = load_bundle(tmp_path / "my_cnn").manifest
    training = manifest.training
    assert manifest.name == "my_cnn"
    assert training["command"] == (
        "streamer train droplet_cnn --out my_cnn --data=run.npz --labels labels.csv --group run --seed 5"
    )
    assert "data" not in training
    files = dict(training["files"])
    assert re.fullmatch("[0-9a-f]{64}", files.pop("ids_sha256"))
    assert files == {
        "data": "run.npz", "labels": "labels.csv", "dataset": "", "source": "", "key": "",
        "group": "run", "named_by": "group", "events": 60,
    }  # fmt: skip
    assert training["about"] == (
        "Says which of 2 classes, which do not exclude each other, an event has: Ball, Rod."
    )
    assert training["limits"].startswith("Trained on the events of run.npz alone")
    card = (tmp_path / "my_cnn" / "MODEL_CARD.md").read_text()
    text = card + (tmp_path / "my_cnn" / "manifest.json").read_text()
    for untrue in ("imulated", "11 ", "droplet diffraction", str(tmp_path)):
        assert untrue not in text.replace('"recipe": "droplet_cnn"', ""), untrue
    assert "Events of `run.npz`, labels `labels.csv`, split by a hash of their group (`run`)" in card
    assert not (tmp_path / "my_cnn" / STATE_FOLDER).exists()
    capsys.readouterr()
    with pytest.raises(ModelError, match=r"got those of run.npz; name that file, or another"):
        held_out(manifest, tmp_path)


def test_names_of_bundles_of_own_files(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ["--out", str(tmp_path / "my-2nd.try")]
    assert "for which --name may stand" in refusal(capsys, *own, *elsewhere)
    assert train.main([*own, *elsewhere, "--name", "second"]) == 0
    assert load_bundle(tmp_path / "my-2nd.try").manifest.name == "second"


def test_only_paths_are_cut_in_the_command() -> None:
    given = ["x", "--out", "/a/b//c/", "--data=/d/e f.h5", "--source", "A/B:output", "--key", "data/image"]
    said = typed("streamer train", given, (Path("/a/b/c"), Path("/d/e f.h5"), None))
    assert said == "streamer train x --out c '--data=e f.h5' --source A/B:output --key data/image"
