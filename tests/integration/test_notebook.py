"""The example notebook runs from first cell to last against a real pipeline; it is stored without outputs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from processes import RunningPipeline, free_port, simulator

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "live.ipynb"
# Few different images, so that simulating them takes no time; 480 events a second leave a core idle.
LOAD = ("--kind", "droplets", "--bank", "48", "--pulses", "16", "--rate", "30", "--evenness", "0.3")
CELL_S = 50


@pytest.fixture
def running(folder: Path) -> Iterator[dict[str, str]]:
    """A pipeline with the shipped droplet bundles; what the notebook is told of it."""
    results = f"tcp://127.0.0.1:{free_port()}"
    serving = simulator(folder, *LOAD)
    text = TEXT.format(folder=folder, source=serving.endpoint, results=results, verdicts=free_port())
    with serving.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready()
        yield {"STREAMER_RESULTS": results, "STREAMER_RUN_FOLDER": f"{folder}/out/r0001"}


TEXT = """
[output]
directory = "{folder}/out"
[metrics]
serve = false
[dashboard]
serve = false
[[stream]]
name = "droplets"
bundles = ["droplet_cnn", "droplet_vae"]
[stream.source]
endpoint = "{source}"
socket = "PULL"
source = "SIM_DET_DROPLETS/DET/CAM:output"
key = "image.data"
pulse_key = "image.pulseId"
axes = "pulse slow fast"
shape = [128, 128]
dtype = "uint16"
[stream.publish]
results = "{results}"
verdicts = "tcp://127.0.0.1:{verdicts}"
[[stream.route]]
name = "streaks"
when = "p.Streak >= calibrated.Streak"
[[stream.route]]
name = "sample"
one_in = 100
"""


def cells() -> list[Any]:
    found: list[Any] = nbformat.read(NOTEBOOK, as_version=4).cells
    return found


def test_the_notebook_is_stored_without_outputs_and_places() -> None:
    raw = NOTEBOOK.read_text()
    for cell in cells():
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    assert not re.search(r"/(home|tmp|work|root|Users)/", raw)
    assert "ipywidgets" not in raw
    assert set(json.loads(raw)["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.timeout(300)  # on a busy machine: 120 s to start, as long for the cells, 60 s to stop
def test_the_notebook_runs_against_a_real_pipeline(
    running: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    for name, value in running.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=CELL_S, kernel_name="python3", resources=resources).execute()
    printed, pictures = outputs(notebook)
    assert "'droplet_cnn', 'droplet_vae'" in printed
    assert "('streaks', 'sample')" in printed
    assert re.search(r"kept at 0\.5: 0\.\d+", printed)
    assert pictures >= 4
    found = re.search(
        r"(\d+) of (\d+) events of the table are in the files, (\d+) with the same verdict", printed
    )
    assert found, printed[-2000:]
    assert found[1] == found[2] == found[3] == "2000"


def outputs(notebook: Any) -> tuple[str, int]:
    """Everything printed, and the number of pictures."""
    printed, pictures = "", 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            printed += output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            pictures += "image/png" in output.get("data", {})
    return printed, pictures
