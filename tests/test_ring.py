"""The ring: where its arrays lie, and which tokens still mean something."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.memory import ALIGNMENT_BYTES
from streamer.ring import (
    DONE,
    FREE,
    READY,
    SLOT_DTYPE,
    TAKEN,
    Ring,
    RingLayout,
    decode_tokens,
    encode_tokens,
)

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


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1)), max_size=20))
def test_tokens_round_trip(tokens: list[tuple[int, int]]) -> None:
    message = encode_tokens(tokens)
    assert len(message) == 16 * len(tokens)
    assert decode_tokens(message) == tokens


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
