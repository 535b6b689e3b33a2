"""Shared memory: sections that cannot overlap, and that another process sees."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.memory import ALIGNMENT_BYTES, aligned, attach, carve, create


@given(st.lists(st.integers(0, 3 * ALIGNMENT_BYTES), max_size=8))
def test_sections_begin_on_pages_and_do_not_overlap(sizes_bytes: list[int]) -> None:
    whole = memoryview(bytearray(sum(aligned(size) for size in sizes_bytes)))
    sections = carve(whole, sizes_bytes)
    assert [len(section) for section in sections] == sizes_bytes
    for index, section in enumerate(sections):
        section[:] = bytes([index + 1]) * len(section)
    start = 0
    for index, size in enumerate(sizes_bytes):
        assert start % ALIGNMENT_BYTES == 0
        assert bytes(whole[start : start + size]) == bytes([index + 1]) * size
        start += aligned(size)


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)])
def test_sizes_round_up_to_pages(size: int, expected: int) -> None:
    assert aligned(size) == expected


def test_too_small_a_memory_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match="sections need 8192 bytes, the memory has 4096"):
        carve(memoryview(bytearray(4096)), [1, 1])


def test_fresh_memory_is_zero_and_of_the_size_asked() -> None:
    fd = create("test", 10_000)
    try:
        memory = attach(fd)
        assert len(memory) == 10_000
        assert not any(memory)
    finally:
        os.close(fd)


def test_a_child_writes_into_the_memory_that_it_inherits() -> None:
    fd = create("test", 4096)
    try:
        memory = attach(fd)
        code = f"from streamer.memory import attach; attach({fd})[7:10] = b'abc'"
        subprocess.run([sys.executable, "-c", code], pass_fds=[fd], check=True, timeout=30)
        assert bytes(memory[6:11]) == b"\0abc\0"
    finally:
        os.close(fd)


def test_the_memory_outlives_its_descriptor_while_mapped() -> None:
    fd = create("test", 4096)
    memory = attach(fd)
    os.close(fd)
    memory[0] = 9
    assert memory[0] == 9


def test_who_only_looks_cannot_write() -> None:
    fd = create("test", 4096)
    try:
        memory, looked = attach(fd), attach(fd, read_only=True)
        memory[5] = 7
        assert looked[5] == 7
        with pytest.raises(TypeError):
            looked[5] = 8
    finally:
        os.close(fd)


def test_the_buffers_of_large_messages_are_used_again() -> None:
    """Page faults of ten allocations of 64 MiB; each has 16384 where malloc maps them anew."""
    code = (
        "import resource; from streamer.memory import keep_freed_memory; keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "bytearray(64 << 20); before = faults()\n"
        "for _ in range(10): bytearray(64 << 20)\n"
        "print(faults() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert int(done.stdout) < 16384
