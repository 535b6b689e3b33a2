"""kill -9 of every role under load: nothing is lost unaccounted, nothing is stored twice, nothing is torn."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import STAGES, RunningPipeline, simulator, wait_until
from stored import judge

from streamer.routing import failopen_code

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
# The server side of a socket and ours. REP and PUSH wait for a lost peer, PUB goes on: a real loss before us.
SOCKETS = (("PUSH", "PULL"), ("PUB", "SUB"), ("REP", "REQ"))


def victims(seed: int) -> Iterator[tuple[str, float]]:
    """The stages to kill, each a third of the times over all seeds, and how long to let it run before."""
    dice = random.Random(seed)
    order = [STAGES[(seed + k) % 3] for k in range(KILLS)]
    dice.shuffle(order)
    for stage in order:
        yield stage, dice.uniform(0.05, 0.6)


def kill(pipeline: RunningPipeline, stage: str) -> float:
    """SIGKILL one stage; the seconds until its successor is ready."""
    before = pipeline.stages()[stage]["pid"]
    os.kill(before, signal.SIGKILL)
    start_s = time.monotonic()

    def back() -> bool:
        now = pipeline.stages()[stage]
        return bool(now["up"] and now["pid"] != before)

    wait_until(back, f"{stage} ready again")
    return time.monotonic() - start_s


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(len(SOCKETS)))
def test_killed_stages_lose_nothing(seed: int, folder: Path, noise) -> None:
    server, client = SOCKETS[seed]
    load = simulator(folder, *LOAD, socket=server)
    settings = f"{ATTACH}\nring_bytes = {16 << 20}"
    text = noise(load.endpoint, socket=client, stream=settings, routes=ROUTES)
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready()
        pipeline.wait_for("noise", lambda counts: counts["received"] > 500)
        recovery_s: dict[str, list[float]] = {stage: [] for stage in STAGES}
        for stage, pause_s in victims(seed):
            time.sleep(pause_s)  # the random moment of the kill
            recovery_s[stage].append(kill(pipeline, f"noise.{stage}"))
        reached = pipeline.counts("noise")["received"]
        pipeline.wait_for("noise", lambda counts: counts["received"] > reached + 1000)
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        report = pipeline.report
    print(f"seed {seed}: recovery", {k: [round(s, 2) for s in v] for k, v in recovery_s.items()})
    counts = report["streams"]["noise"]
    print({k: v for k, v in counts.items() if v})
    assert report["closed"]
    results = judge(folder / "out/r0001", load.log, counts)
    answered = results["reason"] < FIRST_FAILOPEN
    assert np.array_equal(results["route"][answered] == 0, results["energy"][answered] > 1100)
    times = np.concatenate([np.array(v) for v in recovery_s.values()])
    assert np.median(times) < 5
    assert times.max() < 15
