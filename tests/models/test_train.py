"""The training command from end to end on a few events, and that a seed decides the result."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from models import train
from models.bundle import BFLOAT16, load_bundle, run_bundle, verify_golden
from models.data_sets import load_split
from models.manifest import ModelError
from models.recipes import RECIPES, Recipe, recipe

SMALL = {
    "droplet_cnn": {"labels": 11, "widths": [4, 8], "blocks": [1, 1]},
    "droplet_vae": {"latent": 2, "widths": [4, 8], "size_px": 128, "components": 2},
    "diffraction_ednn": {"points": 4023, "hidden": [16], "latent": 2, "targets": 6},
}


def small(name: str) -> Recipe:
    sizes = {"train_events": 48, "validation_events": 16, "test_events": 24, "epochs": 2, "batch": 16}
    return replace(recipe(name), options=SMALL[name], **sizes)  # type: ignore[arg-type]


def quiet() -> Console:
    return Console(quiet=True)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_becomes_a_verified_bundle(name: str, tmp_path: Path) -> None:
    written = train.train_bundle(small(name), tmp_path / "out", tmp_path / "data", quiet())
    bundle = load_bundle(tmp_path / "out")
    assert bundle.manifest == written
    verify_golden(bundle, lambda raw: run_bundle(bundle, raw))
    with torch.autocast("cpu", torch.bfloat16):
        verify_golden(bundle, lambda raw: run_bundle(bundle, raw), BFLOAT16)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert written.sha256 in card
    assert "baseline_" in card
    assert str(tmp_path) not in card + (tmp_path / "out" / "manifest.json").read_text()


def test_same_seed_same_weights(tmp_path: Path) -> None:
    hashes = [
        train.train_bundle(
            small("diffraction_ednn"), tmp_path / out, tmp_path / "data", quiet()
        ).weights_sha256
        for out in ("first", "second")
    ]
    assert hashes[0] == hashes[1]


def test_training_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    """With a learning rate of 0 no epoch improves on the first."""
    chosen = replace(small("diffraction_ednn"), learning_rate=0.0, epochs=9, patience=2)
    pair = load_split(chosen, "train", tmp_path), load_split(chosen, "validation", tmp_path)
    task = train.build_task(chosen, pair[0])
    heard: list[train.Epoch] = []
    assert train.fit(task, chosen, pair, heard.append) == 3
    assert [epoch.number for epoch in heard] == [1, 2, 3]


def test_diverging_training_says_what_to_do(tmp_path: Path) -> None:
    chosen = replace(small("diffraction_ednn"), learning_rate=float("inf"))
    with pytest.raises(ModelError, match="lower the learning rate"):
        train.train_bundle(chosen, tmp_path / "out", tmp_path / "data", quiet())


def test_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"expected one of .*droplet_cnn.*got 'gpt'"):
        recipe("gpt")


def test_splits_are_disjoint(tmp_path: Path) -> None:
    chosen = small("diffraction_ednn")
    parts = [load_split(chosen, name, tmp_path).inputs for name in ("train", "validation", "test")]
    rows = torch.cat(parts)
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_command_refuses_an_unknown_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refusal:
        train.main(["gpt", "--out", str(tmp_path)])
    assert refusal.value.code == 2
    assert "droplet_cnn" in capsys.readouterr().err
