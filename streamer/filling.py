"""The block being filled: from its free slot to whom it is handed.

Owns the slot under way, what is copied into it, the commit that counts it, and the choice of what happens
when nobody can take it. Knows no messages: `ingest` gives it the events of one train after the other.

A block is the events of the messages that came back to back. What a commit has counted is received; what
kill -9 catches before that never was, and shows as a gap in the ids.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streamer.assemble import Events
from streamer.ids import TrainTracker
from streamer.log import Repeated
from streamer.ring import DONE, FILLING, FREE, READY
from streamer.routing import failopen
from streamer.slots import Slots
from streamer.stage import IDLE_MS, Stage
from streamer.wire.types import Buffer

# With so many blocks before inference the next one is better filled than handed on at once: it could not be
# served sooner. Two are under way on a GPU, one waits for it, and one is on its way there.
ENOUGH_BLOCKS = 4
# If it is the sink that holds them, blocks follow one another no sooner than this, by the share of the ring
# that is not back. Each block costs the stages behind us some 0.1 ms of processor time, at the first pace a
# third of a core. A sink that stands still, as at a slow disk, must not use the ring up with small blocks: of
# 64 slots the first half lasts 0.1 s at 1 kHz, the third quarter 0.8 s, the last one is filled to the brim.
PACES_NS = ((0.25, 300_000), (0.5, 5_000_000), (0.75, 50_000_000))


class Received(NamedTuple):
    """When the last byte of a message had come: CLOCK_MONOTONIC, and unix time."""

    at_ns: int
    at_s: float


@dataclass(slots=True)
class Block:
    """The slot being filled."""

    slot: int
    seq: int
    received: Received
    n: int = 0
    committed: int = 0
    end_of_train: bool = False


@dataclass(slots=True)
class Arrived:
    """What came since the last commit. Plain numbers: one in shared memory costs ten times as much."""

    messages: int = 0
    size_bytes: int = 0
    accepted: int = 0
    trains: int = 0


class Filling:
    """Fills slots and hands them on. `tracker` is told of what is committed."""

    def __init__(self, stage: Stage, tracker: TrainTracker) -> None:
        self.stage, self.page, self.ring, self.tracker = stage, stage.page, stage.shared.ring, tracker
        self.values, self.at = self.page.values, self.page.at
        self.keep = stage.spec.settings.on_overload == "keep"
        # Beyond this many blocks with inference, new ones go straight to the sink: the other half of the
        # ring stays free for them, and the wait in front of inference stays bounded.
        self.inference_limit = self.ring.layout.slots // 2
        self.arrived = Arrived()
        self.dirty = False  # counts that no commit has shown yet
        self.block: Block | None = None
        self._in_train = False  # the block handed on last ended within a train
        self._train_direct = False  # and where it went
        self._handed_on_ns = 0
        self._tail = 0  # events of the train under way that lie in no slot yet
        # Where the frames of the message under way were received, and which slot and row that is.
        self._placed: memoryview | None = None
        self._placed_at = (-1, -1)
        self.repeated = Repeated(stage.log)
        self.to_inference, self.to_sink = stage.spec.tokens("inference"), stage.spec.tokens("sink")
        self.freed = stage.spec.tokens("ingest")

    def recover(self) -> None:
        """Take up what a dead predecessor left: its half-filled slot, its unsent tokens, its lost tail."""
        committed, n = int(self.values[self.at["block_seq"]]), int(self.values[self.at["block_n"]])
        for slot, seq in self.ring.left_in(FILLING):
            if seq == committed:  # counted, not handed on
                self.ring.n[slot] = n
                self._mark_seen(slot, 0, n)
                self.ring.state[slot] = READY
            else:
                self._give_back(slot)
        tail = int(self.values[self.at["tail"]])
        if tail:
            # It died within a train: the rest of that train was never received.
            self.values[self.at["missing_upstream"]] += tail
            self.values[self.at["tail"]] = 0
            self.page.commit()
        self.to_inference.send(*self.ring.left_in(READY))
        self.to_sink.send(*self.ring.left_in(DONE))
        self.slots = Slots(self.ring, self.freed)

    def may_store(self) -> bool:
        """With `wait`, a full ring stops the reading: what is not read is not ours to lose."""
        return self.keep or self.slots.any_free()

    # --- events into the slot -----------------------------------------------------------------------

    def place(self, n: int) -> memoryview | None:
        """Where the frames of a message of `n` events will be stored, so that they are received there.

        Asked before the message is known; it decides nothing. What comes otherwise is `moved_out`. The
        slot may be handed on before the message is whole: nobody reads the rows behind its last event, and
        nobody but us writes to it when it has come back.
        """
        if n > self.ring.layout.events:
            return None
        if self.block is not None and self.block.n + n > self.ring.layout.events:
            self.hand_on()
        block = self.block or self._open(Received(time.monotonic_ns(), time.time()))
        if block is None:
            return None
        size = self.ring.layout.event_bytes
        self._placed = self.ring.bytes_of[block.slot][block.n * size : (block.n + n) * size]
        self._placed_at = (block.slot, block.n)
        return self._placed

    def moved_out(self, parts: Sequence[Buffer]) -> list[Buffer]:
        """The parts of a message that turned out to be another one, none of them in the ring any more.

        What lies there might be anything, pulse ids too, and will be written over when the frames are stored.
        """
        return [bytes(part) if part is self._placed else part for part in parts]

    def store(self, events: Events, start: int, stop: int, received: Received) -> None:
        """Copy events start..stop into slots; all of a train go the same way."""
        while start < stop:
            block = self.block or self._open(received)
            if block is None:
                self._shed(events.train_id, stop - start)
                return
            if not block.n:
                block.received = received
            taken = min(self.ring.layout.events - block.n, stop - start)
            self._copy(events, start, start + taken, block)
            start += taken
            block.end_of_train = start == stop and events.n > 1
            self._tail = stop - start
            if block.n == self.ring.layout.events:
                self.hand_on(train_goes_on=start < stop)

    def _copy(self, events: Events, start: int, stop: int, block: Block) -> None:
        ring, slot, first = self.ring, block.slot, block.n
        block.n = first + stop - start
        rows = slice(first, block.n)
        if events.raw is None:
            events.copy_into(ring.frames[slot, rows], start, stop)
        elif events.raw is not self._placed or (slot, first - start) != self._placed_at:
            size = ring.layout.event_bytes
            ring.bytes_of[slot][first * size : block.n * size] = events.raw[start * size : stop * size]
        if events.n == 1:  # an element costs a fifth of a slice
            ring.train_id[slot, first], ring.pulse_id[slot, first] = events.train_id, events.pulse_ids[0]
        else:
            ring.train_id[slot, rows] = events.train_id
            ring.pulse_id[slot, rows] = events.pulse_ids[start:stop]
        if events.marked:
            ring.flags[slot, rows] = events.flags[start:stop]
            ring.missing_modules[slot, rows] = events.missing_modules[start:stop]
            if ring.layout.attached:
                ring.attached[slot, rows] = events.attached[start:stop]

    def _shed(self, train_id: int, count: int) -> None:
        self.tracker.mark_train(train_id)  # it came: later it is no late arrival of a missing train
        self.dirty = True
        self.values[self.at["received"]] += count
        self.values[self.at["shed.ring_full"]] += count
        self._tail = 0
        self.repeated.warn("shed", f"{count} events shed: every slot of the ring is in use")

    # --- the block ----------------------------------------------------------------------------------

    def _open(self, received: Received) -> Block | None:
        """Begin a block in a free slot; None if there is none and waiting is not allowed."""
        slot = self.slots.take()
        while slot is None and not self.keep and not self.stage.overdue:
            self.freed.wait(IDLE_MS)
            self.stage.alive()
            slot = self.slots.take()
        if slot is None:
            return None
        seq = int(self.values[self.at["block_seq"]]) + 1
        self.ring.seq[slot], self.ring.state[slot] = seq, FILLING
        self.ring.flags[slot] = self.ring.missing_modules[slot] = 0
        # The time of the first message: the latency of a block is that of its oldest event.
        self.block = Block(slot, seq, received)
        return self.block

    def commit(self) -> None:
        """Count what the block holds so far as received: from here on no crash loses it."""
        block = self.block
        if block is not None and block.n > block.committed:
            self._fill_header(block)
            self.values[self.at["received"]] += block.n - block.committed
            self.values[self.at["block_seq"]], self.values[self.at["block_n"]] = block.seq, block.n
            self.commit_page()
            self._mark_seen(block.slot, block.committed, block.n)
            block.committed = block.n
        elif self.dirty:
            self.commit_page()

    def commit_page(self) -> None:
        values, at, arrived = self.values, self.at, self.arrived
        values[at["messages"]] += arrived.messages
        values[at["bytes"]] += arrived.size_bytes
        values[at["accepted"]] += arrived.accepted
        values[at["trains"]] += arrived.trains
        values[at["tail"]] = self._tail
        self.arrived, self.dirty = Arrived(), False
        self.page.commit()
        self.stage.alive()

    def end_turn(self) -> None:
        """Nothing more has come: hand the block on, unless it could not be served sooner anyway."""
        self.slots.reclaim()
        if self._better_filled():
            self.commit()
        else:
            self.hand_on()

    def _better_filled(self) -> bool:
        if self.slots.not_back < ENOUGH_BLOCKS:
            return False
        share = self.slots.not_back / self.ring.layout.slots
        pace_ns = next((pace_ns for most, pace_ns in PACES_NS if share < most), None)
        if pace_ns is None or time.monotonic_ns() - self._handed_on_ns < pace_ns:
            return True
        return self.slots.waiting_for_inference() >= ENOUGH_BLOCKS

    @property
    def waits(self) -> bool:
        """The block has events, and grows until another comes back."""
        return self.block is not None and self.block.n > 0

    def hand_on(self, train_goes_on: bool = False) -> None:
        """Commit the block, then give it away."""
        self.commit()
        block = self.block
        if block is None or not block.n:
            return
        self.block, self._handed_on_ns = None, time.monotonic_ns()
        direct = self._goes_direct(train_goes_on)
        self.slots.lend(block.slot, direct)
        self._give(block, direct)

    def finish(self) -> None:
        """Hand on what there is, and give back a slot that was opened for frames that did not come."""
        self.hand_on()
        if self.block is not None:
            self._give_back(self.block.slot)
            self.block = None

    def _give_back(self, slot: int) -> None:
        """Nothing is in it: whoever looks at free slots must not take it for the block before."""
        self.ring.n[slot] = 0
        self.ring.state[slot] = FREE

    def _fill_header(self, block: Block) -> None:
        ring, slot = self.ring, block.slot
        ring.n[slot], ring.attempts[slot], ring.version[slot] = block.n, 0, 0
        ring.end_of_train[slot] = block.end_of_train
        ring.received_ns[slot], ring.received_at_s[slot] = block.received.at_ns, block.received.at_s

    def _goes_direct(self, train_goes_on: bool) -> bool:
        """Straight to the sink when inference has its share of the ring; a begun train stays together."""
        direct = self._train_direct if self._in_train else self._overloaded()
        self._in_train, self._train_direct = train_goes_on, direct
        return direct

    def _overloaded(self) -> bool:
        """Inference holds its share. What the sink still holds of it counts only until we look closer."""
        if not self.keep or self.slots.not_back < self.inference_limit:
            return False
        return self.slots.waiting_for_inference() >= self.inference_limit

    def _give(self, block: Block, direct: bool) -> None:
        ring, slot, n = self.ring, block.slot, block.n
        if direct:
            decision = failopen(n, "overload")
            ring.packed[slot, :n] = np.nan
            ring.verdict[slot, :n] = decision.verdict
            ring.route[slot, :n] = decision.route
            ring.reason[slot, :n] = decision.reason
        ring.state[slot] = DONE if direct else READY
        (self.to_sink if direct else self.to_inference).send((slot, block.seq))

    def _mark_seen(self, slot: int, start: int, stop: int) -> None:
        self.tracker.mark(self.ring.train_id[slot, start:stop], self.ring.pulse_id[slot, start:stop])
