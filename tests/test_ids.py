"""Train and pulse ids: gaps, duplicates, disorder, resets, and what survives a crash."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.ids import MAX_GAP_TRAINS, TABLE_BYTES, WINDOW_TRAINS, TrainTracker
from streamer.ledger import Page, ingest_layout

PULSES = 4


class Source:
    """Ingest's use of the tracker without its sockets: arrive, commit, mark."""

    def __init__(self, step: int = 1) -> None:
        self.layout = ingest_layout()
        self.pages = memoryview(bytearray(self.layout.size_bytes))
        self.table = memoryview(bytearray(TABLE_BYTES))
        self.step = step
        self.start()

    def start(self) -> None:
        """Also after a crash: uncommitted counts are gone, page and table stay."""
        self.page = Page(self.pages, self.layout)
        self.tracker = TrainTracker(self.page, self.table, self.step)

    def train(self, train_id: int, pulses: Sequence[int] | int = PULSES) -> list[int]:
        """The pulses of one train that are new; committed and marked."""
        ids = np.array(range(pulses) if isinstance(pulses, int) else pulses, np.uint64)
        arrival = self.tracker.arrive(train_id, ids)
        self.page.commit()
        fresh = ids if arrival.fresh is None else ids[arrival.fresh]
        self.tracker.mark(np.full(len(fresh), train_id, np.uint64), fresh)
        if not len(ids):
            self.tracker.mark_train(train_id)
        self.late = arrival.late
        return [int(i) for i in fresh]

    def get(self, name: str) -> int:
        return self.page.get(self.page.read(), name)

    @property
    def missing(self) -> tuple[int, int]:
        return self.get("missing_upstream_trains"), self.get("missing_upstream")


@pytest.fixture
def source() -> Source:
    return Source()


# --- gaps -------------------------------------------------------------------------------------------


def test_trains_one_after_the_other_miss_nothing(source: Source) -> None:
    assert [source.train(t) for t in (100, 101, 102)] == [[0, 1, 2, 3]] * 3
    assert (source.missing, source.get("id_jumps"), source.late) == ((0, 0), 0, False)


@pytest.mark.parametrize("gap", [1, 2, 1000])
def test_a_gap_counts_its_trains_at_the_last_known_size(source: Source, gap: int) -> None:
    source.train(100)
    source.train(101 + gap)
    assert source.missing == (gap, gap * PULSES)


def test_the_first_train_is_no_gap(source: Source) -> None:
    source.train(2**50)
    assert (source.missing, source.get("id_jumps")) == ((0, 0), 0)


def test_a_gap_is_measured_in_steps_of_the_machine() -> None:
    source = Source(step=3)
    source.train(30)
    source.train(33)
    assert source.missing == (0, 0)
    source.train(42)
    assert source.missing == (2, 2 * PULSES)


def test_a_rejected_message_explains_one_train_of_a_gap(source: Source) -> None:
    source.train(100)
    source.tracker.reject()
    source.train(103)
    assert source.missing == (1, PULSES)
    source.train(105)
    assert source.missing == (2, 2 * PULSES), "the rejected one is used up"


def test_more_rejects_than_gap_make_no_negative_loss(source: Source) -> None:
    source.train(100)
    source.tracker.reject()
    source.tracker.reject()
    source.train(102)
    assert source.missing == (0, 0)


def test_an_empty_train_is_no_gap_and_does_not_change_the_nominal_size(source: Source) -> None:
    source.train(100)
    assert source.train(101, 0) == []
    source.train(103)
    assert source.missing == (1, PULSES)


# --- jumps ------------------------------------------------------------------------------------------


def test_a_step_forward_of_2_to_the_40_is_a_jump_and_no_loss(source: Source) -> None:
    source.train(100)
    assert source.train(100 + 2**40) == [0, 1, 2, 3]
    assert (source.missing, source.get("id_jumps")) == ((0, 0), 1)
    assert [source.train(t) for t in (101, 102, 103)] == [[0, 1, 2, 3]] * 3
    assert (source.missing, source.get("id_jumps"), source.get("last_train")) == ((0, 0), 2, 103), "and back"


@pytest.mark.parametrize(("gap", "jumps"), [(MAX_GAP_TRAINS, 0), (MAX_GAP_TRAINS + 1, 1)])
def test_where_a_loss_ends_and_a_jump_begins(source: Source, gap: int, jumps: int) -> None:
    source.train(1)
    source.train(2 + gap)
    assert source.get("id_jumps") == jumps
    assert source.missing[0] == (0 if jumps else gap)


