"""Peers and stages that pause, die and come back: the source, a stopped stage, readers that do not read."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from processes import STAGES, RunningPipeline, free_port, simulator
from stored import judge, results_of, unique

Write = Callable[..., str]

LOAD = ("--kind", "noise", "--shape", "64x64", "--pulses", "32", "--bank", "128")
# What a stopped process is stopped for; far below the time after which it counts as hung.
PAUSE_S = 2.0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_stage_that_stands_still_for_a_while(folder: Path, noise: Write) -> None:
    """SIGSTOP and SIGCONT, as a swapping machine does it: counted, and nothing twice."""
    load = simulator(folder, *LOAD, "--rate", "20")
    with load.process, RunningPipeline(folder, noise(load.endpoint)) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 200)
        for stage in STAGES:
            pid = pipeline.stages()[f"noise.{stage}"]["pid"]
            os.kill(pid, signal.SIGSTOP)
            time.sleep(PAUSE_S)  # the length of the disturbance
            os.kill(pid, signal.SIGCONT)
            reached = pipeline.counts("noise")["received"]
            pipeline.wait_for("noise", lambda counts, reached=reached: counts["received"] > reached + 500)
        assert [stage["restarts"] for stage in pipeline.stages().values()] == [0, 0, 0]
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    judge(folder / "out/r0001", load.log, counts)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("server", "client"), [("REP", "REQ"), ("PUSH", "PULL"), ("PUB", "SUB")])
def test_a_source_that_dies_and_comes_back(folder: Path, noise: Write, server: str, client: str) -> None:
    """kill -9 of the sender; another one goes on at the same endpoint with later ids."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    first = simulator(folder, *LOAD, "--rate", "20", socket=server, endpoint=endpoint)
    with RunningPipeline(folder, noise(endpoint, socket=client)) as pipeline:
        with first.process:
            pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 500)
            first.process.popen.kill()
        before = pipeline.settled("noise")["received"]
        later = ("--rate", "20", "--first-train-id", "20000")
        second = simulator(folder, *LOAD, *later, socket=server, endpoint=endpoint, name="second")
        with second.process:
            pipeline.wait_for("noise", lambda counts: counts["received"] > before + 500)
            assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    recorded = unique(results_of(folder / "out/r0001", "noise"), "results")
    assert len(recorded) == counts["received"]
    early = [train for train, _ in recorded if train < 20_000]
    assert len(early) == before
    assert counts["missing_upstream_trains"] >= 20_000 - max(early) - 1


@pytest.mark.timeout(240)
def test_ids_that_come_again_after_a_crash_are_duplicates(folder: Path, noise: Write) -> None:
    """What was received before ingest was killed is known to its successor."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    arguments = (*LOAD, "--rate", "50", "--trains", "30")
    with RunningPipeline(folder, noise(endpoint)) as pipeline:
        first = simulator(folder, *arguments, endpoint=endpoint)
        with first.process:
            pipeline.ready().wait_for("noise", lambda counts: counts["received"] == 30 * 32)
            first.finish()
        pipeline.kill_stage("noise.ingest")
        second = simulator(folder, *arguments, endpoint=endpoint, name="second")
        with second.process:
            pipeline.wait_for("noise", lambda counts: counts["duplicates"] == 30 * 32)
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert counts["received"] == 30 * 32
    assert counts["trains"] == 60
    judge(folder / "out/r0001", first.log, counts)


@pytest.mark.timeout(240)
def test_readers_that_do_not_read_delay_nobody(folder: Path, noise: Write) -> None:
    """Subscribers to everything that never take a message, and a bridge client that asks and goes away."""
    endpoints = {name: f"tcp://127.0.0.1:{free_port()}" for name in ("results", "verdicts", "bridge")}
    publish = f'karabo_bridge = "{endpoints["bridge"]}"'
    load = simulator(folder, *LOAD, "--rate", "20", "--trains", "100")
    text = noise(load.endpoint, results=endpoints["results"], verdicts=endpoints["verdicts"], publish=publish)
    with (
        load.process,
        zmq.Context() as context,
        RunningPipeline(folder, text, "--events", "3200") as pipeline,
    ):
        readers = [context.socket(zmq.SUB) for _ in range(20)]
        for index, reader in enumerate(readers):
            reader.set(zmq.RCVHWM, 1)
            reader.set(zmq.SUBSCRIBE, b"")
            reader.connect(endpoints["results" if index % 2 else "verdicts"])
        gone = context.socket(zmq.REQ)
        gone.connect(endpoints["bridge"])
        gone.send(b"next")
        gone.close(0)
        try:
            assert pipeline.wait(180) == 0, pipeline.text
        finally:
            for reader in readers:
                reader.close(0)
        counts = pipeline.report["streams"]["noise"]
    assert counts["received"] == 3200
    assert counts["failopen"] == counts["shed"] == {}
    judge(folder / "out/r0001", load.log, counts)
