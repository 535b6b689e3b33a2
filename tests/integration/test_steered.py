"""A person turns the knobs of a running pipeline: rules, storing; from the command line, and journalled."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from processes import RunningPipeline, simulator

Write = Callable[..., str]

LOAD = ("--kind", "noise", "--shape", "16x16", "--rate", "20", "--pulses", "8")
ROUTES = """
[[stream.route]]
name = "first"
when = "pulse_id < 1"
[[stream.route]]
name = "off"
enabled = false
"""


def steer(pipeline: RunningPipeline, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamer.cli", "steer", "noise", "--socket", pipeline.control]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=50)


def after(pipeline: RunningPipeline, messages: int) -> dict[str, Any]:
    """The counts when so many more messages have come."""
    reached = pipeline.counts("noise")["messages"]
    return pipeline.wait_for("noise", lambda counts: counts["messages"] >= reached + messages)


@pytest.mark.timeout(240)
def test_rules_and_storing_change_while_the_stream_runs(folder: Path, noise: Write) -> None:
    load = simulator(folder, *LOAD)
    text = noise(load.endpoint, shape=[16, 16], routes=ROUTES)
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready()
        before = after(pipeline, 10)
        assert before["kept"]["off"] == 0
        done = steer(pipeline, "--route", "off", "--when", "pulse_id >= 6", "--enable")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["run"], answer["routes"][1]["when"]) == (1, "pulse_id >= 6")
        assert after(pipeline, 10)["kept"]["off"] > 0, "the ledger shows it"
        assert steer(pipeline, "--no-store").returncode == 0
        quiet = after(pipeline, 10)
        assert quiet["not_stored"] > 0
        assert steer(pipeline, "--store").returncode == 0
        refused = steer(pipeline, "--route", "off", "--when", "p.nothing > 1")
        assert refused.returncode == 2
        assert "unknown name 'p.nothing'" in " ".join(refused.stderr.split())
        after(pipeline, 10)
        pipeline.kill_stage("noise.inference")
        steering = pipeline.status()["steering"]["noise"]
        assert (steering["version"], steering["routes"][1]["enabled"], steering["store"]) == (4, True, True)
        after(pipeline, 10)
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert_files(folder / "out/r0001", counts)
    assert_journal(folder / "out/r0001/steering.jsonl")


def assert_files(run: Path, counts: dict[str, Any]) -> None:
    """Everything that was kept while storing was on is there, each file with its own rules."""
    stored, rules = 0, set()
    for path in run.glob("noise/*/*.h5"):
        with h5py.File(path) as file:
            trains = file["INSTRUMENT/noise/STREAMER/RESULTS:output/data/trainId"][:]
            stored += int((trains > 0).sum())
            rules.add(file["RUN/noise/STREAMER/RULES/rules/value"][0].decode())
    kept = sum(counts["kept"].values()) + sum(counts["failopen"].values())
    assert stored == kept - counts["not_stored"]
    assert {json.loads(text)[1]["enabled"] for text in rules} == {False, True}


def assert_journal(path: Path) -> None:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["by"] for entry in entries] == ["command line"] * 4
    assert entries[0]["before"]["routes"][1]["enabled"] is False
    assert entries[0]["after"]["routes"][1]["when"] == "pulse_id >= 6"
    assert [entry["after"]["store"] for entry in entries[1:3]] == [False, True]
    assert "unknown name" in entries[3]["refused"]
