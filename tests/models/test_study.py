"""The study of events and photons: what is trained on what, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from models import study
from models.data_sets.data_set import DataSet
from models.fit import Hardware
from models.manifest import ModelError
from models.recipes.droplets import droplet_cnn
from models.study import Lab, draw, faint_curve, main, noise_curve, size_curve, trained
from models.tasks.labels import LabelTask


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    recipe = droplet_cnn()
    data = replace(recipe.data, train=40, validation=16, test=24, options={"evenness": 1.0, "size_px": 32})
    options = {**recipe.options, "widths": [4], "blocks": [1]}
    tiny = replace(recipe, data=data, options=options, stages=(replace(recipe.stages[0], batch=10),))
    hardware = Hardware(torch.device("cpu"), bfloat16=False)
    return Lab(tiny, tmp_path_factory.mktemp("cache"), hardware, Console(quiet=True), steps=4)


def test_every_size_gets_its_own_training(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    trainings: list[dict[str, torch.Tensor]] = []

    def watched(lab: Lab, pair: tuple[DataSet, DataSet]) -> tuple[LabelTask, nn.Module]:
        task, network = trained(lab, pair)
        seen.append((len(pair[0]), len(pair[1])))
        trainings.append(network.state_dict())
        return task, network

    monkeypatch.setattr(study, "trained", watched)
    rows = size_curve(lab, [10, 40])
    assert [row["events"] for row in rows] == [10, 40]
    assert seen == [(10, 2), (40, 8)]  # a fifth as many choose epoch and thresholds
    first, second = (
        torch.cat([w.flatten() for w in own.values() if w.is_floating_point()]) for own in trainings
    )
    assert not torch.equal(first, second)


def test_noise_changes_the_photons_and_not_the_droplets(lab: Lab) -> None:
    faint, bright = (lab.events("test", photons=[p, p]) for p in (1e3, 1e6))
    assert torch.equal(faint.targets, bright.targets)
    assert torch.equal(faint.facts["radius_nm"], bright.facts["radius_nm"])
    assert bright.inputs.float().mean() > 2 * faint.inputs.float().mean()
    _, network = trained(lab, (lab.events("train"), lab.events("validation")))
    rows = noise_curve(lab, [1e3, 1e6], network)
    assert [row["photons"] for row in rows] == [1e3, 1e6]
    faint = faint_curve(replace(lab, steps=1), [1e6], 1e3, 12)
    assert [row["photons"] for row in faint] == [1e6]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    rows = [{"events": n, "photons": n, "macro_f1": 0.5} for n in (1000, 2000)]
    draw({"sizes": rows, "noise": rows, "faint": rows, "faint_photons": 1e4}, tmp_path / "a" / "study.png")
    assert (tmp_path / "a" / "study.png").read_bytes().startswith(b"\x89PNG")


def test_parts_left_out_are_kept_from_earlier_runs(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    rows = [{"events": 500, "macro_f1": 0.5}]
    path.write_text(json.dumps({"recipe": "droplet_cnn", "sizes": rows}))
    arguments = ["droplet_cnn", "--out", str(path), "--sizes", "", "--photons", ""]
    assert main([*arguments, "--picture", str(tmp_path / "study.png")]) == 0
    assert json.loads(path.read_text())["sizes"] == rows
    assert (tmp_path / "study.png").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("{", "something else"), ('{"recipe": "other"}', "a study of 'other'")]
)
def test_a_file_of_something_else_stays(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.json").write_text(content)
    assert main(["droplet_cnn", "--out", str(tmp_path / "s.json"), "--sizes", "", "--photons", ""]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "s.json").read_text() == content


def test_photons_need_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["droplet_cnn", "--out", str(tmp_path / "s.json"), "--sizes", ""]) == 1
    assert "--bundle: expected" in capsys.readouterr().err


def test_sizes_beyond_the_data_are_refused(lab: Lab) -> None:
    with pytest.raises(ModelError, match=r"10 to 40 training events, got \[41\]"):
        size_curve(lab, [41])


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(study.__file__).parent / "bundles" / "droplet_cnn"
    arguments = ["droplet_cnn", "--out", str(tmp_path / "s.json"), "--bundle", str(bundle), "--sizes", "x"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "--sizes: expected numbers" in said
    assert not (tmp_path / "s.json").exists()
