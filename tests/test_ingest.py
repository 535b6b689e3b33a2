"""Ingest in one thread: what it counts, where it puts what, what it does when nobody can take it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from core_support import (
    KEY,
    POINTS,
    PULSE_KEY,
    SOURCE,
    Line,
    broken_message,
    come,
    config_text,
    drain,
    events,
    killed_at,
    line,
    message,
    take,
    until,
)

from streamer.errors import FLAG_OUT_OF_ORDER
from streamer.ingest import Ingest
from streamer.ring import DONE, FILLING, FREE, READY
from streamer.routing import KEEP, failopen_code
from streamer.wire.karabo_bridge import encode
from streamer.wire.types import TRAIN_ID_END

BINS = 4096  # with blocks of 8 events the ring has the fewest slots allowed, 8


@pytest.fixture
def stream(folder: Path) -> Iterator[Line]:
    """Blocks of 8 small events."""
    with line(folder, config_text()) as made:
        yield made


@pytest.fixture
def narrow(folder: Path) -> Iterator[Line]:
    """A ring of 8 slots of 8 events."""
    with line(folder, config_text().replace(f"[{POINTS}]", f"[{BINS}]")) as made:
        yield made


def wide(train_id: int, pulses: int) -> list[bytes | memoryview]:
    return message(train_id, pulses, np.full((pulses, BINS), train_id, np.float32))


def free_slots(ingest: Ingest) -> int:
    """Takes them all."""
    count = 0
    while ingest.filling.slots.take() is not None:
        count += 1
    return count


def test_a_train_lies_in_the_slot_as_it_was_sent(stream: Line) -> None:
    ingest, frames = stream.ingest(), events(3, seed=5)
    take(ingest, message(77, [4, 9, 11], frames))
    ((slot, seq),) = stream.shared.ring.left_in(READY)
    ring = stream.shared.ring
    assert (seq, int(ring.n[slot])) == (1, 3)
    assert ring.train_id[slot, :3].tolist() == [77] * 3
    assert ring.pulse_id[slot, :3].tolist() == [4, 9, 11]
    assert np.array_equal(ring.frames[slot, :3], frames)
    assert bool(ring.header["end_of_train"][slot])
    ledger = stream.ledger()
    assert (ledger.messages, ledger.accepted, ledger.received, ledger.in_flight) == (1, 1, 3, 3)
    assert stream.get("ingest", "bytes") == sum(len(bytes(part)) for part in message(77, [4, 9, 11], frames))


def test_what_lies_in_the_slot_and_is_no_frame_is_read_before_it_is_overwritten(folder: Path) -> None:
    """The server puts its arrays in another order; ids and frames have the same size."""
    text = config_text().replace(f"[{POINTS}]", "[2]").replace("block_events = 8", "block_events = 512")
    frames = np.random.default_rng(0).uniform(0, 9, (256, 2)).astype(np.float32)
    ids = np.arange(256, dtype=np.uint64) * 2
    with line(folder, text) as made:
        ingest, ring = made.ingest(), made.shared.ring
        for train_id, keys in enumerate([(KEY, PULSE_KEY)] * 2 + [(PULSE_KEY, KEY)] * 3, start=1):
            arrays = {key: frames if key == KEY else ids for key in keys}
            stamp = {"source": SOURCE, "timestamp.tid": train_id}
            take(ingest, encode({SOURCE: arrays}, {SOURCE: stamp}))
        for slot, seq in ring.left_in(READY):
            assert ring.train_id[slot, :256].tolist() == [seq] * 256
            assert np.array_equal(ring.pulse_id[slot, :256], ids)
            assert np.array_equal(ring.frames[slot, :256], frames)
        assert len(ring.left_in(READY)) == 5


def test_a_sink_that_stands_still_does_not_use_the_ring_up_with_small_blocks(folder: Path) -> None:
    """One event at a time, classified at once, and never freed."""
    text = config_text().replace("block_events = 8", "block_events = 32")
    with line(folder, text) as made:
        ingest, ring = made.ingest(), made.shared.ring
        slots = ring.layout.slots
        for train_id in range(1, 32 * slots // 4):
            come(ingest, message(train_id, 1))
            ingest.filling.end_turn()
            for slot, _ in ring.left_in(READY):
                ring.state[slot] = DONE  # inference is quick
        assert made.ledger().shed["ring_full"] == 0
        assert len(ring.left_in(DONE)) < slots


def test_messages_back_to_back_share_a_block(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 2), message(2, 3))
    ((slot, _),) = stream.shared.ring.left_in(READY)
    assert stream.shared.ring.train_id[slot, :5].tolist() == [1, 1, 2, 2, 2]


def test_a_long_train_fills_several_blocks(stream: Line) -> None:
    ingest, frames = stream.ingest(), events(20, seed=1)
    take(ingest, message(1, 20, frames))
    ring = stream.shared.ring
    slots = [slot for slot, _ in ring.left_in(READY)]
    assert [int(ring.n[slot]) for slot in slots] == [8, 8, 4]
    assert [bool(ring.header["end_of_train"][slot]) for slot in slots] == [False, False, True]
    assert np.array_equal(np.concatenate([ring.frames[s, : int(ring.n[s])] for s in slots]), frames)
    assert stream.ledger().received == 20


def test_a_single_pulse_train_ends_nothing(stream: Line) -> None:
    """A machine without trains: waiting for more may pay."""
    take(stream.ingest(), message(1, 1))
    ((slot, _),) = stream.shared.ring.left_in(READY)
    assert not stream.shared.ring.header["end_of_train"][slot]


def test_a_bad_message_costs_itself_only_and_is_counted_by_reason(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 2), broken_message(), message(3, 2), [b"\xc1", b""], message(4, 2))
    ledger = stream.ledger()
    assert (ledger.messages, ledger.accepted, ledger.received) == (5, 3, 6)
    assert {r: n for r, n in ledger.rejected.items() if n} == {"odd_frame_count": 1, "bad_header": 1}
    assert ledger.missing_upstream == 0, "the rejected message explains the gap"
    assert ledger.messages == ledger.accepted + sum(ledger.rejected.values())


def test_wrong_shape_and_dtype_are_refused(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 2, np.zeros((2, POINTS + 1), np.float32)))
    take(ingest, message(2, 2, np.zeros((2, POINTS), np.float64)))
    rejected = {r: n for r, n in stream.ledger().rejected.items() if n}
    assert rejected == {"shape_changed": 1, "dtype_changed": 1}


def test_a_train_without_our_source_is_an_empty_train(stream: Line, caplog: pytest.LogCaptureFixture) -> None:
    metadata = {"OTHER/X": {"timestamp.tid": 5}}
    take(stream.ingest(), encode({"OTHER/X": {"a": np.zeros(2)}}, metadata))
    assert (stream.get("ingest", "trains"), stream.get("ingest", "trains_empty")) == (1, 1)
    assert stream.ledger().accepted == 1
    assert f"no event of {SOURCE}[{KEY}] in this train; the message holds: OTHER/X" in caplog.text


def test_gaps_and_duplicates_are_counted_by_id(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 4), message(3, 4), message(3, 4), message(3, [0, 7]))
    ledger = stream.ledger()
    assert (ledger.received, ledger.duplicates) == (9, 5)
    assert (ledger.missing_upstream, ledger.missing_upstream_trains, ledger.trains) == (4, 1, 4)


def test_a_late_train_is_flagged(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(2, 1), message(1, 2))
    ring = stream.shared.ring
    flags = {
        int(ring.train_id[slot, i]): int(ring.flags[slot, i])
        for slot, _ in ring.left_in(READY)
        for i in range(int(ring.n[slot]))
    }
    assert flags == {2: 0, 1: FLAG_OUT_OF_ORDER}
    assert stream.ledger().out_of_order == 2


def test_sources_of_one_train_in_messages_of_their_own(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 4), message(5, 4))
    for train in (6, 7):
        take(ingest, encode({"MOTOR": {"x": 1}}, {"MOTOR": {"timestamp.tid": train}}), message(train, 4))
    ledger = stream.ledger()
    assert (ledger.received, ledger.out_of_order, ledger.missing_upstream) == (16, 0, 12)
    for slot, _ in stream.shared.ring.left_in(READY):
        assert not stream.shared.ring.flags[slot, : int(stream.shared.ring.n[slot])].any()


def test_only_the_new_pulses_of_a_repeated_train_are_stored(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, [0, 2, 4]))
    take(ingest, message(1, [0, 1, 2, 3, 5], events(5, seed=9)))
    ring = stream.shared.ring
    (_, _), (slot, _) = ring.left_in(READY)
    assert ring.pulse_id[slot, :3].tolist() == [1, 3, 5]
    assert np.array_equal(ring.frames[slot, :3], events(5, seed=9)[[1, 3, 4]])


def test_attached_scalars_go_with_the_events(folder: Path) -> None:
    with line(folder, config_text(stream='attach = ["energy = XGM/A value"]')) as stream:
        metadata = {name: {"timestamp.tid": 8} for name in (SOURCE, "XGM/A")}
        ours = {KEY: events(3), PULSE_KEY: np.arange(3, dtype=np.uint64)}
        take(stream.ingest(), encode({SOURCE: ours, "XGM/A": {"value": 2.5}}, metadata))
        ((slot, _),) = stream.shared.ring.left_in(READY)
        assert stream.shared.ring.attached[slot, :3, 0].tolist() == [2.5] * 3


# --- when nobody can take it --------------------------------------------------------------------------


def test_beyond_its_share_of_the_ring_blocks_go_to_the_sink_unclassified(narrow: Line) -> None:
    ingest = narrow.ingest()
    for train in range(1, 7):
        take(ingest, wide(train, 2))
    ring = narrow.shared.ring
    assert ring.layout.slots == 8
    assert (len(ring.left_in(READY)), len(ring.left_in(DONE))) == (4, 2)
    for slot, _ in ring.left_in(DONE):
        assert ring.verdict[slot, :2].tolist() == [KEEP] * 2
        assert ring.reason[slot, :2].tolist() == [failopen_code("overload")] * 2
        assert int(ring.version[slot]) == 0
    drain(ingest, narrow.inference(), narrow.sink())
    ledger = narrow.ledger()
    assert (ledger.failopen["overload"], ledger.kept["all"], ledger.closed) == (4, 8, True)


def test_the_blocks_of_one_train_go_the_same_way(narrow: Line) -> None:
    ingest = narrow.ingest()
    for train in range(1, 4):
        take(ingest, wide(train, 2))
    take(ingest, wide(4, 20))  # begins within the share of inference, and would end beyond it
    assert len(narrow.shared.ring.left_in(READY)) == 6
    assert not narrow.shared.ring.left_in(DONE)


def test_with_every_slot_in_use_events_are_shed_and_counted(narrow: Line) -> None:
    ingest = narrow.ingest()
    for train in range(1, 11):
        take(ingest, wide(train, 3))
    ledger = narrow.ledger()
    assert (ledger.received, ledger.shed["ring_full"], ledger.in_flight) == (30, 6, 24)
    drain(ingest, narrow.inference(), narrow.sink())
    assert narrow.ledger().closed
    assert free_slots(ingest) == 8


def test_what_is_shed_after_the_last_slot_is_counted_at_once(narrow: Line) -> None:
    take(narrow.ingest(), wide(1, 8 * 8 + 5))
    ledger = narrow.ledger()
    assert (ledger.received, ledger.shed["ring_full"]) == (69, 5)


def test_a_shed_train_that_comes_again_was_not_missing(narrow: Line) -> None:
    ingest = narrow.ingest()
    take(ingest, wide(1, 3))
    for train in range(3, 11):  # train 2 is lost before us
        take(ingest, wide(train, 3))
    assert (narrow.ledger().shed["ring_full"], narrow.ledger().missing_upstream) == (3, 3)
    drain(ingest, narrow.inference(), narrow.sink())
    take(ingest, wide(10, 3))
    assert narrow.ledger().missing_upstream == 3


def test_the_largest_train_id_is_stored_and_shed_like_any_other(narrow: Line) -> None:
    ingest = narrow.ingest()
    for train in (*range(TRAIN_ID_END - 9, TRAIN_ID_END + 1), TRAIN_ID_END - 1):
        take(ingest, wide(train, 3))
    ledger = narrow.ledger()
    assert (ledger.rejected["bad_header"], ledger.accepted) == (1, 10)
    assert (ledger.received, ledger.shed["ring_full"], ledger.in_flight) == (30, 6, 24)


def test_told_to_wait_it_reads_no_more_until_a_slot_is_free(folder: Path) -> None:
    text = config_text(stream='on_overload = "wait"').replace(f"[{POINTS}]", f"[{BINS}]")
    with line(folder, text) as stream:
        ingest, inference, sink = stream.ingest(), stream.inference(), stream.sink()
        for train in range(1, 9):
            take(ingest, wide(train, 2))
        assert len(stream.shared.ring.left_in(READY)) == 8
        alive = ingest.stage.alive

        def serve() -> None:  # ingest shows life while it waits: that is where the others get their turn
            alive()
            inference.step()
            sink.step()

        ingest.stage.alive = serve
        take(ingest, wide(9, 2))
        assert (stream.ledger().shed["ring_full"], stream.ledger().received) == (0, 18)


# --- tokens and crashes -------------------------------------------------------------------------------


def test_a_slot_whose_token_died_with_the_sink_comes_back(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 2))
    ((slot, _),) = stream.shared.ring.left_in(READY)
    stream.shared.ring.state[slot] = FREE  # the sink did this and died before it sent the token
    ingest.filling.slots.reclaim()
    assert ingest.filling.slots.lent
    ingest.filling.slots.look()
    assert not ingest.filling.slots.lent
    assert ingest.filling.slots.not_back == 0
    assert free_slots(ingest) == stream.shared.ring.layout.slots


def test_a_token_that_comes_twice_frees_a_slot_once(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 2))
    ((slot, seq),) = stream.shared.ring.left_in(READY)
    stream.shared.ring.state[slot] = FREE
    ingest.filling.slots.look()
    with stream.spec.tokens("ingest") as sink:
        sink.send((slot, seq), (slot, seq))
    ingest.filling.slots.reclaim()
    assert free_slots(ingest) == stream.shared.ring.layout.slots


@pytest.mark.parametrize("line_of_death", range(1, 120, 3))
def test_killed_within_a_train_it_loses_only_what_it_had_not_committed(
    stream: Line, line_of_death: int
) -> None:
    """20 pulses in blocks of 8: what was not received is missing upstream, and nothing is counted twice."""
    ingest = stream.ingest()
    take(ingest, message(1, 20))
    if killed_at(line_of_death, lambda: take(ingest, message(2, 20))):
        stream.kill(ingest)
        ingest = stream.ingest()
    assert FILLING not in stream.states()
    take(ingest, message(3, 20))
    ledger = stream.ledger()
    assert ledger.received + ledger.missing_upstream == 60
    drain(ingest, stream.inference(), stream.sink())
    assert stream.ledger().closed


def test_the_table_of_seen_pulses_survives_a_crash(stream: Line) -> None:
    ingest = stream.ingest()
    take(ingest, message(1, 4), message(2, 4))
    stream.kill(ingest)
    ingest = stream.ingest()
    take(ingest, message(2, 4), message(1, 4))
    assert (stream.ledger().received, stream.ledger().duplicates) == (8, 8)


def test_messages_come_over_the_socket(stream: Line) -> None:
    ingest = stream.ingest()
    until(lambda: ingest.wait(10) or ingest.read_waiting() or stream.source.poll(0, zmq.POLLOUT))
    stream.source.send_multipart(message(1, 3))

    def came() -> bool:
        ingest.wait(10)
        ingest.read_waiting()
        return stream.ledger().received == 3

    until(came)
    assert stream.ledger().messages == 1
