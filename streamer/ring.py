"""The ring: slots in shared memory, each holding one block from its arrival to its storage.

Owns the layout of the memory and the words of a slot's life; knows neither sockets nor clocks.

    FREE ──ingest──> FILLING ──ingest──> READY ──inference──> TAKEN ──inference──> DONE ──sink──> FREE
                        └────────── ingest, when inference cannot keep up ─────────> DONE

A slot belongs to one process at a time and moves by token (slot, seq; `tokens`). The state in the
header table is written by the owner *before* the token leaves, and is read only for the slot a token names,
or after a death: a process that starts scans the table and takes up what was left to it. A token that does
not fit the table (wrong seq, wrong state) is an echo of such a recovery and is ignored, so tokens may be
lost with a dead process, or come twice, and nothing is lost or done twice.

Arrays, with S slots, E events a slot, K attached scalars, R packed result numbers:
    frames [S, E, *event], train_id, pulse_id, flags, missing_modules [S, E], attached [S, E, K],
    packed [S, E, R], verdict, route, reason [S, E]
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.memory import aligned, carve

FREE, FILLING, READY, TAKEN, DONE = range(5)

SLOT_DTYPE = np.dtype(
    [
        ("seq", "u8"),  # number of the block, counted by ingest from 1; committed numbers are not used again
        ("state", "u4"),
        (
            "attempts",
            "u4",
        ),  # how often inference began with it: a block that kills its worker is not tried for ever
        ("n", "u8"),  # events in the block
        ("end_of_train", "u4"),  # the block ends a train of several pulses: no reason to wait for more
        ("version", "u4"),  # of the stream, that answered: `versions` has it by this number; 0 none did
        ("received_ns", "i8"),  # CLOCK_MONOTONIC when the last byte of its first message had come
        ("received_at_s", "f8"),  # the same moment, unix time
    ],
    align=True,
)


@dataclass(frozen=True)
class RingLayout:
    """Sizes of a ring; every process computes the same one from the configuration."""

    slots: int
    events: int
    event_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attached: int = 0
    packed: int = 0

    @cached_property
    def event_bytes(self) -> int:
        return prod(self.event_shape) * self.dtype.itemsize

    def arrays(self) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
        per_event = (self.slots, self.events)
        return [
            ("header", SLOT_DTYPE, (self.slots,)),
            ("train_id", np.dtype("u8"), per_event),
            ("pulse_id", np.dtype("u8"), per_event),
            ("flags", np.dtype("u4"), per_event),
            ("missing_modules", np.dtype("u8"), per_event),
            ("attached", np.dtype("f8"), (*per_event, self.attached)),
            ("packed", np.dtype("f4"), (*per_event, self.packed)),
            ("verdict", np.dtype("u1"), per_event),
            ("route", np.dtype("i2"), per_event),
            ("reason", np.dtype("u1"), per_event),
            ("frames", self.dtype, (*per_event, *self.event_shape)),
        ]

    @property
    def sizes_bytes(self) -> list[int]:
        return [prod(shape) * dtype.itemsize for _, dtype, shape in self.arrays()]

    @property
    def size_bytes(self) -> int:
        return sum(aligned(size) for size in self.sizes_bytes)


class Ring:
    """Numpy views of one ring's memory; the module docstring says who may touch which slot."""

    header: npt.NDArray[np.void]
    train_id: npt.NDArray[np.uint64]
    pulse_id: npt.NDArray[np.uint64]
    flags: npt.NDArray[np.uint32]
    missing_modules: npt.NDArray[np.uint64]
    attached: npt.NDArray[np.float64]
    packed: npt.NDArray[np.float32]
    verdict: npt.NDArray[np.uint8]
    route: npt.NDArray[np.int16]
    reason: npt.NDArray[np.uint8]
    frames: npt.NDArray[Any]

    def __init__(self, memory: memoryview, layout: RingLayout) -> None:
        self.layout = layout
        sections = carve(memory, layout.sizes_bytes)
        for (name, dtype, shape), section in zip(layout.arrays(), sections, strict=True):
            setattr(self, name, np.frombuffer(section, dtype).reshape(shape))
        # One column each: a scalar store into a plain array costs a third of one into a record.
        self.state: npt.NDArray[np.uint32] = self.header["state"]
        self.seq: npt.NDArray[np.uint64] = self.header["seq"]
        self.n: npt.NDArray[np.uint64] = self.header["n"]
        self.attempts: npt.NDArray[np.uint32] = self.header["attempts"]
        self.end_of_train: npt.NDArray[np.uint32] = self.header["end_of_train"]
        self.version: npt.NDArray[np.uint32] = self.header["version"]
        self.received_ns: npt.NDArray[np.int64] = self.header["received_ns"]
        self.received_at_s: npt.NDArray[np.float64] = self.header["received_at_s"]
        self.bytes_of = [memoryview(slot.reshape(-1).view(np.uint8)) for slot in self.frames]

    def holds(self, slot: int, seq: int, *states: int) -> bool:
        """True if `slot` still is block `seq` in one of `states`: else the token is an echo."""
        return slot < self.layout.slots and int(self.seq[slot]) == seq and int(self.state[slot]) in states

    def left_in(self, *states: int) -> list[tuple[int, int]]:
        """(slot, seq) of every slot in one of `states`, oldest block first: what a dead owner left."""
        slots = np.flatnonzero(np.isin(self.state, states))
        return sorted(((int(slot), int(self.seq[slot])) for slot in slots), key=lambda token: token[1])
