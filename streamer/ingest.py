"""First stage: from the facility's socket into the ring.

Owns reception, the one copy of the data on the host, the counting of what came, and the choice of what
happens when nobody can take it. Formats are in `wire`, the events of a message in `assemble`, ids in `ids`.

A block is the events of the messages that came back to back: it is handed on when nothing more waits, or
when it is full, or, with enough blocks before inference, when one of those comes back. So a slow source gets
the least latency and a fast one the least cost. What a commit has counted is received; what kill -9 catches
before that never was, and shows as a gap in the ids.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zmq

from streamer import memory, sockets
from streamer.assemble import Events, absent, assemble
from streamer.errors import FLAG_OUT_OF_ORDER, FrameError
from streamer.express import Express
from streamer.ids import Arrival, TrainTracker
from streamer.log import Repeated
from streamer.plan import source_spec
from streamer.ring import DONE, FILLING, FREE, READY
from streamer.routing import failopen
from streamer.slots import Slots
from streamer.sockets import nothing_came
from streamer.stage import IDLE_MS, Stage, main
from streamer.wire.karabo_bridge import Decoder
from streamer.wire.types import Buffer, Limits

# A fast source could be read for ever after SIGTERM; what already waits in our queue is read this long.
LAST_READ_S = 0.5
# A source that has sent nothing at all is reported so often.
SILENT_S = 10.0
# Pulses of a train, where only the train knows: it sizes the queue of what is not read yet.
GUESSED_PULSES = 64
# Of such a part a copy costs less than a view of it does.
SMALL_PART_BYTES = 512
# With so many blocks before inference, the next one is better filled than handed on at once: it could not be
# served sooner, and every block costs the stages after us some 0.3 ms. Two are under way on a GPU, one waits.
ENOUGH_BLOCKS = 4


@dataclass(slots=True)
class Block:
    """The slot being filled."""

    slot: int
    seq: int
    received_ns: int
    received_at_s: float
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


class Ingest:
    """Fills slots from messages. One per stream."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.page, self.ring = stage, stage.page, stage.shared.ring
        settings = stage.spec.settings
        self.values = self.page.values
        self.at = self.page.at
        self.source = source_spec(settings)
        limits = Limits(max_array_bytes=settings.source.max_message_bytes)
        self.decoder, self.express = Decoder(limits), Express(self.source, limits)
        self.tracker = TrainTracker(self.page, stage.shared.table, settings.source.train_id_step)
        self.keep = settings.on_overload == "keep"
        # Beyond this many blocks with inference, new ones go straight to the sink: the other half of the
        # ring stays free for them, and the wait in front of inference stays bounded.
        self.inference_limit = self.ring.layout.slots // 2
        self.block: Block | None = None
        self._in_train = False  # the block handed on last ended within a train
        self._train_direct = False  # and where it went
        self._tail = 0  # events of the train under way that lie in no slot yet
        self.arrived = Arrived()
        self.dirty = False  # counts that no commit has shown yet
        self.repeated = Repeated(stage.log)
        self._silent_until_s = time.monotonic() + SILENT_S
        context = zmq.Context()
        self.to_inference = stage.spec.tokens("inference")
        self.to_sink = stage.spec.tokens("sink")
        self.freed = stage.spec.tokens("ingest")
        self.receiver = sockets.Receiver(
            context,
            settings.source.socket,
            settings.source.endpoint,
            settings.source.max_message_bytes,
            self.ring.layout.event_bytes * (GUESSED_PULSES if "pulse" in settings.source.axes else 1),
        )

    # --- life ---------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up what a dead predecessor left: its half-filled slot, its unsent tokens, its lost tail."""
        committed, n = int(self.values[self.at["block_seq"]]), int(self.values[self.at["block_n"]])
        for slot, seq in self.ring.left_in(FILLING):
            if seq == committed:  # counted, not handed on
                self.ring.n[slot] = n
                self._mark_seen(slot, 0, n)
                self.ring.state[slot] = READY
            else:
                self.ring.state[slot] = FREE
        tail = int(self.values[self.at["tail"]])
        if tail:
            # It died within a train: the rest of that train was never received.
            self.values[self.at["missing_upstream"]] += tail
            self.values[self.at["tail"]] = 0
            self.page.commit()
        self.to_inference.send(*self.ring.left_in(READY))
        self.to_sink.send(*self.ring.left_in(DONE))
        self.slots = Slots(self.ring, self.freed)

    def run(self) -> None:
        self.recover()
        self.stage.ready()
        poller = zmq.Poller()
        poller.register(self.freed, zmq.POLLIN)
        poller.register(self.receiver.socket, zmq.POLLIN)
        while not self.stage.stopping:
            if not poller.poll(IDLE_MS):
                self._idle(poller)
            self.read_waiting()
            self.stage.alive()
        self._drain()

    def _idle(self, poller: zmq.Poller) -> None:
        """Nothing came for a while: is the source still there, is a token lost?"""
        before = self.receiver.socket
        self.receiver.check_connection()
        self.values[self.at["reconnects"]] = self.receiver.reconnects
        if self.receiver.socket is not before:
            poller.unregister(before)
            poller.register(self.receiver.socket, zmq.POLLIN)
        self.slots.look()
        self._commit_page()
        self._warn_silent()

    def _warn_silent(self) -> None:
        """Nothing at all has come: most often a wrong address, or the wrong kind of socket."""
        now_s = time.monotonic()
        if self.values[self.at["messages"]] or now_s < self._silent_until_s:
            return
        self._silent_until_s = now_s + SILENT_S
        source = self.stage.spec.settings.source
        self.stage.log.warning("%s", nothing_came(source.endpoint, source.socket))

    def _drain(self) -> None:
        """After SIGTERM: read what already waits, then wait until every block has come back."""
        end_s = time.monotonic() + LAST_READ_S
        while (
            time.monotonic() < end_s and self._may_read() and (parts := self.receiver.receive()) is not None
        ):
            self.message(parts)
            self.stage.alive()
        self.hand_on()
        self.receiver.close()
        while self.slots.lent and not self.stage.overdue:
            self.freed.wait(IDLE_MS)
            self.slots.look()
            self.stage.alive()

    def _may_read(self) -> bool:
        """With `wait`, a full ring stops the reading: what is not read is not ours to lose."""
        return self.keep or self.slots.any_free()

    def read_waiting(self) -> None:
        """Take every waiting message; hand on what they filled unless inference has enough before it."""
        while not self.stage.stopping and (parts := self.receiver.receive()) is not None:
            self.message(parts)
        self.slots.reclaim()
        if self.slots.at_inference < ENOUGH_BLOCKS:
            self.hand_on()
        else:
            self.commit()

    # --- one message --------------------------------------------------------------------------------

    def message(self, parts: "Sequence[zmq.Frame]") -> None:
        """Count and store one message. A bad one costs itself only."""
        received_ns, received_at_s = time.monotonic_ns(), time.time()
        buffers: list[Buffer] = [p.bytes if len(p) <= SMALL_PART_BYTES else p.buffer for p in parts]
        self.dirty = True
        self.arrived.messages += 1
        self.arrived.size_bytes += sum(map(len, buffers))
        try:
            events = self.express.read(buffers) or self._decode(buffers)
        except FrameError as error:
            self.values[self.at[f"rejected.{error.reason}"]] += 1
            self.tracker.reject()
            self.repeated.warn(error.reason, f"message rejected: {error}")
            return
        self.arrived.accepted += 1
        self._train(events, received_ns, received_at_s)

    def _decode(self, buffers: "Sequence[Buffer]") -> Events:
        """The events of a message that differs from the one before. Raises FrameError."""
        train = self.decoder.decode(buffers)
        events = assemble(train, self.source)
        self.express.learn(buffers, events)
        if not events.n and not self.values[self.at["received"]]:
            self.repeated.warn("absent", absent(train, self.source))
        if events.n and events.attached.size and np.isnan(events.attached).any():
            self._warn_attach(events)
        return events

    def _warn_attach(self, events: Events) -> None:
        """A scalar that never comes keeps every event whose rules read it: say which one it is."""
        for column, attach in enumerate(self.source.attach):
            if np.isnan(events.attached[:, column]).any():
                where = f"{attach.source}[{attach.key}]"
                text = f"attached scalar {attach.name} is missing or fits no pulse: {where}"
                self.repeated.warn(f"attach {attach.name}", text)

    def _train(self, events: Events, received_ns: int, received_at_s: float) -> None:
        if not self.tracker.in_order(events.train_id):
            self.hand_on()  # so that the table of seen pulses knows all that came before
        arrival = self.tracker.arrive(events.train_id, events.pulse_ids)
        self._count(events, arrival)
        if arrival.late:
            events.mark(FLAG_OUT_OF_ORDER)
        for start, stop in _runs(arrival, events.n):
            self._store(events, start, stop, received_ns, received_at_s)
        if not events.n:
            self.commit()
            self.tracker.mark_train(events.train_id)  # its pulses may come in a message of their own

    def _count(self, events: Events, arrival: Arrival) -> None:
        self.dirty = True
        self.arrived.trains += 1
        if not events.n:
            self.values[self.at["trains_empty"]] += 1
        again = 0 if arrival.fresh is None else int(events.n - np.count_nonzero(arrival.fresh))
        if events.duplicates or again:
            self.values[self.at["duplicates"]] += events.duplicates + again
        if arrival.late:
            self.values[self.at["out_of_order"]] += events.n - again

    def _store(self, events: Events, start: int, stop: int, received_ns: int, received_at_s: float) -> None:
        """Copy events start..stop into slots; all of a train go the same way."""
        while start < stop:
            block = self.block or self._open(received_ns, received_at_s)
            if block is None:
                self._shed(events.train_id, stop - start)
                return
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
        if events.raw is not None:
            size = ring.layout.event_bytes
            ring.bytes_of[slot][first * size : block.n * size] = events.raw[start * size : stop * size]
        else:
            events.copy_into(ring.frames[slot, rows], start, stop)
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

    # --- blocks -------------------------------------------------------------------------------------

    def _open(self, received_ns: int, received_at_s: float) -> Block | None:
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
        self.block = Block(slot, seq, received_ns, received_at_s)
        return self.block

    def commit(self) -> None:
        """Count what the block holds so far as received: from here on no crash loses it."""
        block = self.block
        if block is not None and block.n > block.committed:
            new = slice(block.committed, block.n)
            self._fill_header(block)
            self.values[self.at["received"]] += block.n - block.committed
            self.values[self.at["block_seq"]], self.values[self.at["block_n"]] = block.seq, block.n
            self._commit_page()
            self._mark_seen(block.slot, new.start, new.stop)
            block.committed = block.n
        elif self.dirty:
            self._commit_page()

    def _commit_page(self) -> None:
        values, at, arrived = self.values, self.at, self.arrived
        values[at["messages"]] += arrived.messages
        values[at["bytes"]] += arrived.size_bytes
        values[at["accepted"]] += arrived.accepted
        values[at["trains"]] += arrived.trains
        values[at["tail"]] = self._tail
        self.arrived, self.dirty = Arrived(), False
        self.page.commit()
        self.stage.alive()

    def hand_on(self, train_goes_on: bool = False) -> None:
        """Commit the block, then give it away."""
        self.commit()
        block, self.block = self.block, None
        if block is None:
            return
        direct = self._goes_direct(train_goes_on)
        if direct:
            self.values[self.at["direct_blocks"]] += 1
            self._commit_page()
        self.slots.lend(block.slot, direct)
        self._give(block, direct)

    def _fill_header(self, block: Block) -> None:
        ring, slot = self.ring, block.slot
        ring.n[slot], ring.attempts[slot], ring.bundles[slot] = block.n, 0, 0
        ring.end_of_train[slot] = block.end_of_train
        ring.received_ns[slot], ring.received_at_s[slot] = block.received_ns, block.received_at_s

    def _goes_direct(self, train_goes_on: bool) -> bool:
        """Straight to the sink when inference has its share of the ring; a begun train stays together."""
        direct = self._train_direct if self._in_train else self._overloaded()
        self._in_train, self._train_direct = train_goes_on, direct
        return direct

    def _overloaded(self) -> bool:
        """Inference holds its share. What the sink still holds of it counts only until we look closer."""
        if not self.keep or self.slots.at_inference < self.inference_limit:
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


def _runs(arrival: Arrival, n: int) -> list[tuple[int, int]]:
    """Stretches of events to store: all of them, or those not seen before."""
    if arrival.fresh is None:
        return [(0, n)] if n else []
    edges = np.flatnonzero(np.diff(np.concatenate(([0], arrival.fresh.view(np.int8), [0]))))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def run(stage: Stage) -> None:
    memory.keep_freed_memory()
    memory.populate(stage.shared.whole)
    Ingest(stage).run()


if __name__ == "__main__":
    main("ingest", run)
