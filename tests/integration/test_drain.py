"""The end of a run: by SIGTERM under load, by number of events, by time; and its report."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import RunningPipeline, simulator
from stored import judge

Write = Callable[..., str]

PULSES = 64
NOBODY = "tcp://127.0.0.1:9"
NUMBERS = ("received", "vetoed", "in_flight", "missing_upstream", "duplicates", "events_per_s")
GROUPS = ("kept", "failopen", "shed", "rejected")
HALF = '[[stream.route]]\nname = "half"\none_in = 2'


def load_of(folder: Path, rate: float) -> Any:
    shape = ("--kind", "noise", "--shape", "64x64", "--bank", "256")
    # Nobody reads after the end of the run: nothing to flush to.
    return simulator(folder, *shape, "--rate", str(rate), "--pulses", str(PULSES), "--linger", "0")


def assert_complete(report: dict[str, Any]) -> dict[str, Any]:
    """The fields that the report promises; the ledger's line adds up. Gives the stream's part."""
    assert set(report) == {"closed", "duration_s", "streams", "versions"}
    assert report["closed"] is True
    assert {"streamer", "python", "torch", "numpy"} <= set(report["versions"])
    counts: dict[str, Any] = report["streams"]["noise"]
    assert all(isinstance(counts[name], int | float) for name in NUMBERS)
    assert all(isinstance(counts[name], dict) for name in GROUPS)
    assert set(counts["verdict_latency_s"]) == {"p50", "p99"}
    assert counts["bundles"] == []
    outcomes = counts["vetoed"] + sum(sum(counts[name].values()) for name in ("kept", "failopen", "shed"))
    assert counts["received"] == outcomes + counts["in_flight"]
    assert counts["messages"] == counts["accepted"] + sum(counts["rejected"].values())
    assert counts["in_flight"] == 0
    return counts


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_drains(folder: Path, noise: Write, number: int) -> None:
    """As fast as the machine can: what is read is finished. What was not read is not ours, nor lost by us."""
    load = load_of(folder, 0)
    with load.process, RunningPipeline(folder, noise(load.endpoint, routes=HALF)) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 5000)
        assert pipeline.stop(number) == 0, pipeline.text
        counts = assert_complete(pipeline.report)
        assert "The ledger closes." in pipeline.text
    assert counts["missing_upstream"] == 0
    not_read = len_sent(load) - counts["received"]
    judge(folder / "out/r0001", load.log, counts, left_out=-not_read)


def len_sent(load: Any) -> int:
    sent: int = load.stop()["events_sent"]
    return sent


@pytest.mark.timeout(240)
def test_a_number_of_events_ends_the_run(folder: Path, noise: Write) -> None:
    load = load_of(folder, 20)
    with load.process, RunningPipeline(folder, noise(load.endpoint), "--events", "1000") as pipeline:
        assert pipeline.wait(180) == 0, pipeline.text
        counts = assert_complete(pipeline.report)
    assert counts["received"] >= 1000
    assert counts["kept"] == {"all": counts["received"]}


@pytest.mark.timeout(240)
def test_a_duration_ends_the_run_without_any_event(folder: Path, noise: Write) -> None:
    with RunningPipeline(folder, noise(NOBODY), "--duration", "1") as pipeline:
        assert pipeline.wait(180) == 0, pipeline.text
        report = pipeline.report
    counts = assert_complete(report)
    assert report["duration_s"] >= 1
    assert counts["received"] == 0
    assert counts["verdict_latency_s"] == {"p50": None, "p99": None}


@pytest.mark.timeout(240)
def test_a_signal_during_the_start_ends_cleanly(folder: Path, noise: Write) -> None:
    with RunningPipeline(folder, noise(NOBODY)) as pipeline:
        pipeline.wait_to_answer()
        assert pipeline.stop() == 0, pipeline.text
        assert_complete(pipeline.report)
