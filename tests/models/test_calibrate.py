"""The command calibrate: what it measures, what it stores in a bundle, and when it refuses."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.bundle import load_bundle, run_bundle, save_bundle
from models.calibrate import main
from models.data_sets.data_set import DataSet
from models.manifest import Column, Manifest, ModelError, read_manifest
from models.networks.droplet_cnn import DropletCNN
from models.preprocess import Preprocess
from models.promise import TooFewError
from models.simulation.labels import CLASSES as CLASSES_OF_DROPLETS
from models.veto import Asked, Measured, calibrate, measure, removal, report, store

CLASSES = ("Streak", "Core/shell")
FILES = ("data", "labels", "dataset", "source", "key", "group", "named_by", "ids_sha256")
SIDE = 16
STEPS = {"steps": [{"op": "scale", "offset": 100.0, "factor": 1.0}]}
COLUMNS = (Column("p", "float32", CLASSES), Column("labels", "uint32"))
OPTIONS = {"labels": 2, "widths": [4], "blocks": [1]}
TRAINING = {
    "about": "Says something.", "origin": "nobody", "parameters": 7, "command": "none", "stages": [],
    "seed": 3, "cpu_s": 1.0, "events_per_s": 1.0, "limits": "All.",
    "events": {"train": 1, "validation": 1, "test": 1},
}  # fmt: skip


def manifest_of(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "tiny", "kind": "classifier", "architecture": "droplet_cnn", "options": OPTIONS,
        "input_shape": (SIDE, SIDE), "input_dtype": "uint16", "preprocess": STEPS, "columns": COLUMNS,
        "scores": {}, "training": TRAINING, "weights_sha256": "", "golden_sha256": "",
        "created": "2026-11-20",
    }  # fmt: skip
    return Manifest(**(fields | changes))


def make(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(1)
    modules = Preprocess(STEPS, (SIDE, SIDE)), DropletCNN(**OPTIONS).eval()  # type: ignore[arg-type]
    golden = torch.from_numpy(frames(4))
    save_bundle(folder, manifest_of(**changes), modules, golden, lambda m: f"# {m.name}\n")
    return folder


def frames(n: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scale = generator.uniform(1, 200, (n, 1, 1))
    return (100 + generator.exponential(1, (n, SIDE, SIDE)) * scale).astype(np.uint16)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make(tmp_path / "tiny")


def events(directory: Path, n: int = 400, seed: int = 2) -> DataSet:
    """A quarter has the class, rather those with a high p."""
    raw = torch.from_numpy(frames(n, seed))
    p = run_bundle(load_bundle(directory), raw)[:, 0].numpy()
    rank = np.argsort(np.argsort(p + np.random.default_rng(1).normal(0, p.std() / 2, n)))
    truth = np.stack([rank >= 3 * n // 4, rank % 2 == 0], 1)
    return DataSet(raw, torch.from_numpy(truth.astype(np.float32)), CLASSES)


def test_the_threshold_holds_in_both_precisions(directory: Path) -> None:
    bundle, data = load_bundle(directory), events(directory)
    result = calibrate(bundle, {"test": data}, Asked("Streak", 0.9, 0.9), "held-out test")
    truth = data.targets[:, 0].numpy() > 0.5
    exact = run_bundle(bundle, data.inputs)[:, 0].double().numpy()
    with torch.autocast("cpu", torch.bfloat16):
        rough = run_bundle(bundle, data.inputs)[:, 0].double().numpy()
    assert not np.array_equal(exact, rough), "bfloat16 rounds"
    smaller = np.sort(np.minimum(exact, rough)[truth])
    entry = result.entry
    assert math.isclose(entry.threshold, smaller[result.promise.rank - 1] * (1 - 2**-8), rel_tol=1e-4)
    for p in (exact, rough):
        assert (p[truth] >= entry.threshold).mean() >= 0.9
        assert (p < entry.threshold).mean() >= entry.removed_share - 1e-5
    assert (entry.positives, entry.recall, entry.confidence) == (100, 0.9, 0.9)
    assert 0.1 < entry.removed_share < 0.9
    found = result.removals["test"]
    assert found.interval[0] < found.share < found.interval[1]
    assert found.of_others > found.share


def test_both_classes_are_found_in_their_columns(directory: Path) -> None:
    bundle, data = load_bundle(directory), events(directory, 40)
    packed = run_bundle(bundle, data.inputs).double().numpy()
    for index, label in enumerate(CLASSES):
        found = measure(bundle, data, label)
        assert np.all((found.low <= packed[:, index] + 1e-6) & (packed[:, index] - 1e-6 <= found.high))
        assert np.array_equal(found.truth, data.targets[:, index].numpy() > 0.5)


def test_what_has_no_p_is_not_removed() -> None:
    p, truth = np.array([0.1, np.nan, 0.9, 0.2]), np.array([False, False, True, True])
    found = removal(Measured(p, p, truth), 0.5, 0.95)
    assert (found.share, found.of_others, found.kept) == (0.5, 0.5, 0.5)


def test_a_second_threshold_joins_the_first_and_a_new_one_replaces_it(
    directory: Path, tmp_path: Path
) -> None:
    bundle, data = load_bundle(directory), events(directory)
    old = {name: (directory / name).read_bytes() for name in ("weights.safetensors", "golden.safetensors")}
    manifest = bundle.manifest
    for asked in (Asked("Streak", 0.9, 0.9), Asked("Core/shell", 0.8, 0.9), Asked("Streak", 0.5, 0.9)):
        manifest = store(directory, manifest, calibrate(bundle, {"t": data}, asked, "t").entry)
    assert [(c.label, c.recall) for c in manifest.calibrated] == [("Core/shell", 0.8), ("Streak", 0.5)]
    assert read_manifest(directory) == manifest
    assert manifest.sha256 != bundle.manifest.sha256
    assert all((directory / name).read_bytes() == content for name, content in old.items())
    card = (directory / "MODEL_CARD.md").read_text()
    assert manifest.sha256 in card
    assert "Core/shell" in card
    assert sorted(path.name for path in directory.iterdir()) == [
        "MODEL_CARD.md", "golden.safetensors", "manifest.json", "weights.safetensors",
    ]  # fmt: skip
    copy = store(directory, manifest, manifest.calibrated[0], tmp_path / "copy")
    assert load_bundle(tmp_path / "copy").manifest == copy
    assert read_manifest(directory) == manifest, "--out leaves the bundle as it was"
    with pytest.raises(ModelError, match="expected a new folder, got one that holds a bundle"):
        store(directory, manifest, manifest.calibrated[0], tmp_path / "copy")


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def command(directory: Path, tmp_path: Path) -> Callable[..., int]:
    """The command on a file of 400 labelled events."""
    data = events(directory)
    np.savez(tmp_path / "run.npz", frames=data.inputs.numpy())
    lines = [",".join(str(int(v)) for v in row) for row in data.targets.tolist()]
    (tmp_path / "labels.csv").write_text(",".join(CLASSES) + "\n" + "\n".join(lines))

    def run(*more: str) -> int:
        where = [str(directory), str(tmp_path / "run.npz"), "--labels", str(tmp_path / "labels.csv")]
        return main([*where, "--all-events", *more])

    return run


def test_the_command_on_files(
    command: Callable[..., int], directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--class", "Core/shell", "--recall", "0.95", "--confidence", "0.9") == 0
    (entry,) = read_manifest(directory).calibrated
    out = capsys.readouterr().out
    assert (entry.label, entry.positives, entry.data) == ("Core/shell", 200, "run.npz")
    assert f"p >= {entry.threshold:.6g}" in out
    assert "p.Core_shell >= calibrated.Core_shell" in out
    assert f"removes {entry.removed_share:.2%} of 400 events (90% interval" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--class", "Blob"], r"expected one of ['Streak', 'Core/shell'], got 'Blob'"),
        (["--class", "Streak"], "100 have the class, 299 are needed to promise recall 0.99"),
        (["--class", "Streak", "--recall", "1.5"], "recall: expected a number between 0 and 1"),
        (["--class", "Streak", "--dataset", "none"], "name it with --dataset; there are: frames"),
    ],
)
def test_the_command_says_why_not(
    command: Callable[..., int],
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    before = read_manifest(directory)
    assert command(*more) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert read_manifest(directory) == before


def test_held_out_needs_a_bundle_that_was_trained_on_simulated_events(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(directory), "--class", "Streak"]) == 1
    assert "got a manifest that names no data" in " ".join(capsys.readouterr().err.split())
    files = make(directory.parent / "files", training=TRAINING | {"files": {"data": "run.h5"}})
    assert main([str(files), "--class", "Streak"]) == 1
    assert "got those of run.h5; name that file, or another" in " ".join(capsys.readouterr().err.split())


def test_a_bundle_trained_on_files_is_calibrated_on_what_its_split_held_out(
    directory: Path, tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    del command  # it wrote the files
    own = {"files": dict.fromkeys(FILES, "") | {"data": "run.npz", "named_by": "content"}}
    directory = make(tmp_path / "own", training=TRAINING | own)
    where = [str(directory), str(tmp_path / "run.npz"), "--labels", str(tmp_path / "labels.csv")]
    assert main([*where, "--class", "Core/shell", "--recall", "0.9"]) == 0
    (entry,) = read_manifest(directory).calibrated
    assert 20 < entry.positives < 40, "about 15 % of 200"
    capsys.readouterr()


def test_held_out_events_that_are_too_few_can_be_had_in_plenty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real simulation of the catalogue, of some events; what is missing is said in its terms."""
    shape, classes = (128, 128), CLASSES_OF_DROPLETS
    columns = (Column("p", "float32", classes), Column("labels", "uint32"))
    data = {"source": "droplets", "train": 1, "validation": 1, "test": 6, "options": {}}
    options = OPTIONS | {"labels": len(classes)}
    modules = Preprocess(STEPS, shape), DropletCNN(**options).eval()  # type: ignore[arg-type]
    given = manifest_of(
        columns=columns, options=options, input_shape=shape, training=TRAINING | {"data": data}
    )
    golden = torch.randint(0, 1000, (4, *shape)).to(torch.uint16)
    save_bundle(tmp_path / "b", given, modules, golden, lambda _: "#\n")
    where = [str(tmp_path / "b"), "--class", "Spherical_Oblate", "--cache", str(tmp_path / "cache")]
    assert main([*where, "--recall", "0.9"]) == 1
    text = " ".join(capsys.readouterr().err.split())
    assert re.search(r"[3-6] have the class, 29 are needed .* --events (3\d|4\d|5\d|6\d) simulates", text), (
        text
    )
    assert main([*where, "--recall", "0.5", "--confidence", "0.6", "--split", "nowhere"]) == 1
    assert "expected one of ['test', 'natural'], got 'nowhere'" in " ".join(capsys.readouterr().err.split())
    assert main([*where, "--recall", "0.5", "--confidence", "0.6", "--split", "natural"]) == 0
    (entry,) = read_manifest(tmp_path / "b").calibrated
    assert entry.data == "held-out natural"
    assert main([*where, "--recall", "0.5", "--confidence", "0.6", "--events", "9"]) == 0
    assert "of 9 events" in capsys.readouterr().out
    assert main([*where, "--events", "0"]) == 1


