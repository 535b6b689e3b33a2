"""A source that is killed within a message: nothing of the half one is counted, stored or seen by anybody."""

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from processes import Process, RunningPipeline, free_port, wait_until
from stored import DETECTOR, KEY, ids, kept_by, results_of, unique

from streamer.wire.karabo_bridge import encode

PULSES, SHAPE = 16, (256, 256)  # 2 MiB a train: more than is read at once, so it is received in its slot
# What the frames of a half message hold; train ids, which whole ones hold, are below it.
HALF = 65535
SERVER = Path(__file__).with_name("breaking_server.py")


def wire(train_id: int, content: int) -> bytes:
    """One train as ZMTP frames."""
    arrays = {
        KEY: np.full((PULSES, *SHAPE), content, np.uint16),
        "image.pulseId": np.arange(PULSES, dtype="u8"),
    }
    metadata = {"source": DETECTOR, "timestamp": 1.0, "timestamp.tid": train_id}
    metadata |= {"timestamp.sec": "1", "timestamp.frac": "0" * 18}
    parts = [bytes(part) for part in encode({DETECTOR: arrays}, {DETECTOR: metadata})]
    flags = [3] * (len(parts) - 1) + [2]
    return b"".join(
        bytes([flag]) + struct.pack(">Q", len(part)) + part for flag, part in zip(flags, parts, strict=True)
    )


@contextmanager
def serving(folder: Path, port: int, trains: range, rest: bytes) -> Iterator[Process]:
    """A server that sends whole trains and `rest`, and is killed at the end."""
    name = folder / f"server-{trains.start}"
    name.with_suffix(".bytes").write_bytes(b"".join(wire(train, train) for train in trains) + rest)
    with Process(
        [sys.executable, SERVER, str(port), name.with_suffix(".bytes")], name.with_suffix(".log")
    ) as it:
        yield it
        wait_until(lambda: "sent" in it.text, "all sent")
        it.popen.kill()
        it.wait()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("half", [0.5, 0.999])
def test_a_source_that_is_killed_within_a_frame(folder: Path, noise: Callable[..., str], half: float) -> None:
    """The lost train is sent again by a second source, and SIGTERM finds half a train of that one."""
    port, cut = free_port(), int(half * len(wire(1, HALF)))
    stream = f"block_events = {2 * PULSES}"  # the half train lies behind a whole one, in its slot
    text = noise(f"tcp://127.0.0.1:{port}", shape=list(SHAPE), stream=stream)
    with RunningPipeline(folder, text) as pipeline:
        pipeline.ready()
        with serving(folder, port, range(100, 103), wire(103, HALF)[:cut]):
            pipeline.wait_for("noise", lambda counts: counts["received"] == 3 * PULSES)
        with serving(folder, port, range(103, 108), wire(108, HALF)[:cut]):
            pipeline.wait_for("noise", lambda counts: counts["received"] >= 8 * PULSES)
            assert pipeline.settled("noise", 0.5)["received"] == 8 * PULSES
            assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    sent = {(train, pulse) for train in range(100, 108) for pulse in range(PULSES)}
    assert counts["messages"] == counts["accepted"] == 8
    assert (counts["received"], counts["kept"]) == (len(sent), {"all": len(sent)})
    assert (counts["duplicates"], counts["missing_upstream"], counts["shed"]) == (0, 0, {})
    assert pipeline.text.count(f"connection to tcp://127.0.0.1:{port} lost") == 1
    assert unique(results_of(folder / "out/r0001", "noise"), "results") == sent
    frames, _ = kept_by(folder / "out/r0001", "noise", "all", DETECTOR, KEY)
    assert set(ids(frames)) == sent
    assert (frames["data"] == frames["trainId"][:, None, None]).all(), "bytes of a half train"