def test_a_reset_to_0_goes_on_from_0(source: Source) -> None:
    for train in (50_000, 50_001):
        source.train(train)
    assert [source.train(t) for t in (0, 1)] == [[0, 1, 2, 3]] * 2
    assert (source.missing, source.get("id_jumps"), source.get("last_train")) == ((0, 0), 1, 1)
    source.train(3)
    assert source.missing == (1, PULSES)


def test_one_stray_old_train_is_neither_a_jump_nor_a_loss(source: Source) -> None:
    for train in (50_000, 100, 50_001):
        assert source.train(train) == [0, 1, 2, 3]
        assert source.late == (train == 100)
    assert (source.missing, source.get("id_jumps"), source.get("last_train")) == ((0, 0), 0, 50_001)


def test_a_crash_between_the_two_trains_that_show_a_reset(source: Source) -> None:
    source.train(50_000)
    source.train(0)
    source.start()
    source.train(1)
    assert (source.get("id_jumps"), source.get("last_train")) == (1, 1)


def test_the_largest_train_id_fits(source: Source) -> None:
    assert source.train(2**63 - 2) == [0, 1, 2, 3]
    assert source.train(2**63 - 2) == []


# --- duplicates and disorder ------------------------------------------------------------------------


def test_a_duplicate_at_once_is_dropped(source: Source) -> None:
    source.train(100)
    assert source.train(100) == []
    assert not source.late, "the same train is not out of order"


def test_a_train_in_two_messages_is_whole(source: Source) -> None:
    assert source.train(100, [0, 2]) == [0, 2]
    assert source.train(100, [1, 2, 3]) == [1, 3]


def test_a_duplicate_within_the_window_is_dropped(source: Source) -> None:
    for train in range(100, 100 + WINDOW_TRAINS):
        source.train(train)
    assert source.train(100) == []
    assert source.late


def test_a_duplicate_from_before_the_window_is_taken_again_and_flagged(source: Source) -> None:
    for train in range(100, 101 + WINDOW_TRAINS):
        source.train(train)
    assert source.train(100) == [0, 1, 2, 3]
    assert source.late
    assert (source.missing, source.get("id_jumps")) == ((0, 0), 0)


def test_a_train_of_which_nothing_was_kept_was_not_missing(source: Source) -> None:
    """Its message was shed or refused: when it comes again its pulses are new, the losses are as before."""
    source.train(100)
    source.train(102)
    source.tracker.arrive(103, np.arange(PULSES, dtype=np.uint64))
    source.page.commit()
    source.tracker.mark_train(103)
    assert source.train(103) == [0, 1, 2, 3]
    assert source.missing == (1, PULSES)
    source.tracker.mark_train(103)
    assert source.train(103) == [], "marking again forgets nothing"


def test_pulses_that_come_after_their_train_came_without_are_neither_late_nor_were_missing(
    source: Source,
) -> None:
    source.train(100)
    source.train(105)
    assert source.train(106, 0) == []
    assert source.train(106) == [0, 1, 2, 3]
    assert (source.missing, source.late) == ((4, 4 * PULSES), False)
    source.train(107, 0)
    source.train(108, 0)
    assert source.train(107) == [0, 1, 2, 3]
    assert source.missing == (4, 4 * PULSES)


def test_a_train_without_pulses_is_not_late_after_a_crash_before_it_was_marked(source: Source) -> None:
    source.train(100)
    source.train(102)
    source.tracker.arrive(103, np.zeros(0, np.uint64))
    source.page.commit()
    source.start()
    assert source.train(103) == [0, 1, 2, 3]
    assert (source.missing, source.late) == ((1, PULSES), False)


def test_a_late_train_without_pulses_fills_its_gap_once(source: Source) -> None:
    source.train(100)
    source.train(103)
    source.train(101, 0)
    source.train(101, 0)
    assert source.train(101) == [0, 1, 2, 3]
    assert source.missing == (1, PULSES)


def test_a_late_train_fills_the_gap_that_it_left(source: Source) -> None:
    for train in (100, 102, 101):
        assert source.train(train) == [0, 1, 2, 3]
    assert (source.missing, source.late) == ((0, 0), True)
    assert source.train(101) == []
    assert source.missing == (0, 0)


