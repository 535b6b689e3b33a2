"""The end of a run: by SIGTERM under load, by number of events, by time; and the report."""

from pathlib import Path

import pytest
from processes import RunningPipeline, simulator
from stored import Stored
from streamer.truth import SENT, read_log


@pytest.mark.timeout(240)
def test_sigterm_under_load_drains(folder: Path, noise) -> None:
    load = simulator(folder, "--kind", "noise", "--shape", "64x64", "--rate", "0", "--pulses", "64", "--bank", "256")
    with load.process, RunningPipeline(folder, noise(load.endpoint)) as pipeline:
        pipeline.ready()
        pipeline.wait_for("noise", lambda counts: counts["received"] > 5000)
        assert pipeline.stop() == 0, pipeline.text
        report = pipeline.report
    counts = report["streams"]["noise"]
    print(counts)
    assert report["closed"]
