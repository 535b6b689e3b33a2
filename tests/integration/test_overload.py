"""A source faster than inference: memory and latency stay bounded, every event is accounted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import heavy_bundle
from processes import RunningPipeline, simulator
from stored import judge

Write = Callable[..., str]

PULSES = 16
DEADLINE_S = 0.5
# A batch of the heavy bundle takes 0.2 s on a free core; this is ten times that.
BATCH_S = 2.0
RING_BYTES = 8 << 20
# What a stage may grow beyond its first seconds, with the ring: buffers of ZeroMQ and of the allocator.
GROWTH_BYTES = RING_BYTES + (64 << 20)
ROUTES = '[[stream.route]]\nname = "a"\nwhen = "p.A > 0.5"\n[[stream.route]]\nname = "sample"\none_in = 4'


def load_of(folder: Path, *arguments: str) -> Any:
    """1600 events/s; a core classifies some hundred."""
    shape = ("--kind", "noise", "--shape", "64x64", "--bank", "64", "--pulses", str(PULSES))
    return simulator(folder, *shape, "--rate", "100", *arguments)


def rss_bytes(pid: int, field: str) -> int:
    """VmRSS or VmHWM of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_keep_stores_what_inference_cannot_take(folder: Path, noise: Write) -> None:
    bundle, load = heavy_bundle(folder, "heavy"), load_of(folder)
    stream = f'bundles = ["{bundle}"]\nring_bytes = {RING_BYTES}\ndeadline_s = {DEADLINE_S}\nmax_events = 16'
    with (
        load.process,
        RunningPipeline(folder, noise(load.endpoint, stream=stream, routes=ROUTES)) as pipeline,
    ):
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 800)
        pids = {name: stage["pid"] for name, stage in pipeline.stages().items()}
        before = {name: rss_bytes(pid, "VmRSS") for name, pid in pids.items()}
        pipeline.wait_for("noise", lambda counts: counts["received"] > 9000)
        grown = {name: rss_bytes(pid, "VmHWM") - before[name] for name, pid in pids.items()}
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    print({name: counts[name] for name in ("received", "kept", "failopen", "shed", "verdict_latency_s")})
    print("grown, bytes:", grown)
    assert max(grown.values()) < GROWTH_BYTES
    assert set(counts["failopen"]) <= {"overload", "timeout"}
    assert sum(counts["failopen"].values()) > 2000
    assert sum(counts["kept"].values()) + counts["vetoed"] > 100
    assert set(counts["shed"]) <= {"ring_full"}
    assert counts["verdict_latency_s"]["p99"] < DEADLINE_S + BATCH_S
    judge(folder / "out/r0001", load.log, counts)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_wait_classifies_everything(folder: Path, noise: Write) -> None:
    bundle, load = heavy_bundle(folder, "heavy"), load_of(folder, "--trains", "60")
    stream = (
        f'bundles = ["{bundle}"]\nring_bytes = {RING_BYTES}\ndeadline_s = 0.0\non_overload = "wait"\n'
        "max_events = 16\nblock_events = 16"
    )
    with (
        load.process,
        RunningPipeline(folder, noise(load.endpoint, stream=stream, routes=ROUTES)) as pipeline,
    ):
        pipeline.ready()
        sent = load.finish(120)
        pipeline.wait_for("noise", lambda counts: counts["received"] == sent["events_sent"])
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert counts["received"] == 60 * PULSES
    assert counts["failopen"] == counts["shed"] == {}
    assert counts["missing_upstream"] == 0
    judge(folder / "out/r0001", load.log, counts)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_wait_sheds_nothing_when_it_is_stopped(folder: Path, noise: Write) -> None:
    """What was read is classified; what still waits at the source is not read any more."""
    bundle, load = heavy_bundle(folder, "heavy"), load_of(folder, "--linger", "0")
    stream = (
        f'bundles = ["{bundle}"]\nring_bytes = {1 << 20}\ndeadline_s = 0.0\non_overload = "wait"\n'
        "max_events = 16\nblock_events = 16"
    )
    with (
        load.process,
        RunningPipeline(folder, noise(load.endpoint, stream=stream, routes=ROUTES)) as pipeline,
    ):
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 500)
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
        sent = load.stop()["events_sent"]
    assert counts["failopen"] == counts["shed"] == {}
    judge(folder / "out/r0001", load.log, counts, left_out=counts["received"] - sent)
