"""Batches: all that waits, whole blocks, oldest first, never later than asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.batching import Batcher, Waiting

MS = 1_000_000


def block(seq: int, events: int = 1, received_ns: int = 0, end_of_train: bool = False) -> Waiting:
    return Waiting(seq % 7, seq, events, received_ns, end_of_train)


def seqs(batch: list[Waiting]) -> list[int]:
    return [b.seq for b in batch]


def test_nothing_waits() -> None:
    batcher = Batcher(4)
    assert (batcher.ready_at_ns(), batcher.take(0), len(batcher), batcher.events) == (None, [], 0, 0)


def test_all_that_waits_goes_in_order() -> None:
    batcher = Batcher(64)
    for seq in (3, 1, 2):
        batcher.add(block(seq, 5))
    assert (len(batcher), batcher.events) == (3, 15)
    assert seqs(batcher.take(0)) == [3, 1, 2], "in the order of arrival"
    assert (len(batcher), batcher.events) == (0, 0)


def test_a_block_that_does_not_fit_waits_for_the_next_batch_and_is_not_overtaken() -> None:
    batcher = Batcher(10)
    for seq, events in ((1, 6), (2, 6), (3, 1)):
        batcher.add(block(seq, events))
    assert seqs(batcher.take(0)) == [1]
    assert seqs(batcher.take(0)) == [2, 3]


def test_a_block_larger_than_a_batch_goes_alone() -> None:
    batcher = Batcher(4)
    for seq, events in ((1, 2), (2, 9), (3, 2)):
        batcher.add(block(seq, events))
    assert [seqs(batcher.take(0)) for _ in range(3)] == [[1], [2], [3]]


def test_without_a_wait_a_block_is_ready_when_it_came() -> None:
    batcher = Batcher(64)
    batcher.add(block(1, received_ns=5 * MS))
    assert batcher.ready_at_ns() == 5 * MS


def test_a_batch_may_grow_until_its_oldest_block_has_waited_enough() -> None:
    batcher = Batcher(64, max_wait_s=0.010)
    batcher.add(block(1, received_ns=0))
    batcher.add(block(2, received_ns=8 * MS))
    assert batcher.ready_at_ns() == 10 * MS
    assert batcher.take(10 * MS - 1) == []
    assert seqs(batcher.take(10 * MS)) == [1, 2]


def test_a_full_batch_does_not_wait() -> None:
    batcher = Batcher(4, max_wait_s=10)
    batcher.add(block(1, 2))
    assert batcher.take(MS) == []
    batcher.add(block(2, 2))
    assert seqs(batcher.take(MS)) == [1, 2]


def test_the_end_of_a_train_ends_the_wait() -> None:
    batcher = Batcher(64, max_wait_s=10)
    batcher.add(block(1))
    batcher.add(block(2, end_of_train=True))
    assert seqs(batcher.take(MS)) == [1, 2]


def test_an_end_that_was_taken_does_not_end_the_next_wait() -> None:
    batcher = Batcher(4, max_wait_s=1)
    batcher.add(block(1, 4, end_of_train=True))
    batcher.add(block(2, 1))
    assert seqs(batcher.take(0)) == [1]
    assert batcher.take(0) == []


def test_no_batch_is_empty_by_size() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Batcher(0)


@given(
    st.integers(1, 20),
    st.sampled_from([0.0, 0.005]),
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3 * MS), st.booleans()), max_size=30),
)
def test_every_block_goes_once_in_order_and_no_batch_is_too_large(
    max_events: int, max_wait_s: float, steps: list[tuple[int, int, bool]]
) -> None:
    batcher, now_ns, taken = Batcher(max_events, max_wait_s), 0, []
    for seq, (events, pause_ns, end) in enumerate(steps):
        now_ns += pause_ns
        batcher.add(block(seq, events, now_ns, end))
        taken.append(batcher.take(now_ns))
    while len(batcher):
        ready_at_ns = batcher.ready_at_ns()
        assert ready_at_ns is not None
        assert ready_at_ns <= now_ns + 5 * MS
        now_ns = max(now_ns, ready_at_ns)
        taken.append(batcher.take(now_ns))
        assert taken[-1], "take gives a batch at the time that ready_at_ns names"
    assert seqs([b for batch in taken for b in batch]) == list(range(len(steps)))
    for batch in taken:
        assert len(batch) <= 1 or sum(b.events for b in batch) <= max_events
    assert batcher.events == 0
