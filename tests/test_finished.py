"""Which finished blocks go together, and what is read of them."""

import numpy as np
import pytest

from models.manifest import Column
from streamer.finished import MAX_BLOCKS, Reader
from streamer.ring import DONE, FREE, Ring, RingLayout
from streamer.routing import failopen_code

EVENTS, SLOTS = 3, MAX_BLOCKS + 4
COLUMNS = (Column("p", "float32", ("a", "b")), Column("label", "uint32"))
LAYOUT = RingLayout(SLOTS, EVENTS, (5,), np.dtype("u2"), attached=2, packed=3)


@pytest.fixture
def ring() -> Ring:
    """Blocks 1, 2, ... in slots 0, 1, ..., a train each, with answers of one bundle."""
    made = Ring(memoryview(bytearray(LAYOUT.size_bytes)), LAYOUT)
    made.seq[:] = np.arange(SLOTS) + 1
    made.state[:], made.n[:], made.version[:] = DONE, EVENTS, 1
    made.train_id[:] = 100 + np.arange(SLOTS)[:, None]
    made.pulse_id[:] = np.arange(EVENTS)
    made.packed[:] = np.arange(SLOTS * EVENTS * 3).reshape(SLOTS, EVENTS, 3)
    made.attached[:] = made.packed[..., :2] / 10
    made.received_at_s[:] = 1000 + np.arange(SLOTS)
    made.frames[:] = np.arange(SLOTS * EVENTS).reshape(SLOTS, EVENTS, 1)
    return made


def reader(ring: Ring) -> Reader:
    return Reader(ring, COLUMNS, ("energy", "delay"))


def numbers(ring: Ring, *seqs: int) -> list[list[int]]:
    """The groups of tokens that come in this order, by the numbers of their blocks."""
    groups = reader(ring).groups([(seq - 1, seq) for seq in seqs])
    return [[seq for _, seq in group.tokens] for group in groups]


def test_blocks_that_follow_one_another_go_together(ring: Ring) -> None:
    assert numbers(ring, 1, 2, 3) == [[1, 2, 3]]
    assert numbers(ring, 2, 3, 1, 4) == [[2, 3], [1], [4]]
    assert numbers(ring) == []


def test_what_must_differ_stays_apart(ring: Ring) -> None:
    ring.version[1] = 0  # no model answered
    assert numbers(ring, 1, 2, 3) == [[1], [2], [3]]
    ring.version[1] = 1
    ring.version[2] = 7  # another version did
    assert numbers(ring, 1, 2, 3, 4) == [[1, 2], [3], [4]]
    ring.reason[0, 0] = failopen_code("overload")  # verdicts still to be published
    assert numbers(ring, 1, 2) == [[1], [2]]


def test_a_train_before_the_last_one_begins_a_group(ring: Ring) -> None:
    ring.train_id[2] = 101  # the same as the block before
    ring.train_id[3] = 99
    assert numbers(ring, 1, 2, 3, 4) == [[1, 2, 3], [4]]


def test_echoes_are_left_out(ring: Ring) -> None:
    ring.state[1] = FREE
    assert numbers(ring, 1, 2, 3) == [[1], [3]]
    assert list(reader(ring).groups([(0, 99), (SLOTS, 1)])) == []


def test_a_token_that_came_twice_is_an_echo_once_its_block_is_done(ring: Ring) -> None:
    groups = reader(ring).groups([(0, 1), (0, 1), (1, 2)])
    assert next(groups).tokens == [(0, 1)]
    ring.state[0] = FREE
    assert [group.tokens for group in groups] == [[(1, 2)]]


def test_a_group_has_a_bound(ring: Ring) -> None:
    assert [len(group) for group in numbers(ring, *range(1, SLOTS + 1))] == [MAX_BLOCKS, SLOTS - MAX_BLOCKS]


def test_empty_blocks_are_alone(ring: Ring) -> None:
    ring.n[1] = 0
    assert numbers(ring, 1, 2, 3) == [[1], [2], [3]]
    assert reader(ring).read(next(reader(ring).groups([(1, 2)]))).n == 0


@pytest.mark.parametrize("tokens", [[(4, 5)], [(4, 5), (5, 6)], [(9, 8), (0, 9), (1, 10)]])
def test_columns_are_those_of_the_slots_one_after_the_other(
    ring: Ring, tokens: list[tuple[int, int]]
) -> None:
    for number, (slot, seq) in enumerate(tokens):
        ring.seq[slot], ring.train_id[slot] = seq, 200 + number
    ring.n[tokens[-1][0]] = 2  # not full
    (group,) = reader(ring).groups(tokens)
    done = reader(ring).read(group)
    rows = [(slot, i) for slot, _ in tokens for i in range(int(ring.n[slot]))]
    expected = {
        "train_id": [ring.train_id[row] for row in rows],
        "pulse_id": [ring.pulse_id[row] for row in rows],
        "received_at": [ring.received_at_s[slot] for slot, _ in rows],
        "energy": [ring.attached[row][0] for row in rows],
        "p": [ring.packed[row][:2] for row in rows],
        "label": [ring.packed[row][2] for row in rows],
    }
    assert done.n == len(rows)
    for name, values in expected.items():
        np.testing.assert_array_equal(done.columns[name], values)
    assert all(column.flags.c_contiguous for column in done.columns.values())
    assert done.columns["label"].dtype == np.uint32
    frames = [ring.frames[row] for row in rows]
    np.testing.assert_array_equal(done.frames[done.frame_at], frames)
    assert done.received_at_s == ring.received_at_s[tokens[0][0]]
