"""Reports of each kind of bundle: they run, say what is true, and refuse what does not fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_cases as cases
import torch

from models.bundle import Bundle, save_bundle
from models.data_sets.data_set import DataSet
from models.evaluate import Source, evaluate, main
from models.manifest import Column, ModelError
from models.networks.ednn import EDNN
from models.report.case import Case, make_case
from models.report.labelled import Labelled, notes_on_classes
from models.report.output import write
from models.report.veto import veto_parts

SOURCE = Source("held-out", "streamer evaluate tiny --out here")


def run(pair: tuple[Bundle, DataSet], out: Path) -> dict[str, Any]:
    report = evaluate(pair[0], {"test": pair[1]}, out, SOURCE)
    assert json.loads((out / "report.json").read_text()) == report
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "ab" * 32 in page
    result: dict[str, Any] = report["results"]["test"]
    return result


def without_labels(data: DataSet) -> DataSet:
    return DataSet(data.inputs, torch.zeros(len(data), 0), (), data.facts)


def test_classifier_report(tmp_path: Path) -> None:
    bundle, data = cases.classifier()
    report = evaluate(bundle, {"test": data}, tmp_path, SOURCE)
    assert cases.HOSTILE not in (tmp_path / "report.html").read_text()
    assert (report["sha256"], report["data"], report["command"]) == ("ab" * 32, "held-out", SOURCE.command)
    assert set(report["versions"]) == {"python", "torch", "numpy", "matplotlib"}
    assert report["scores_at_training"] == bundle.manifest.scores
    scores = report["results"]["test"]["scores"]
    truth = data.targets.numpy() > 0.5
    sets, counts = np.unique(truth, axis=0, return_counts=True)
    majority = np.broadcast_to(sets[counts.argmax()], truth.shape)
    assert scores["baseline_bit_accuracy"] == pytest.approx((truth == majority).mean(), abs=1e-5)
    streak = scores["classes"]["Streak"]
    assert streak["support"] == truth[:, 1].sum()
    total = sum(
        streak[f"{sign}_{answer}"] for sign in ("true", "false") for answer in ("positive", "negative")
    )
    assert total == len(data)
    assert scores["calibrated"]["Streak"]["threshold"] == 0.25
    assert len(scores["co_occurrence"]) == 3
    assert scores["baseline_events"] == "these events"


def test_the_majority_is_that_of_the_training_events_where_recorded(tmp_path: Path) -> None:
    bundle, data = cases.classifier()
    keys = ("macro_f1", "macro_average_precision", "exact_match", "bit_accuracy")
    recorded = {f"baseline_{key}": 0.125 for key in keys} | {"baseline_other_macro_f1": 0.4375}
    told = replace(bundle, manifest=replace(bundle.manifest, scores={"test": recorded}))
    scores = run((told, data), tmp_path)["scores"]
    assert {scores[f"baseline_{key}"] for key in keys} == {0.125}
    assert scores["baseline_events"] == "the training events"
    page = (tmp_path / "report.html").read_text()
    assert "always the most frequent label set of the training events" in page
    assert "other 0.438" in page  # another method; the majority itself stands in one column alone
    assert "baseline 0.125" not in page
    assert make_case(told, data, origin="test").recorded == {}  # a file of that name


def labelled(case: Case, truth: list[list[bool]], said: list[list[bool]]) -> Labelled:
    return Labelled(case.labels("p"), np.array(truth), case.columns["p"][: len(truth)], np.array(said))


def test_classes_without_a_score_are_named() -> None:
    case = make_case(*cases.classifier(4))
    own = labelled(case, [[True, False, False]] * 2, [[True, False, True]] * 2)
    silent, wrong = notes_on_classes(case, own)
    assert silent.startswith("No event has the class Streak, and of none it was said")
    assert wrong.startswith(f"No event has the class {cases.HOSTILE}, yet it was said")
    part = Labelled(own.names[:2], own.truth[:, :2], own.p[:, :2], own.said[:, :2])
    assert f"do not tell of {cases.HOSTILE}" in notes_on_classes(case, part)[-1]


def test_a_threshold_is_not_tested_on_the_split_that_it_was_chosen_on() -> None:
    bundle, data = cases.classifier(4)
    chosen = replace(bundle.manifest.calibrated[0], data="held-out test")
    promised = replace(bundle, manifest=replace(bundle.manifest, calibrated=(chosen,)))
    bare = replace(bundle, manifest=replace(bundle.manifest, calibrated=()))
    said = {}
    for name, own, origin in (
        ("here", promised, "test"),
        ("else", promised, "natural"),
        ("bare", bare, "test"),
    ):
        case = make_case(own, data, origin=f"held-out {origin}")
        truth = [[True, False, True], [False, True, False]]
        said[name] = " ".join(
            getattr(p, "caption", str(p)) for p in veto_parts(case, labelled(case, truth, truth))
        )
    assert [name for name, text in said.items() if "no test of the promise" in text] == ["here"]
    assert [name for name, text in said.items() if "Orange diamond" in text] == ["here", "else"]


def test_phases_report_along_runs(tmp_path: Path) -> None:
    """Votes says `high` where most points lie above 0.5: that is right for every curve."""
    scores = run(cases.phases(cases.Votes), tmp_path)["scores"]
    assert scores["accuracy"] == 1.0
    assert scores["baseline_accuracy"] == pytest.approx(18 / 30)
    assert scores["macro_f1"] == 1.0
    assert scores["confusion"] == [[12, 0, 0], [0, 18, 0], [0, 0, 0]]
    assert [ramp["boundary"] for ramp in scores["ramps"]] == [6, 6]
    assert [ramp["boundary_error_curves"] for ramp in scores["ramps"]] == [0, 0]
    assert [ramp["p_conf"] for ramp in scores["ramps"]] == [1.0, 1.0]


def test_phases_with_two_classes_an_event_are_refused(tmp_path: Path) -> None:
    bundle, data = cases.phases()
    targets = data.targets.clone()
    targets[3] = 1.0
    twice = DataSet(data.inputs, targets, data.target_names)
    with pytest.raises(ModelError, match=r"exactly one class an event.*none or several for 1 of 30"):
        run((bundle, twice), tmp_path)


def test_mixture_report(tmp_path: Path) -> None:
    bundle, data = cases.mixture()
    result = run((bundle, data), tmp_path)
    scores = result["scores"]
    assert sum(scores["events_per_cluster"].values()) == len(data)
    assert sum(map(sum, scores["cluster_by_class"]["events"])) == len(data)
    assert set(scores["kl_nats"]) == {"z0", "z1"}
    assert 0 <= scores["homogeneity"] <= 1


def test_a_collapsed_dimension_is_named_with_a_remedy(tmp_path: Path) -> None:
    bundle, data = cases.mixture()
    bundle.network.get_parameter("encoder.weight")[1] = 0
    bundle.network.get_parameter("encoder.bias")[1] = 0
    notes = run((bundle, data), tmp_path)["notes"]
    assert any("z1" in note and "smaller beta" in note for note in notes)


def test_one_class_only_is_said(tmp_path: Path) -> None:
    bundle, data = cases.mixture()
    same = DataSet(data.inputs, torch.eye(2)[torch.zeros(len(data), dtype=torch.int64)], ("Round", "Streak"))
    result = run((bundle, same), tmp_path)
    assert "homogeneity" not in result["scores"]  # it would be 1 whatever the clusters are
    assert any("All events are of class Round" in note for note in result["notes"])


@pytest.mark.parametrize("names", [("ramp", "d_angstrom"), cases.SPECTRUM])
def test_structure_report(tmp_path: Path, names: tuple[str, ...]) -> None:
    bundle, data = cases.coder(names)
    scores = run((bundle, data), tmp_path)["scores"]
    with torch.no_grad():
        said = bundle.network(data.inputs[:, None])[:, 2:].numpy()
    truth = data.targets.numpy()
    scale = 1.0 if len(names) > 32 else truth.std(0)
    lost = np.square((truth - said) / scale).sum() / np.square((truth - truth.mean(0)) / scale).sum()
    assert scores["covered_variance"] == pytest.approx(1 - lost, abs=1e-4)
    assert ("targets" in scores) == (len(names) <= 32)


@pytest.mark.parametrize("make", [cases.classifier, cases.phases, cases.mixture, cases.coder])
def test_without_labels_the_rest_is_reported_and_says_so(tmp_path: Path, make: Any) -> None:
    bundle, data = make()
    result = run((bundle, without_labels(data)), tmp_path)
    assert any("no labels" in note or "no targets" in note for note in result["notes"])
    assert "accuracy" not in result["scores"]
    assert "covered_variance" not in result["scores"]


def test_some_classes_only(tmp_path: Path) -> None:
    bundle, data = cases.classifier()
    part = DataSet(data.inputs, data.targets[:, [1, 0]], ("Streak", "Round"))
    result = run((bundle, part), tmp_path)
    assert list(result["scores"]["classes"]) == ["Round", "Streak"]
    assert any("not scored" in note for note in result["notes"])
    assert result["scores"]["classes"]["Streak"]["support"] == int(data.targets[:, 1].sum())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle, data = cases.classifier()
    strange = DataSet(data.inputs, data.targets, ("Round", "Streak", "Cube"))
    with pytest.raises(ModelError, match=r"bundle 'tiny'.*Cube.*rename or remove"):
        run((bundle, strange), tmp_path)
    with pytest.raises(ModelError, match=r"expected events of shape \[16, 16\], got \[8, 16\]"):
        run((bundle, DataSet(data.inputs[:, :8], data.targets, data.target_names)), tmp_path)
    with pytest.raises(ModelError, match="at least 2 events, got 1"):
        run((bundle, data.take(torch.tensor([0]))), tmp_path)
    broken = data.inputs.clone()
    broken[5] = float("nan")
    with pytest.raises(ModelError, match="1 of 24 events; look for NaN"):
        run((bundle, DataSet(broken, data.targets, data.target_names)), tmp_path)


def saved_coder(folder: Path) -> Path:
    """A bundle on disk, of an architecture that the package lists; two numbers out of 12 points."""
    torch.manual_seed(0)
    options = {"points": 12, "hidden": [4], "latent": 2, "targets": 2}
    columns = (Column("latent", "float32", ("t0", "t1")), Column("target", "float32", ("length", "angle")))
    fields = {
        "columns": columns,
        "architecture": "ednn",
        "options": options,
        "training": {
            "seed": 1,
            "data": {"source": "elsewhere", "train": 1, "validation": 1, "test": 1, "options": {}},
        },
    }
    network = EDNN(12, [4], 2, 2).eval()
    bundle = cases.bundle_of("encoder_decoder", network, (12,), **fields)
    save_bundle(folder, bundle.manifest, (bundle.preprocess, network), torch.rand(2, 12), lambda m: m.name)
    return folder


def test_the_command_reports_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, out = saved_coder(tmp_path / "bundle"), tmp_path / "out"
    np.savez(tmp_path / "events.npz", curves=np.random.default_rng(0).random((9, 12), np.float32))
    rows = [f"{i},{i / 10},{90 + i}" for i in range(9)]
    (tmp_path / "events.csv").write_text("\n".join(["index,length,angle", *rows]) + "\n")
    options = ["--labels", str(tmp_path / "events.csv"), "--out", str(out)]
    assert main([str(bundle), str(tmp_path / "events.npz"), *options]) == 0
    assert "report.html" in "".join(capsys.readouterr().out.split())
    report = json.loads((out / "report.json").read_text())
    assert report["results"]["events.npz"]["events"] == 9
    assert set(report["results"]["events.npz"]["scores"]["targets"]) == {"length", "angle"}
    assert report["command"].startswith("streamer evaluate")


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="name another with --out"):
        write(tmp_path / "file" / "report.html", "")
