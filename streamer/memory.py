"""Anonymous shared memory, carved into aligned sections.

Owns the creation and mapping of the memory that the processes of one stream share; knows nothing of
what lies in it. The memory is a memfd: children inherit the descriptor, nothing has a name in the file
system, so whatever is killed, and however, the kernel frees it with the last process.
"""

import ctypes
import mmap
import os
from collections.abc import Sequence

# One page: sections never share a cache line, and CUDA registers host memory by pages.
ALIGNMENT_BYTES = 4096
# From linux/mman.h; the mmap module has no name for it before Python 3.14.
MADV_POPULATE_WRITE = 23
# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def create(name: str, size_bytes: int) -> int:
    """Create a memory of `size_bytes` zeros; returns its inheritable file descriptor."""
    fd = os.memfd_create(name)
    os.ftruncate(fd, size_bytes)
    os.set_inheritable(fd, True)
    return fd


def attach(fd: int, read_only: bool = False) -> memoryview:
    """Map the whole memory behind `fd`, shared and writable; `read_only`: to look on, a write raises."""
    access = mmap.ACCESS_READ if read_only else mmap.ACCESS_DEFAULT
    return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, access=access))


def populate(memory: memoryview) -> None:
    """Touch every page now, not in the hot path. A kernel before 5.14 cannot; then it happens there."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), MADV_POPULATE_WRITE)


def keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse the buffers of large messages instead of giving them back to the kernel.

    It maps and unmaps an allocation of some MB each time, and every page of it faults anew: at 1 MB and more
    that costs as much as the copy. Other C libraries have no `mallopt`; there nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # the other arenas cannot hold more than 64 MB
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def carve(memory: memoryview, sizes_bytes: Sequence[int]) -> list[memoryview]:
    """Cut `memory` into consecutive sections, each beginning on a page."""
    needed = sum(aligned(size) for size in sizes_bytes)
    if needed > len(memory):
        raise ValueError(f"shared memory: sections need {needed} bytes, the memory has {len(memory)}")
    sections, start = [], 0
    for size in sizes_bytes:
        sections.append(memory[start : start + size])
        start += aligned(size)
    return sections
