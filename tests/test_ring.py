"""The ring: where its arrays lie, and which tokens still mean something."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from core_support import POINTS, come, config_text, drain, killed_at, line, message, take
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamer.finished import Finished
from streamer.memory import ALIGNMENT_BYTES
from streamer.ring import (
    DONE,
    FILLING,
    FREE,
    READY,
    SLOT_DTYPE,
    TAKEN,
    Ring,
    RingLayout,
)
from streamer.sink import Sink

LAYOUT = RingLayout(4, 3, (5, 2), np.dtype("u2"), attached=2, packed=7)
ARRAYS = [name for name, _, _ in LAYOUT.arrays()]


def ring_of(layout: RingLayout = LAYOUT) -> Ring:
    return Ring(memoryview(bytearray(layout.size_bytes)), layout)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([(3,), (4, 5), (2, 3, 4)]),
    st.sampled_from(["u1", "u2", "f4", "f8"]),
    st.integers(0, 3),
    st.integers(0, 9),
)
def test_arrays_have_their_shapes_and_memory_of_their_own(
    slots: int, events: int, shape: tuple[int, ...], dtype: str, attached: int, packed: int
) -> None:
    layout = RingLayout(slots, events, shape, np.dtype(dtype), attached, packed)
    memory = np.zeros(layout.size_bytes + ALIGNMENT_BYTES, np.uint8)
    ring = Ring(memoryview(memory), layout)
    assert ring.frames.shape == (slots, events, *shape)
    assert ring.packed.shape == (slots, events, packed)
    assert ring.attached.shape == (slots, events, attached)
    taken = np.zeros(len(memory), np.int64)
    for name in ARRAYS:
        array = getattr(ring, name)
        start = array.ctypes.data - memory.ctypes.data
        assert start % ALIGNMENT_BYTES == 0 or array.nbytes == 0
        taken[start : start + array.nbytes] += 1
    assert taken.max() == 1, "two arrays share bytes"
    assert not taken[layout.size_bytes :].any()


def test_the_columns_of_the_header_are_the_header() -> None:
    ring = ring_of()
    ring.state[2], ring.seq[2], ring.n[2] = TAKEN, 9, 3
    assert (int(ring.header["state"][2]), int(ring.header["seq"][2]), int(ring.header["n"][2])) == (
        TAKEN,
        9,
        3,
    )
    assert SLOT_DTYPE.itemsize % 8 == 0, "an 8-byte field of every header must be aligned"


def test_bytes_of_an_event() -> None:
    assert LAYOUT.event_bytes == 20
    assert LAYOUT.size_bytes % ALIGNMENT_BYTES == 0


def test_a_token_holds_only_for_its_slot_block_and_state() -> None:
    ring = ring_of()
    ring.state[1], ring.seq[1] = READY, 5
    assert ring.holds(1, 5, READY)
    assert ring.holds(1, 5, TAKEN, READY)
    assert not ring.holds(1, 5, DONE)
    assert not ring.holds(1, 4, READY), "the token of an earlier block of the slot"
    assert not ring.holds(0, 5, READY)
    assert not ring.holds(4, 5, READY), "beyond the ring"


@given(
    st.lists(st.integers(FREE, DONE), min_size=4, max_size=4),
    st.permutations([1, 2, 3, 4]),
    st.sets(st.integers(FREE, DONE)),
)
def test_what_is_left_is_found_oldest_first(states: list[int], seqs: list[int], wanted: set[int]) -> None:
    ring = ring_of()
    ring.state[:], ring.seq[:] = states, seqs
    expected = sorted(
        (seq, slot) for slot, (seq, state) in enumerate(zip(seqs, states, strict=True)) if state in wanted
    )
    assert ring.left_in(*wanted) == [(slot, seq) for seq, slot in expected]


def test_a_memory_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="the memory has"):
        Ring(memoryview(bytearray(LAYOUT.size_bytes - ALIGNMENT_BYTES)), LAYOUT)


# --- the ring under fire ----------------------------------------------------------------------------

BINS = 4096  # 16 KiB an event: 8 slots of 8 events are the smallest ring allowed
PULSES = 5


class Recorder(Sink):
    """The sink, which also notes which events each block had when it was counted."""

    blocks: ClassVar[dict[int, list[tuple[int, int]]]] = {}

    def _count(self, done: Finished, series: Any, failed: dict[str, str]) -> None:
        super()._count(done, series, failed)
        for slot, seq in done.group.tokens:
            n = int(self.ring.n[slot])
            both = self.ring.train_id[slot, :n].tolist(), self.ring.pulse_id[slot, :n].tolist()
            ids = list(zip(*both, strict=True))
            assert self.blocks.setdefault(seq, ids) == ids, "a block that was done again was another one"


def small_ring() -> str:
    text = config_text(
        stream="",
        routes='[[stream.route]]\nname = "third"\nwhen = "pulse_id == 2"\n'
        '[[stream.route]]\nname = "sample"\none_in = 4',
    )
    return text.replace(f"shape = [{POINTS}]", f"shape = [{BINS}]")


class StreamUnderFire(RuleBasedStateMachine):
    """The three real stages on one ring, each killed at any line of its code, at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="u-"))
        Recorder.blocks = {}
        self.stack = ExitStack()
        self.line = self.stack.enter_context(line(self.folder, small_ring()))
        self.ingest = self.line.ingest()
        self.inference = self.line.inference()
        self.sink = self.line.sink(Recorder)
        self.train_id = 0
        take(self.ingest, self.next_train())

    def next_train(self) -> list[bytes | memoryview]:
        self.train_id += 1
        frames = np.full((PULSES, BINS), self.train_id, np.float32)
        return message(self.train_id, PULSES, frames)

    def make(self, name: str) -> Any:
        return self.line.sink(Recorder) if name == "sink" else getattr(self.line, name)()

    def restart(self, name: str) -> None:
        """Only its sockets end with a stage; the new one finds in memory what the old one left."""
        self.line.kill(getattr(self, name))
        setattr(self, name, self.make(name))

    def act(self, name: str, work: Callable[[], object], die_at: int | None) -> None:
        if die_at is None:
            work()
        elif killed_at(die_at, work):
            self.restart(name)

    @rule(trains=st.integers(1, 3), die_at=st.none() | st.integers(1, 250))
    def trains_come(self, trains: int, die_at: int | None) -> None:
        messages = [self.next_train() for _ in range(trains)]
        self.act("ingest", lambda: take(self.ingest, *messages), die_at)

    @rule(die_at=st.none() | st.integers(1, 250))
    def a_train_comes_and_its_block_is_kept_open(self, die_at: int | None) -> None:
        parts = self.next_train()

        def work() -> None:
            come(self.ingest, parts)
            self.ingest.filling.commit()

        self.act("ingest", work, die_at)

    @rule()
    def a_train_is_lost_before_us(self) -> None:
        self.next_train()

    @rule(die_at=st.none() | st.integers(1, 150))
    def inference_turns(self, die_at: int | None) -> None:
        self.act("inference", self.inference.step, die_at)

    @rule(die_at=st.none() | st.integers(1, 150))
    def sink_turns(self, die_at: int | None) -> None:
        self.act("sink", self.sink.step, die_at)

    @rule(die_at=st.none() | st.integers(1, 30))
    def ingest_reclaims(self, die_at: int | None) -> None:
        self.act("ingest", self.ingest.filling.slots.look, die_at)

    @rule(name=st.sampled_from(["ingest", "inference", "sink"]), die_at=st.integers(1, 80))
    def a_stage_dies_and_its_successor_too(self, name: str, die_at: int) -> None:
        self.line.kill(getattr(self, name))
        if killed_at(die_at, lambda: self.make(name)):
            self.line.kill(self.line.stages[-1])
            self.make(name)
        setattr(self, name, self.line.stages[-1])

    @invariant()
    def the_ledger_is_what_the_ring_holds(self) -> None:
        ledger, ring = self.line.ledger(), self.line.shared.ring
        assert ledger.messages == ledger.accepted
        committed = self.line.get("ingest", "block_seq")
        first, last = self.line.get("sink", "first_seq"), self.line.get("sink", "last_seq")
        held = ring.left_in(READY, TAKEN, DONE)
        filling = any(seq == committed for _, seq in ring.left_in(FILLING))
        in_flight = sum(int(ring.n[slot]) for slot, seq in held if not first <= seq <= last)
        assert ledger.in_flight == in_flight + filling * self.line.get("ingest", "block_n")

    def teardown(self) -> None:
        try:
            take(self.ingest, self.next_train())  # so that a loss at the end shows as a gap
            drain(self.ingest, self.inference, self.sink)
            take(self.ingest, self.next_train())
            drain(self.ingest, self.inference, self.sink)
            self.nothing_is_lost_or_done_twice()
        finally:
            self.stack.close()
            shutil.rmtree(self.folder)

    def nothing_is_lost_or_done_twice(self) -> None:
        ledger, blocks = self.line.ledger(), Recorder.blocks
        assert ledger.closed
        assert self.line.get("sink", "blocks") == len(blocks) == self.line.get("ingest", "block_seq")
        events = [event for block in blocks.values() for event in block]
        assert len(events) == len(set(events)), "an event came in two blocks"
        assert len(events) + ledger.shed["ring_full"] == ledger.received
        assert ledger.received + ledger.missing_upstream == self.train_id * PULSES
        assert set(self.line.states()) == {FREE}
        free = [self.ingest.filling.slots.take() for _ in range(self.line.shared.ring.layout.slots)]
        assert None not in free, "a slot was lost"


StreamUnderFire.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStreamUnderFire = StreamUnderFire.TestCase
