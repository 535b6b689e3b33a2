"""Bundles: what is written is read, and each way of being wrong is refused with a message that helps."""

import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from models.bundle import load_bundle, run_bundle, save_bundle, unpack, verify_golden
from models.manifest import BundleError, Column, Manifest, read_manifest
from models.networks.ednn import EDNN
from models.preprocess import Preprocess

POINTS = 32
STEPS = {"steps": [{"op": "dark"}, {"op": "standardise", "epsilon": 1e-6}]}


def small_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "small",
        "kind": "encoder_decoder",
        "architecture": "ednn",
        "options": {"points": POINTS, "hidden": [8], "latent": 2, "targets": 3},
        "input_shape": (POINTS,),
        "input_dtype": "uint16",
        "preprocess": STEPS,
        "columns": (Column("latent", "float32", ("a", "b")), Column("target", "float32", ("x", "y", "z"))),
        "scores": {"covered_variance": 0.5},
        "training": {"seed": 1},
        "weights_sha256": "0" * 64,
        "golden_sha256": "0" * 64,
        "created": "2026-11-20",
    }
    return Manifest(**(fields | changes))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = EDNN(POINTS, [8], 2, 3)
    preprocess = Preprocess(STEPS, (POINTS,), {"dark": torch.full((POINTS,), 3.0)})
    raw = torch.randint(0, 65535, (4, POINTS)).to(torch.uint16)
    save_bundle(tmp_path / "small", small_manifest(), (preprocess, network), raw, lambda m: f"# {m.sha256}\n")
    return tmp_path / "small"


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def replace_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Alter the weights and make the hash fit again, as a wrong export would."""
    path = directory / "weights.safetensors"
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(directory, lambda table: table.update(weights_sha256=digest))


def test_round_trip(directory: Path) -> None:
    bundle = load_bundle(directory)
    assert bundle.manifest.columns[1] == Column("target", "float32", ("x", "y", "z"))
    assert bundle.manifest.sha256 == hashlib.sha256((directory / "manifest.json").read_bytes()).hexdigest()
    verify_golden(bundle, lambda raw: run_bundle(bundle, raw))
    columns = unpack(bundle.manifest, bundle.golden_output)
    assert columns["latent"].shape == (4, 2)
    assert columns["target"].shape == (4, 3)
    assert not (directory / "weights.safetensors.part").exists()


def test_equal_preprocessing_has_equal_key(directory: Path) -> None:
    bundle = load_bundle(directory)
    same = Preprocess(STEPS, (POINTS,), {"dark": torch.full((POINTS,), 3.0)})
    other = Preprocess(STEPS, (POINTS,), {"dark": torch.full((POINTS,), 4.0)})
    assert bundle.preprocess_key == same.key() != other.key()


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors"])
def test_altered_byte_is_refused_before_parsing(directory: Path, name: str) -> None:
    content = bytearray((directory / name).read_bytes())
    content[-1] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(
        BundleError, match=rf"sha256 in .*{name}: expected [0-9a-f]{{64}}, got .*copy the whole"
    ):
        load_bundle(directory)


def test_truncated_weights_are_refused(directory: Path) -> None:
    path = directory / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="altered or cut short"):
        load_bundle(directory)


def test_weights_that_are_not_safetensors_are_refused(directory: Path) -> None:
    (directory / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    digest = hashlib.sha256(b"\x80\x04pickle").hexdigest()
    rewrite(directory, lambda table: table.update(weights_sha256=digest))
    with pytest.raises(BundleError, match="expected safetensors"):
        load_bundle(directory)


def test_missing_file_is_named(directory: Path) -> None:
    (directory / "golden.safetensors").unlink()
    with pytest.raises(BundleError, match=r"golden.safetensors: expected a readable file, got No such file"):
        load_bundle(directory)


def test_wrong_tensor_shape_is_refused(directory: Path) -> None:
    key = "network.encoder.0.weight"
    replace_weights(directory, lambda tensors: tensors.update({key: torch.zeros(8, POINTS + 1)}))
    with pytest.raises(BundleError, match=r"encoder.0.weight.*\(8, 32\).*\(8, 33\)"):
        load_bundle(directory)


def test_missing_tensor_is_refused(directory: Path) -> None:
    replace_weights(directory, lambda tensors: tensors.pop("network.target_mean"))
    with pytest.raises(BundleError, match=r"tensor names .*target_mean"):
        load_bundle(directory)


def test_missing_preprocess_array_is_refused(directory: Path) -> None:
    replace_weights(directory, lambda tensors: tensors.pop("preprocess.dark"))
    with pytest.raises(BundleError, match=r"arrays in preprocess: expected \['dark'\], got \[\]"):
        load_bundle(directory)


FAULTS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda t: t.update(extra=1), r"unknown key in .*manifest.json.*\['extra'\].*remove it"),
    (lambda t: t.pop("scores"), r"missing key .*none of \['scores'\]"),
    (lambda t: t.update(kind="gan"), r"kind in .*expected one of .*got 'gan'"),
    (lambda t: t.update(format=3), "format in .*expected 2, got 3"),
    (lambda t: t.update(format=True), "type of 'format'.*expected int, got bool"),
    (lambda t: t.update(name=7), "type of 'name'.*expected str, got int"),
    (lambda t: t.update(name="../evil"), "name in .*choose a plain name"),
    (lambda t: t.update(architecture="os_system"), "architecture in bundle 'small'.*one of"),
    (lambda t: t["options"].update(depth=3), "options in bundle 'small'.*depth"),
    (lambda t: t["options"].update(latent=0), "options in bundle 'small'.*positive sizes"),
    (lambda t: t.update(input_dtype="object"), "input_dtype in .*got 'object'"),
    (lambda t: t.update(input_dtype="float32"), "golden input in .*uint16"),
    (lambda t: t.update(input_shape=[0]), r"input_shape in .*got \[0\]"),
    (lambda t: t.update(input_shape=[2**40]), "input_shape in .*product"),
    (lambda t: t.update(columns=[]), "columns in .*got 0"),
    (lambda t: t["columns"][0].update(dtype="float16"), r"dtype in columns\[0\].*'float16'"),
    (lambda t: t["columns"][0].update(name="target"), "column names in .*each name once"),
    (lambda t: t["columns"][0].update(labels=["a", "a"]), "labels in .*different printable names"),
    (lambda t: t["columns"][0].update(unit="A"), r"unknown key in columns\[0\]"),
    (lambda t: t["columns"][0].update(labels=["a"]), "golden output in .*"),
    (lambda t: t["preprocess"]["steps"].append({"op": "exec"}), r"op in preprocess.steps\[2\].*'exec'"),
    (lambda t: t.update(golden_sha256="zz"), "golden_sha256 in .*64 hexadecimal"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_faulty_manifest_is_refused(
    directory: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(directory, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "JSON in"),
        (b"[]", "one JSON object, got list"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b" " * (1 << 20) + b"{}", "size of the manifest"),
        (b"\xff\xfe", "JSON in"),
    ],
)
def test_unreadable_manifest_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        read_manifest(tmp_path)


def test_absent_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="name the directory of a bundle"):
        read_manifest(tmp_path / "nowhere")


def test_golden_check_finds_a_wrong_answer_and_nan(directory: Path) -> None:
    bundle = load_bundle(directory)
    with pytest.raises(BundleError, match="column 'latent' in the golden check"):
        verify_golden(bundle, lambda _raw: bundle.golden_output + 1)
    with pytest.raises(BundleError, match="off by nan"):
        verify_golden(bundle, lambda _raw: bundle.golden_output * float("nan"))
    with pytest.raises(BundleError, match=r"packed output .*expected \(4, 5\), got \(4, 4\)"):
        verify_golden(bundle, lambda _raw: bundle.golden_output[:, 1:])


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": [10**9]},
        {"hidden": [200_000]},
        {"hidden": [8] * 100_000},
        {"hidden": [-8]},
        {"hidden": []},
        {"hidden": "wide"},
        {"points": 10**12},
        {"latent": 0},
        {"latent": {"a": [1]}},
        {"colour": "red"},
    ],
)
def test_hostile_options_are_refused_before_they_cost_memory(directory: Path, change: dict[str, Any]) -> None:
    rewrite(directory, lambda table: table["options"].update(change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match=r"options in|tensor .* in|tensor names in"):
        load_bundle(directory)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "KiB"


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_pipe_is_not_waited_for(directory: Path, name: str) -> None:
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(BundleError, match="expected a regular file"):
        load_bundle(directory)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"seed": "x"}, "training.seed in .*expected int, got str"),
        ({"data": 5}, "training.data in .*expected dict, got int"),
        ({"data": {"source": "droplets"}}, "missing key in training.data"),
        ({"events": {"test": "3"}}, "whole numbers from 0"),
        ({"seed": -1}, "whole numbers from 0"),
        ({"about": None}, "training.about in .*expected str"),
    ],
)
def test_hostile_training_record_is_refused(directory: Path, training: dict[str, Any], said: str) -> None:
    rewrite(directory, lambda table: table["training"].update(training))
    with pytest.raises(BundleError, match=said):
        load_bundle(directory)
