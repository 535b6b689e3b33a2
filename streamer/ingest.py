"""First stage: from the facility's socket into the ring.

Owns reception and the counting of what came. The connection is `receiver`'s, formats are in `wire`, the
events of a message in `assemble` (or, of one like the last, in `express`), ids in `ids`, slots in `filling`.

A block is handed on when nothing more waits, or when it is full, or, with enough blocks before inference,
when inference has taken one of those. So a slow source gets the least latency and a fast one the least cost.
"""

import select
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamer import memory
from streamer.assemble import Events, absent, assemble
from streamer.errors import FLAG_OUT_OF_ORDER, FrameError
from streamer.express import Express
from streamer.filling import Filling, Received
from streamer.ids import Arrival, TrainTracker
from streamer.log import Repeated
from streamer.plan import source_spec
from streamer.receiver import Receiver
from streamer.sockets import nothing_came
from streamer.stage import IDLE_MS, Stage, main
from streamer.wire.karabo_bridge import Decoder
from streamer.wire.types import Buffer, Limits

# A fast source could be read for ever after SIGTERM; what already waits in the kernel is read this long.
LAST_READ_S = 0.5
# A block that grows is looked at so often.
GROW_MS = 1
# A source that has sent nothing at all is reported so often.
SILENT_S = 10.0


class Ingest:
    """Fills slots from messages. One per stream."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.page = stage, stage.page
        self.values, self.at = self.page.values, self.page.at
        settings = stage.spec.settings
        source = settings.source
        self.source = source_spec(settings)
        limits = Limits(max_array_bytes=source.max_message_bytes)
        self.decoder, self.express = Decoder(limits), Express(self.source, limits)
        self.tracker = TrainTracker(self.page, stage.shared.table, source.train_id_step)
        self.filling = Filling(stage, self.tracker)
        self.receiver = Receiver(source.socket, source.endpoint, source.max_message_bytes, self.place)
        self.repeated = Repeated(stage.log)
        self._silent_until_s = time.monotonic() + SILENT_S
        self.poll, self.poll_freed = select.poll(), select.poll()
        self.poll_freed.register(self.filling.freed, select.POLLIN)
        self._watched = -1  # the connection that both look at

    # --- life ---------------------------------------------------------------------------------------

    def recover(self) -> None:
        self.filling.recover()

    def run(self) -> None:
        self.recover()
        self.stage.ready()
        while not self.stage.stopping:
            self.wait(IDLE_MS)
            self.read_waiting()
            self.stage.alive()
        self._drain()

    def wait(self, limit_ms: int) -> None:
        """Until bytes come, or a slot comes back while a block waits for that."""
        self._watch()
        if self.filling.waits:
            self.poll_freed.poll(GROW_MS)
        elif not self.poll.poll(limit_ms):
            self._idle()

    def _watch(self) -> None:
        """Look at the connection there is; without one, make one."""
        if self.receiver.fileno() < 0:
            self.receiver.check_connection()
        if (fd := self.receiver.fileno()) == self._watched:
            return
        for poll in (self.poll, self.poll_freed):
            if self._watched >= 0:
                poll.unregister(self._watched)
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        self._watched = fd
        self.values[self.at["reconnects"]] = self.receiver.reconnects

    def _idle(self) -> None:
        """Nothing came for a while: is the source still there, is a token lost?"""
        self.receiver.check_connection()
        self.values[self.at["reconnects"]] = self.receiver.reconnects
        self.filling.slots.look()
        self.filling.commit_page()
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
        end_s, filling = time.monotonic() + LAST_READ_S, self.filling
        while time.monotonic() < end_s and filling.may_store() and (parts := self.receiver.receive()):
            self.message(parts)
            self.stage.alive()
        filling.finish()
        self.receiver.close()
        while filling.slots.lent and not self.stage.overdue:
            filling.freed.wait(IDLE_MS)
            filling.slots.look()
            self.stage.alive()

    def read_waiting(self) -> None:
        """Take every waiting message."""
        while not self.stage.stopping and (parts := self.receiver.receive()) is not None:
            self.message(parts)
        self.filling.end_turn()

    # --- one message --------------------------------------------------------------------------------

    def place(self, index: int, size_bytes: int) -> memoryview | None:
        """Where part `index` of the message under way shall lie, if it holds frames as the last one's did."""
        n = self.express.expected(index, size_bytes)
        return self.filling.place(n) if n else None

    def message(self, parts: Sequence[Buffer]) -> None:
        """Count and store one message. A bad one costs itself only."""
        received, arrived = Received(time.monotonic_ns(), time.time()), self.filling.arrived
        self.filling.dirty = True
        arrived.messages += 1
        arrived.size_bytes += sum(map(len, parts))
        try:
            events = self.express.read(parts) or self._decode(self.filling.moved_out(parts))
        except FrameError as error:
            self.values[self.at[f"rejected.{error.reason}"]] += 1
            self.tracker.reject()
            self.repeated.warn(error.reason, f"message rejected: {error}")
            self.stage.alive()  # a flood of them is no standstill
            return
        arrived.accepted += 1
        self._train(events, received)

    def _decode(self, parts: Sequence[Buffer]) -> Events:
        """The events of a message that differs from the one before. Raises FrameError."""
        train = self.decoder.decode(parts)
        events = assemble(train, self.source)
        self.express.learn(parts, events)
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

    def _train(self, events: Events, received: Received) -> None:
        if not self.tracker.in_order(events.train_id):
            self.filling.hand_on()  # so that the table of seen pulses knows all that came before
        arrival = self.tracker.arrive(events.train_id, events.pulse_ids)
        self._count(events, arrival)
        if arrival.late:
            events.mark(FLAG_OUT_OF_ORDER)
        runs = [(0, events.n)] if arrival.fresh is None else _runs(arrival.fresh)
        for start, stop in runs:
            self.filling.store(events, start, stop, received)
        if not events.n:
            self.filling.commit()
            self.tracker.mark_train(events.train_id)  # its pulses may come in a message of their own

    def _count(self, events: Events, arrival: Arrival) -> None:
        self.filling.dirty = True
        self.filling.arrived.trains += 1
        if not events.n:
            self.values[self.at["trains_empty"]] += 1
        again = 0 if arrival.fresh is None else int(events.n - np.count_nonzero(arrival.fresh))
        if events.duplicates or again:
            self.values[self.at["duplicates"]] += events.duplicates + again
        if arrival.late:
            self.values[self.at["out_of_order"]] += events.n - again


def _runs(fresh: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of events that were not seen before."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], fresh.view(np.int8), [0]))))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def run(stage: Stage) -> None:
    memory.keep_freed_memory()
    memory.populate(stage.shared.whole)
    Ingest(stage).run()


if __name__ == "__main__":
    main("ingest", run)
