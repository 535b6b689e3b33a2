"""Every row of the benchmark still runs and says what it should; the numbers of a short run mean nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq

from benchmarks import __main__ as everything
from benchmarks import floors
from benchmarks.__main__ import ROWS
from benchmarks.events import NULL_LOADS
from benchmarks.helper import ROOT, BenchmarkError, Helper, cpu_s, wait_until
from benchmarks.models import HEADLINES
from benchmarks.receivers import FRAMES_PART
from benchmarks.sender import FIRST_TRAIN_ID, KEY, PULSE_KEY, SOURCE
from benchmarks.table import measured, ratio
from models.manifest import read_manifest
from models.shipped import find_bundle, shipped_names
from streamer.wire.karabo_bridge import decode


def _benchmarks(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", module, *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


# What each part must print; a test of its own each, for all together take minutes on a busy machine.
PRINTED = {
    "floors": {"floor: messages of 2.56 kB", "floor: messages of 8 MiB"},
    "ingest": {"ingest 33 kB", "ingest 67 MB"},
    "events": {"CPU beyond the model"},
    "null": {f"no model, {NULL_LOADS[0].name}", f"no model, {NULL_LOADS[-1].name}"},
    "latency": {"latency, 120 Hz x 1", "latency, 10 Hz x 64"},
}
CONTENDERS = {"events": {"whole pipeline"}, "null": {"whole pipeline", "and stored", "generated in memory"}}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("leaks")
@pytest.mark.parametrize("part", ROWS)
def test_a_quick_run_prints_every_row_and_writes_the_file(folder: Path, part: str) -> None:
    done = _benchmarks("benchmarks", "--quick", "--only", part, "--output", str(folder))
    assert done.returncode == 0, done.stderr
    (written,) = folder.glob("*.json")
    found = json.loads(written.read_text())
    rows = {line["row"] for line in found["lines"]}
    assert PRINTED[part] <= rows
    assert sum(row.startswith("no model") for row in rows) == (2 if part == "null" else 0)
    assert CONTENDERS.get(part, set()) <= {line["contender"] for line in found["lines"]}
    assert all(row in done.stdout for row in rows)
    assert found["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert {"date", "commit", "versions", "options"} <= set(found)
    rates = [line["measured"]["low"] for line in found["lines"] if line["unit"] != "us/event"]
    assert min(rates) > 0


def test_every_part_runs_if_none_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two short ones of the real ones stand for all."""
    monkeypatch.setattr(everything, "ROWS", {"copies": floors.copies, "hand-overs": floors.hand_overs})
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick"])
    assert everything.main() == 0
    printed = capsys.readouterr()
    assert "floor: numpy copy" in printed.out
    assert "floor: ring in shared memory" in printed.out
    assert [line.partition(":")[0] for line in printed.err.splitlines()] == ["copies", "hand-overs"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to measure")
def test_the_gpu_benchmark_says_in_one_line_that_there_is_no_device() -> None:
    done = _benchmarks("benchmarks.gpu")
    assert done.returncode == 0
    assert done.stdout.startswith("no CUDA device")
    assert done.stdout.count("\n") == 1


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("leaks")
def test_the_table_of_bundles_streams_one_and_knows_its_scores() -> None:
    done = _benchmarks("benchmarks.models", "--quick", "spectra_cnn")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(find_bundle("spectra_cnn"))
    assert f"accuracy {manifest.scores['test']['accuracy']}, baseline 0" in done.stdout
    for name in shipped_names():
        known = read_manifest(find_bundle(name))
        assert set(HEADLINES[known.kind]) <= set(known.scores["test"]), name


def test_prebuilt_messages_differ_in_the_train_id_only(context: zmq.Context) -> None:
    """As ZeroMQ's own client receives them."""
    sender = {"shape": [4, 8], "dtype": "uint16", "pulses": 3}
    with Helper("benchmarks.sender", sender) as helper, context.socket(zmq.PULL) as pull:
        pull.connect(helper.hello["endpoint"])
        assert len(helper.ask({"trains": 50, "rate_hz": 1000.0})["sent"]) == 50
        messages = [pull.recv_multipart() for _ in range(50)]
    trains = [decode(parts) for parts in messages]
    assert [train.train_id(SOURCE) for train in trains] == [FIRST_TRAIN_ID + step for step in range(50)]
    assert {len(parts[FRAMES_PART]) for parts in messages} == {4 * 8 * 2 * 3}
    for train in trains:
        arrays = train.sources[SOURCE].arrays
        assert (arrays[KEY].shape, arrays[KEY].dtype) == ((3, 4, 8), np.dtype("u2"))
        assert arrays[PULSE_KEY].tolist() == [0, 1, 2]


@pytest.mark.usefixtures("leaks")
def test_a_contender_that_dies_is_an_error_and_not_a_number() -> None:
    with pytest.raises(BenchmarkError, match="ended with code 1"):
        Helper("benchmarks.sender", {"shape": [2], "dtype": "no such type", "pulses": 1})


@pytest.mark.usefixtures("leaks")
def test_a_contender_that_does_not_answer_is_not_waited_for() -> None:
    with (
        Helper("benchmarks.sender", {"shape": [2], "dtype": "uint16", "pulses": 1}) as sender,
        pytest.raises(BenchmarkError, match="no answer in time"),
    ):
        sender.read(0.01)


def test_waiting_has_an_end() -> None:
    with pytest.raises(BenchmarkError, match="the impossible: not within"):
        wait_until("the impossible", lambda: False, 0.02)


def test_processor_time_of_a_process_is_that_of_its_own_clock() -> None:
    before, own = cpu_s(os.getpid()), time.process_time()
    sum(range(300_000))
    after, own = cpu_s(os.getpid()), time.process_time() - own
    assert own > 0
    assert after - before == pytest.approx(own, rel=0.2, abs=1e-3)


def test_medians_carry_their_spread_and_ratios_pair_neighbours() -> None:
    summary = measured([3.0, 1.0, 2.0])
    assert (summary.median, summary.low, summary.high, summary.n) == (2.0, 1.0, 3.0, 3)
    # The second turn ran on a machine half as fast: the ratio does not see it.
    assert ratio([8.0, 4.0], [10.0, 5.0]) == pytest.approx(0.8)
