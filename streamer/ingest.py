"""First stage: from the facility's socket into the ring.

Owns reception, the one copy of the data on the host, the counting of what came, and the choice of what
happens when nobody can take it. Formats are in `wire`, the events of a message in `assemble`, ids in `ids`.

A block is the events of the messages that came back to back: it is handed on when nothing more waits, or
when it is full. So a slow source gets the least latency and a fast one the least cost. It counts as received
in one commit; what kill -9 catches before that was never received and shows as a gap in the ids.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zmq

from streamer import sockets
from streamer.assemble import Events, assemble
from streamer.errors import FLAG_OUT_OF_ORDER, FrameError
from streamer.ids import Arrival, TrainTracker
from streamer.log import Repeated
from streamer.plan import source_spec
from streamer.ring import DONE, FILLING, FREE, READY, TAKEN, encode_tokens
from streamer.routing import failopen
from streamer.stage import DRAIN_S, IDLE_MS, Stage, main
from streamer.wire.karabo_bridge import decode
from streamer.wire.types import Limits, Train

# A fast source could be read for ever after SIGTERM; what already waits in our queue is read this long.
LAST_READ_S = 0.5


@dataclass(slots=True)
class Block:
    """The slot being filled."""

    slot: int
    seq: int
    received_ns: int
    received_at_s: float
    n: int = 0
    end_of_train: bool = False


class Ingest:
    """Fills slots from messages. One per stream."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.page, self.ring = stage, stage.page, stage.shared.ring
        settings = stage.spec.settings
        self.values = self.page.values
        self.at = {name: self.page.layout.index(name) for name in self.page.layout.names}
        self.source = source_spec(settings)
        self.limits = Limits(max_array_bytes=settings.source.max_message_bytes)
        self.tracker = TrainTracker(self.page, stage.shared.table, settings.source.train_id_step)
        self.keep = settings.on_overload == "keep"
        # Beyond this many blocks with inference, new ones go straight to the sink: the other half of the
        # ring stays free for them, and the wait in front of inference stays bounded.
        self.inference_limit = self.ring.layout.slots // 2
        self.free: deque[int] = deque()
        self.out: dict[int, bool] = {}  # slot -> it went straight to the sink
        self.at_inference = 0
        self.block: Block | None = None
        self._in_train = False  # the block handed on last ended within a train
        self._train_direct = False  # and where it went
        self.dirty = False  # counts that no commit has shown yet
        self.repeated = Repeated(stage.log)
        context = zmq.Context()
        self.to_inference = sockets.token_push(context, stage.spec.address("inference"))
        self.to_sink = sockets.token_push(context, stage.spec.address("sink"))
        self.freed = sockets.token_pull(context, stage.spec.address("free"))
        self.receiver = sockets.Receiver(
            context, settings.source.socket, settings.source.endpoint, settings.source.max_message_bytes
        )

    # --- life ---------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up what a dead predecessor left: its half-filled slot, its unsent tokens, its lost tail."""
        committed = int(self.values[self.at["block_seq"]])
        for slot, seq in self.ring.left_in(FILLING):
            if seq == committed:  # counted, not handed on
                self._mark_seen(slot)
                self.ring.state[slot] = READY
            else:
                self.ring.state[slot] = FREE
        tail = int(self.values[self.at["tail"]])
        if tail:
            # It died within a train: the rest of that train was never received.
            self.values[self.at["missing_upstream"]] += tail
            self.values[self.at["tail"]] = 0
            self.page.commit()
        states = self.ring.state.tolist()  # one look: a slot that comes free now comes by its token
        for slot, state in enumerate(states):
            if state == FREE:
                self.free.append(slot)
            else:
                self._lend(slot, direct=state == DONE)
        self._send_again(self.to_inference, READY)
        self._send_again(self.to_sink, DONE)

    def _send_again(self, socket: "zmq.Socket[bytes]", state: int) -> None:
        tokens = self.ring.left_in(state)
        if tokens:
            sockets.send_tokens(socket, encode_tokens(tokens))

    def run(self) -> None:
        self.recover()
        self.stage.ready()
        poller = zmq.Poller()
        poller.register(self.freed, zmq.POLLIN)
        while not self.stage.stopping:
            poller.register(self.receiver.socket, zmq.POLLIN)
            if poller.poll(IDLE_MS):
                self.read_waiting()
            else:
                self._check_connection(poller)
                self._reclaim_unasked()
            self.reclaim()
            self.stage.alive()
        self._drain()

    def _check_connection(self, poller: zmq.Poller) -> None:
        before = self.receiver.socket
        self.receiver.check_connection()
        self.values[self.at["reconnects"]] = self.receiver.reconnects
        if self.receiver.socket is not before:
            poller.unregister(before)
        self.page.commit()

    def _drain(self) -> None:
        """After SIGTERM: read what already waits, then wait until every block has come back."""
        self.read_waiting(until_s=time.monotonic() + LAST_READ_S)
        self.receiver.close()
        give_up_s = time.monotonic() + DRAIN_S
        while self.out and time.monotonic() < give_up_s:
            self.freed.poll(IDLE_MS)
            self._reclaim_unasked()
            self.stage.alive()

    def read_waiting(self, until_s: float = float("inf")) -> None:
        """Take every waiting message, then hand on what they filled."""
        while (frames := self.receiver.receive()) is not None:
            self.message(frames)
            self.stage.alive()
            if (self.stage.stopping and until_s == float("inf")) or time.monotonic() > until_s:
                break
        self.hand_on()

    # --- one message --------------------------------------------------------------------------------

    def message(self, frames: "Sequence[zmq.Frame]") -> None:
        """Count and store one message. A bad one costs itself only."""
        received_ns, received_at_s = time.monotonic_ns(), time.time()
        self.values[self.at["messages"]] += 1
        self.dirty = True
        try:
            parts = [frame.buffer for frame in frames]
            self.values[self.at["bytes"]] += sum(map(len, parts))
            train = decode(parts, self.limits)
            events = assemble(train, self.source)
        except FrameError as error:
            self.values[self.at[f"rejected.{error.reason}"]] += 1
            self.tracker.reject()
            self.repeated.warn(error.reason, f"message rejected: {error}")
            return
        self.values[self.at["accepted"]] += 1
        if not events.source_present:
            self._warn_absent(train)
        self._train(events, received_ns, received_at_s)

    def _warn_absent(self, train: Train) -> None:
        """Legal in single trains; in all of them it is a wrong name in the configuration."""
        there = ", ".join(sorted(train.sources)[:20])
        self.repeated.warn("absent", f"train without {self.source.sources[0]}; the message holds: {there}")

    def _train(self, events: Events, received_ns: int, received_at_s: float) -> None:
        if not self.tracker.in_order(events.train_id):
            self.hand_on()  # so that the table of seen pulses knows all that came before
        arrival = self.tracker.arrive(events.train_id, events.pulse_ids)
        self._count(events, arrival)
        if arrival.late:
            events.flags |= np.uint32(FLAG_OUT_OF_ORDER)
        for start, stop in _runs(arrival, events.n):
            self._store(events, start, stop, received_ns, received_at_s)

    def _count(self, events: Events, arrival: Arrival) -> None:
        again = 0 if arrival.fresh is None else int(events.n - np.count_nonzero(arrival.fresh))
        self.values[self.at["trains"]] += 1
        self.values[self.at["trains_empty"]] += events.n == 0
        self.values[self.at["duplicates"]] += events.duplicates + again
        self.values[self.at["out_of_order"]] += (events.n - again) if arrival.late else 0

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
            self.values[self.at["tail"]] = stop - start
            if block.n == self.ring.layout.events:
                self.hand_on(train_goes_on=start < stop)

    def _copy(self, events: Events, start: int, stop: int, block: Block) -> None:
        ring, slot, rows = self.ring, block.slot, slice(block.n, block.n + stop - start)
        events.copy_into(ring.frames[slot, rows], start, stop)
        ring.train_id[slot, rows] = events.train_id
        ring.pulse_id[slot, rows] = events.pulse_ids[start:stop]
        ring.flags[slot, rows] = events.flags[start:stop]
        ring.missing_modules[slot, rows] = events.missing_modules[start:stop]
        if ring.layout.attached:
            ring.attached[slot, rows] = events.attached[start:stop]
        block.n = rows.stop

    def _shed(self, train_id: int, count: int) -> None:
        self.tracker.mark_train(train_id)  # it came: later it is no late arrival of a missing train
        self.values[self.at["received"]] += count
        self.values[self.at["shed.ring_full"]] += count
        self.values[self.at["tail"]] = 0
        self.repeated.warn("shed", f"{count} events shed: every slot of the ring is in use")

    # --- slots --------------------------------------------------------------------------------------

    def _open(self, received_ns: int, received_at_s: float) -> Block | None:
        """Begin a block in a free slot; None if there is none and waiting is not allowed."""
        self.reclaim()
        if not self.free:
            self._reclaim_unasked()
        while not self.free and not self.keep and not self.stage.stopping:
            self.freed.poll(IDLE_MS)
            self._reclaim_unasked()
            self.stage.alive()
        if not self.free:
            return None
        slot, seq = self.free.popleft(), int(self.values[self.at["block_seq"]]) + 1
        self.ring.seq[slot], self.ring.state[slot] = seq, FILLING
        # The time of the first message: the latency of a block is that of its oldest event.
        self.block = Block(slot, seq, received_ns, received_at_s)
        return self.block

    def hand_on(self, train_goes_on: bool = False) -> None:
        """Commit the block as received, then give it away."""
        block = self.block
        if block is None:
            if self.dirty:
                self.page.commit()
                self.dirty = False
            return
        self.block, self.dirty = None, False
        self._fill_header(block)
        direct = self._goes_direct(train_goes_on)
        self.values[self.at["received"]] += block.n
        self.values[self.at["block_seq"]] = block.seq
        self.values[self.at["direct_blocks"]] += direct
        self.page.commit()
        self._mark_seen(block.slot)
        self._lend(block.slot, direct)
        self._give(block, direct)

    def _fill_header(self, block: Block) -> None:
        header = self.ring.header[block.slot]
        header["n"], header["attempts"], header["bundles"] = block.n, 0, 0
        header["end_of_train"] = block.end_of_train
        header["received_ns"], header["received_at_s"] = block.received_ns, block.received_at_s

    def _goes_direct(self, train_goes_on: bool) -> bool:
        """Straight to the sink when inference has its share of the ring; a begun train stays together."""
        direct = self._train_direct if self._in_train else self._overloaded()
        self._in_train, self._train_direct = train_goes_on, direct
        return direct

    def _overloaded(self) -> bool:
        """Inference holds its share. What the sink still holds of it counts only until we look closer."""
        if not self.keep or self.at_inference < self.inference_limit:
            return False
        return len(self.ring.left_in(READY, TAKEN)) >= self.inference_limit

    def _give(self, block: Block, direct: bool) -> None:
        ring, slot, n = self.ring, block.slot, block.n
        if direct:
            decision = failopen(n, "overload")
            ring.packed[slot, :n] = np.nan
            ring.verdict[slot, :n] = decision.verdict
            ring.route[slot, :n] = decision.route
            ring.reason[slot, :n] = decision.reason
        ring.state[slot] = DONE if direct else READY
        socket = self.to_sink if direct else self.to_inference
        sockets.send_tokens(socket, encode_tokens([(slot, block.seq)]))

    def _lend(self, slot: int, direct: bool) -> None:
        self.out[slot] = direct
        self.at_inference += not direct

    def _mark_seen(self, slot: int) -> None:
        n = int(self.ring.n[slot])
        self.tracker.mark(self.ring.train_id[slot, :n], self.ring.pulse_id[slot, :n])

    def reclaim(self) -> None:
        """Take back the slots that the sink has freed."""
        for slot, seq in sockets.receive_tokens(self.freed):
            if self.ring.holds(slot, seq, FREE):
                self._take_back(slot)

    def _reclaim_unasked(self) -> None:
        """A token may have died with the sink: with nothing to do, or nothing free, look at what is lent."""
        self.reclaim()
        for slot in [slot for slot in self.out if self.ring.state[slot] == FREE]:
            self._take_back(slot)

    def _take_back(self, slot: int) -> None:
        if slot in self.out:
            self.at_inference -= not self.out.pop(slot)
            self.free.append(slot)


def _runs(arrival: Arrival, n: int) -> list[tuple[int, int]]:
    """Stretches of events to store: all of them, or those not seen before."""
    if arrival.fresh is None:
        return [(0, n)] if n else []
    edges = np.flatnonzero(np.diff(np.concatenate(([0], arrival.fresh.view(np.int8), [0]))))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def run(stage: Stage) -> None:
    Ingest(stage).run()


if __name__ == "__main__":
    main("ingest", run)
