"""kill -9 of every role under load: nothing is lost unaccounted, nothing is stored twice, nothing is torn."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import STAGES, RunningPipeline, simulator, wait_until
from stored import DETECTOR, KEY, ids, judge, kept_by, results_of, sent_events, unique

from streamer.facility.truth import checksums
from streamer.routing import failopen_code

Write = Callable[..., str]

# Routes that depend on the data of the event beside its frame: a torn event would show.
ATTACH = 'attach = ["energy = SIM_XGM/XGM/DOOCS:output data.intensityTD"]'
ROUTES = """
[[stream.route]]
name = "bright"
when = "energy > 1100"
[[stream.route]]
name = "sample"
one_in = 4
"""
KILLS = 10
FIRST_FAILOPEN = failopen_code("timeout")
# 1500 events/s of 8 KiB: enough that there is always something in every hand. A train is two blocks.
LOAD = ("--kind", "noise", "--shape", "64x64", "--rate", "10", "--pulses", "150", "--bank", "256")
# The same in trains that fit into a block: their frames are received in the slot.
SMALL_TRAINS = ("--kind", "noise", "--shape", "64x64", "--rate", "40", "--pulses", "37", "--bank", "256")
# The server side of a socket and ours. REP and PUSH wait for a lost peer, PUB goes on: a real loss before us.
SOCKETS = (("PUSH", "PULL"), ("PUB", "SUB"), ("REP", "REQ"))


def victims(seed: int) -> Iterator[tuple[str, float]]:
    """The stages to kill, each a third of the times over all seeds, and how long to let it run before."""
    dice = random.Random(seed)
    order = [STAGES[(seed + k) % 3] for k in range(KILLS)]
    dice.shuffle(order)
    for stage in order:
        yield stage, dice.uniform(0.05, 0.6)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(len(SOCKETS)))
def test_killed_stages_lose_nothing(seed: int, folder: Path, noise: Write) -> None:
    server, client = SOCKETS[seed % len(SOCKETS)]
    load = simulator(folder, *LOAD, socket=server)
    settings = f"{ATTACH}\nring_bytes = {16 << 20}"
    text = noise(load.endpoint, socket=client, stream=settings, routes=ROUTES)
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready()
        pipeline.wait_for("noise", lambda counts: counts["received"] > 500)
        recovery_s: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for stage, pause_s in victims(seed):
            time.sleep(pause_s)  # the random moment of the kill
            recovery_s[stage].append(pipeline.kill_stage(f"noise.{stage}"))
        reached = pipeline.counts("noise")["received"]
        pipeline.wait_for("noise", lambda counts: counts["received"] > reached + 1000)
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        report = pipeline.report
    print(f"seed {seed}: recovery", {k: [round(s, 2) for s in v] for k, v in recovery_s.items()})
    counts = report["streams"]["noise"]
    assert report["closed"]
    results = judge(folder / "out/r0001", load.log, counts)
    answered = results["reason"] < FIRST_FAILOPEN
    assert np.array_equal(results["route"][answered] == 0, results["energy"][answered] > 1100)
    times = np.concatenate([np.array(v) for v in recovery_s.values()])
    assert np.median(times) < 5
    assert times.max() < 15


@pytest.mark.timeout(180)
def test_killed_supervisor_takes_its_stages_along(folder: Path, noise: Write) -> None:
    """Nobody restarts them then: they drain and end, and what they wrote can be read."""
    load = simulator(folder, *LOAD)
    text = noise(load.endpoint, routes="")
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready()
        pipeline.wait_for("noise", lambda counts: counts["received"] > 1000)
        pids = [stage["pid"] for stage in pipeline.stages().values()]
        pipeline.popen.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "end of all stages", 30)
    results = results_of(folder / "out/r0001", "noise")
    frames, beside = kept_by(folder / "out/r0001", "noise", "all", DETECTOR, KEY)
    sent = sent_events(load.log)
    recorded = unique(results, "results")
    assert len(recorded) > 1000
    assert recorded <= sent.keys()
    assert ids(frames) == ids(beside)
    assert unique(frames, "all") == recorded
    assert checksums(frames["data"]).tolist() == [sent[name] for name in ids(frames)]
    [left] = folder.glob("streamer-*")  # who would have removed it is dead
    shutil.rmtree(left)


def _all_new(pipeline: RunningPipeline, before: set[int]) -> bool:
    return all(stage["up"] and stage["pid"] not in before for stage in pipeline.stages().values())


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", [LOAD, SMALL_TRAINS], ids=["long trains", "small trains"])
def test_all_stages_killed_at_once(how: tuple[str, ...], folder: Path, noise: Write) -> None:
    load = simulator(folder, *how)
    with load.process, RunningPipeline(folder, noise(load.endpoint)) as pipeline:
        pipeline.ready()
        for reached in (1000, 4000):
            pipeline.wait_for("noise", lambda counts, reached=reached: counts["received"] > reached)
            before = {stage["pid"] for stage in pipeline.stages().values()}
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda before=before: all(
                    s["up"] and s["pid"] not in before for s in pipeline.stages().values()
                ),
                "every stage ready again",
            )
        reached = pipeline.counts("noise")["received"]
        pipeline.wait_for("noise", lambda counts: counts["received"] > reached + 1000)
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        report = pipeline.report
    assert report["closed"]
    judge(folder / "out/r0001", load.log, report["streams"]["noise"])
