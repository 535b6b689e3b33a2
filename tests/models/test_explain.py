"""Explanations of each kind of bundle: the pictures are written, and wrong questions are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import report_cases as cases

from models.evaluate import main as evaluate_main
from models.explain import explain
from models.explain import main as explain_main
from models.manifest import ModelError
from models.report.case import make_case
from models.report.explained_classes import file_names, importance
from models.report.explained_latents import places


def written(folder: Path) -> set[str]:
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    return {path.name for path in folder.iterdir()}


def test_classes_of_frames(tmp_path: Path) -> None:
    bundle, data = cases.classifier()
    explain(bundle, data, tmp_path, ("Streak", cases.HOSTILE), 4)
    assert written(tmp_path) == {"class_Streak.png", "class_script_alert_1_script.png", "index.html"}
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert 'src="class_Streak.png"' in page
    assert "Grad-CAM++" in page


def test_classes_of_spectra_by_gradient(tmp_path: Path) -> None:
    bundle, data = cases.phases()
    explain(bundle, data, tmp_path, ("high",), 2)
    assert written(tmp_path) == {"class_high.png", "index.html"}
    assert "gradient × input" in (tmp_path / "index.html").read_text()


def test_files_of_classes_have_safe_and_different_names() -> None:
    names = ("Round", "../up", "a b", "a/b", "A-B", "αβ")
    assert file_names(names) == [
        "class_Round",
        "class_up",
        "class_a_b_2",
        "class_a_b_3",
        "class_A_B_4",
        "class_5",
    ]


def test_gradient_times_input_finds_the_only_point_that_counts() -> None:
    bundle, data = cases.phases()
    weight = bundle.network.get_parameter("dense.weight")
    weight.zero_()
    weight[1, 40] = 1.0
    worth, method = importance(make_case(bundle, data), bundle.preprocess, np.arange(15, 18), 1)
    assert method == "gradient × input"
    assert worth.shape == (3, cases.POINTS)
    assert worth.argmax(1).tolist() == [39, 39, 39]  # smoothed over three points: equal on 39..41
    np.testing.assert_allclose(worth[:, 39:42], 1, rtol=1e-5)
    assert np.delete(worth, [39, 40, 41], 1).max() == 0


def test_a_network_that_counts_is_explained_by_covering() -> None:
    """One point in four lies above 0.5: only covering those lowers p, the more of them the more."""
    bundle, data = cases.phases(cases.Votes)
    data.inputs.zero_()
    data.inputs[:, 40:56] = 1.0
    worth, method = importance(make_case(bundle, data), bundle.preprocess, np.arange(3), 1)
    assert method == "fall of p where covered"
    assert worth.shape == (3, cases.POINTS)
    assert worth[:, 42:54].min() > 0
    assert worth.max() == 1
    assert worth[:, :38].max() == 0


def test_latent_places_lie_two_deviations_around_the_mean() -> None:
    latent = np.array([[0.0, 1.0], [2.0, 1.0]])
    rows = places(latent, 0)
    assert rows[:, 1].tolist() == [1.0] * 7
    assert (rows[0, 0], rows[3, 0], rows[6, 0]) == (-1.0, 1.0, 3.0)  # mean 1, deviation 1


def test_mixture_with_and_without_a_decoder(tmp_path: Path) -> None:
    bundle, data = cases.mixture()
    explain(bundle, data, tmp_path / "with", (), 4)
    assert written(tmp_path / "with") == {"traversals.png", "mean_events.png", "index.html"}
    bundle, data = cases.mixture(cases.Mixture)
    explain(bundle, data, tmp_path / "without", (), 4)
    assert written(tmp_path / "without") == {"mean_events.png", "index.html"}
    assert "no decoder" in (tmp_path / "without" / "index.html").read_text()


@pytest.mark.parametrize("names", [("ramp", "d_angstrom"), cases.SPECTRUM])
def test_coder(tmp_path: Path, names: tuple[str, ...]) -> None:
    bundle, data = cases.coder(names)
    explain(bundle, data, tmp_path, (), 4)
    assert written(tmp_path) == {"directions.png", "mean_events.png", "index.html"}


def test_the_directions_of_a_linear_encoder(tmp_path: Path) -> None:
    bundle, data = cases.coder(cases.SPECTRUM, cases.LinearCoder, 5)
    explain(bundle, data, tmp_path, (), 4)
    assert written(tmp_path) == {"directions.png", "vectors.png", "mean_events.png", "index.html"}


def test_wrong_questions_are_refused(tmp_path: Path) -> None:
    bundle, data = cases.classifier()
    with pytest.raises(ModelError, match=r"class: expected some of .*'Streak'.*got \['Cube'\]"):
        explain(bundle, data, tmp_path, ("Cube",), 4)
    with pytest.raises(ModelError, match="at least 1, got 0"):
        explain(bundle, data, tmp_path, (), 0)
    mixture, frames = cases.mixture()
    with pytest.raises(ModelError, match="leave --class out"):
        explain(mixture, frames, tmp_path, ("Round",), 4)


@pytest.mark.parametrize("main", [evaluate_main, explain_main])
def test_the_commands_say_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int]
) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "no bundle" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
