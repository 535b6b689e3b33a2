"""Stands for ingest in the measurement of what lies behind it: events from memory, and not from a network.

The ring, the ids, the commits and the tokens are the stage's own (`streamer.filling`); only the bytes are
copied to the slot from a bank of frames, instead of from a connection.

    python -m benchmarks.generated SPEC SUPERVISOR_PID SECONDS PULSES    # as a child of a Pipeline
"""

import sys
import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamer.assemble import Events, SourceSpec
from streamer.filling import Filling, Received
from streamer.ids import TrainTracker
from streamer.plan import source_spec
from streamer.stage import IDLE_MS, Stage, main
from streamer.zmtp import STAGE_BYTES

# As many different frames as the other source sends in turn.
BANK_FRAMES: Final = 64


def trains_of(stage: Stage, pulses: int) -> list[Events]:
    """Trains of noise, to be sent `again` and again."""
    source = source_spec(stage.spec.settings)
    trains = max(2, BANK_FRAMES // pulses)
    bank = np.random.default_rng(0).integers(0, 500, (trains, pulses, *source.event_shape), np.uint16)
    return [_train(source, frames) for frames in bank.astype(source.dtype)]


def _train(source: SourceSpec, frames: npt.NDArray[Any]) -> Events:
    pulses = len(frames)
    return Events(
        train_id=0,
        pulse_ids=np.arange(pulses, dtype=np.uint64),
        flags=np.zeros(pulses, np.uint32),
        attached=np.empty((pulses, 0)),
        missing_modules=np.zeros(pulses, np.uint64),
        duplicates=0,
        source_present=True,
        n=pulses,
        _spec=source,
        _parts=[],
        raw=frames.reshape(-1).view(np.uint8).data,
        marked=False,
    )


def run(stage: Stage) -> None:
    end_s, pulses = time.monotonic() + float(sys.argv[3]), int(sys.argv[4])
    tracker = TrainTracker(stage.page, stage.shared.table)
    filling, trains = Filling(stage, tracker), trains_of(stage, pulses)
    filling.recover()
    stage.ready()
    train_id, turn = 0, max(1, STAGE_BYTES // len(trains[0].raw or b""))
    while not stage.stopping and time.monotonic() < end_s:
        train_id += 1
        like = trains[train_id % len(trains)]
        tracker.arrive(train_id, like.pulse_ids)
        filling.arrived.messages += 1
        filling.arrived.accepted += 1
        filling.store(
            like.again(train_id, like.raw or b""), 0, pulses, Received(time.monotonic_ns(), time.time())
        )
        if train_id % turn == 0:  # as often as the connection runs empty
            filling.end_turn()
    filling.finish()
    while not stage.stopping:
        filling.freed.wait(IDLE_MS)
        filling.slots.look()
        stage.alive()


if __name__ == "__main__":
    main("ingest", run)