def test_bundles_without_probabilities_have_no_threshold(tmp_path: Path) -> None:
    other = (Column("mu", "float32", ("a", "b")), Column("labels", "uint32"))
    bundle = load_bundle(make(tmp_path / "b", kind="vae_mixture", columns=other))
    with pytest.raises(ModelError, match=r"expected one of kind classifier or phases.*got vae_mixture"):
        calibrate(bundle, {}, Asked("a", 0.9, 0.9), "t")


def test_events_that_do_not_know_the_class(directory: Path) -> None:
    data = events(directory, 8)
    renamed = DataSet(data.inputs, data.targets, ("Streak", "Bent"))
    with pytest.raises(
        ModelError, match=r"expected among the labels of the events, got \['Streak', 'Bent'\]"
    ):
        calibrate(load_bundle(directory), {"t": renamed}, Asked("Core/shell", 0.9, 0.9), "t")
    none = DataSet(data.inputs, data.targets * 0, CLASSES)
    with pytest.raises(TooFewError, match="0 have the class"):
        calibrate(load_bundle(directory), {"t": none}, Asked("Streak", 0.9, 0.9), "t")


def test_the_first_split_is_chosen_on_and_the_others_are_looked_at(directory: Path) -> None:
    bundle = load_bundle(directory)
    splits = {"a": events(directory), "b": events(directory, 100, seed=9)}
    result = calibrate(bundle, splits, Asked("Streak", 0.9, 0.9), "held-out a")
    assert [r.events for r in result.removals.values()] == [400, 100]
    assert result.entry.positives == 100
    text = report(result)
    assert "a: removes" in text
    assert "b: removes" in text