def test_a_late_train_after_no_known_loss_makes_nothing_negative(source: Source) -> None:
    source.train(100)
    source.train(99)
    assert source.missing == (0, 0)


def test_a_crash_forgets_what_was_not_committed_and_nothing_else(source: Source) -> None:
    source.train(100)
    source.tracker.arrive(105, np.arange(PULSES, dtype=np.uint64))  # and dies before the commit
    source.start()
    assert (source.missing, source.get("last_train")) == ((0, 0), 100)
    assert source.train(100) == [], "the table of seen pulses survives"
    source.train(102)
    assert source.missing == (1, PULSES)


def test_a_row_of_the_table_belongs_to_one_train_at_a_time(source: Source) -> None:
    source.train(5, [0, 1])
    source.train(5 + WINDOW_TRAINS, [2, 3])
    assert source.train(5 + WINDOW_TRAINS, [0, 1, 2, 3]) == [0, 1]


def test_two_trains_of_one_row_in_one_block_keep_their_own_pulses(source: Source) -> None:
    early, late = 5000, 5000 + WINDOW_TRAINS
    for train, pulses in ((early, range(10)), (late, range(10, 20))):
        source.tracker.arrive(train, np.array(pulses, np.uint64))
    source.page.commit()
    trains = np.repeat(np.array([early, late], np.uint64), 10)
    for _ in range(2):  # after a crash the block is marked again
        source.tracker.mark(trains, np.arange(20, dtype=np.uint64))
    assert source.train(late, 20) == list(range(10)), "the pulses of the other train are not its own"
    assert source.train(late, 20) == []


@pytest.mark.parametrize("kept", [True, False], ids=["stored", "shed"])
def test_a_stray_train_does_not_make_us_forget_a_recent_one(source: Source, kept: bool) -> None:
    for train in range(10_000, 10_101):
        source.train(train)
    stray = 10_050 - 2 * WINDOW_TRAINS
    if kept:
        assert source.train(stray) == [0, 1, 2, 3]
    else:
        source.tracker.mark_train(stray)
    assert source.train(10_050) == []


@pytest.mark.parametrize("kept", [True, False], ids=["stored", "shed"])
def test_after_a_reset_the_rows_of_the_old_clock_are_used_again(source: Source, kept: bool) -> None:
    for train in (*range(50_000, 50_000 + WINDOW_TRAINS), 0, 1):
        source.train(train)
    assert source.get("last_train") == 1
    if kept:
        source.train(2)
    else:
        source.tracker.arrive(2, np.arange(PULSES, dtype=np.uint64))
        source.page.commit()
        source.tracker.mark_train(2)
        assert source.train(2) == [0, 1, 2, 3]
    assert source.train(2) == []
    assert source.train(1) == []


@pytest.mark.parametrize("step", [1, 2, 3, 1024])
def test_duplicates_are_seen_at_any_step_of_the_machine(step: int) -> None:
    source = Source(step)
    for index in range(WINDOW_TRAINS):
        source.train(index * step, 1)
    assert [source.train(index * step, 1) for index in (0, 1, 511, 1023)] == [[]] * 4
    assert source.missing == (0, 0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_order_within_the_window_counts_each_pulse_once_and_knows_what_is_missing(
    data: st.DataObject,
) -> None:
    """Trains of a run, some never sent, some twice, each at most 20 places from its turn, with crashes."""
    source = Source()
    sent = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=60), "trains, with duplicates")
    shift = data.draw(st.lists(st.integers(0, 20), min_size=len(sent), max_size=len(sent)), "delays")
    order = [train for _, train in sorted((t + s, t) for t, s in zip(sent, shift, strict=True))]
    crashes = data.draw(st.sets(st.integers(0, len(sent))), "crashes before the nth")
    source.train(1000)  # the run begins; everything before is too late to be missed
    received: list[tuple[int, int]] = []
    for index, train in enumerate(order):
        if index in crashes:
            source.start()
        received += [(train, pulse) for pulse in source.train(1000 + train)]
    assert len(received) == len(set(received)), "a pulse came twice"
    assert {train for train, _ in received} == set(sent)
    lost = max(sent) - len(set(sent))
    assert source.missing == (lost, lost * PULSES)
    assert source.get("id_jumps") == 0
