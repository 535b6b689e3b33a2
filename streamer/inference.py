"""Second stage: from the ring through the networks and the rules to verdicts.

Owns the batching loop, fail-open, the verdicts' publication and the change to another version. The device is
in `runner`, the order of blocks in `batching`, the rules in `routing`.

The loop keeps the device busy and never waits while it has work: it admits what came, begins a batch when the
runner has room, finishes the oldest batch when it must. The verdicts of a batch leave before its slots go to
the sink. An event that gets no finite answer in time is kept, with the reason.
"""

import logging
import sys
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships no types
import numpy as np
import numpy.typing as npt
import zmq

from streamer import sockets
from streamer.batching import Batcher, Waiting
from streamer.bundles import Loaded, Swap, load
from streamer.columns import split
from streamer.device import Pending
from streamer.errors import ConfigError, StageError
from streamer.ledger import BATCH_EDGES, LATENCY_EDGES_S
from streamer.log import Repeated
from streamer.plan import attached_names, columns_of, make_router
from streamer.publish import ResultsPublisher
from streamer.results import ResultHeader
from streamer.ring import DONE, FILLING, READY, TAKEN
from streamer.routing import Decision, failopen
from streamer.stage import IDLE_MS, RESCAN_NS, Stage, main
from streamer.steering import as_answer, steered
from streamer.versions import NO_VERSION, current_version, note_version

Ids = npt.NDArray[np.uint64]

# A block that was in hand each time inference died is not tried a third time: it may be what kills it.
MAX_ATTEMPTS = 2


@dataclass(slots=True)
class Batch:
    """Blocks under way on the device, in order."""

    blocks: list[Waiting]
    pending: Pending
    started_ns: int


class Inference:
    """Serves one stream on one device."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.page, self.ring = stage, stage.page, stage.shared.ring
        self.settings = stage.spec.settings
        self.columns, self.attached = columns_of(stage.spec), attached_names(stage.spec)
        self.batcher = Batcher(self.settings.max_events, self.settings.max_wait_s)
        self.deadline_ns = round(self.settings.deadline_s * 1e9)
        self.version, version = current_version(stage.spec)
        self.loaded = load(stage.spec, version, self.ring.frames)
        self.under_way: deque[Batch] = deque()
        self.swap: Swap | None = None
        self.at = self.page.at
        self.latency, self.sizes = self.page.view("latency"), self.page.view("batch_events")
        context = zmq.Context()
        self.tokens = stage.spec.tokens("inference")
        self.to_sink = stage.spec.tokens("sink")
        self.control = sockets.reply_socket(context, stage.spec.address("control"))
        self.publisher = ResultsPublisher(self.settings.publish.verdicts, context=context)
        self.poller = zmq.Poller()
        self.poller.register(self.tokens, zmq.POLLIN)
        self.poller.register(self.control, zmq.POLLIN)
        self.scanned_ns = 0
        self.repeated = Repeated(stage.log)

    # --- life ---------------------------------------------------------------------------------------

    def run(self) -> None:
        self.recover()
        self.stage.ready()
        while not (self.stage.stopping and self._idle_for_good()):
            self.step()

    def _idle_for_good(self) -> bool:
        """After SIGTERM: nothing is left to do and nothing can come any more."""
        busy = self.under_way or len(self.batcher) or self.ring.left_in(FILLING, READY, TAKEN)
        return not busy or self.stage.overdue

    def recover(self) -> None:
        """Take up what a dead predecessor, or a lost token, left."""
        for slot, seq in self.ring.left_in(READY, TAKEN):
            self._admit(slot, seq)
        done = self.ring.left_in(DONE)
        if done:
            self.to_sink.send(*done)

    def step(self) -> None:
        """One turn: admit, begin, finish."""
        self._receive(wait_ms=0 if self._has_work() else IDLE_MS)
        now_ns = time.monotonic_ns()
        if len(self.under_way) < self.loaded.runner.depth and not self._swap_waits():
            self._begin(self.batcher.take(now_ns), now_ns)
        full = len(self.under_way) >= self.loaded.runner.depth
        if self.under_way and (full or not len(self.batcher) or self.under_way[0].pending.done()):
            self._finish(self.under_way.popleft())
        self._serve_control()
        self.stage.alive()

    def _has_work(self) -> bool:
        ready_at_ns = self.batcher.ready_at_ns()
        return bool(self.under_way) or (ready_at_ns is not None and ready_at_ns <= time.monotonic_ns())

    def _receive(self, wait_ms: int) -> None:
        if wait_ms and not self.poller.poll(1 if len(self.batcher) else wait_ms):
            self._rescan()
        for slot, seq in self.tokens.receive():
            if self.ring.holds(slot, seq, READY):
                self._admit(slot, seq)

    def _rescan(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self.scanned_ns > RESCAN_NS:
            self.scanned_ns = now_ns
            for slot, seq in self.ring.left_in(READY):
                self._admit(slot, seq)

    def _admit(self, slot: int, seq: int) -> None:
        ring = self.ring
        ring.state[slot] = TAKEN
        end_of_train = bool(ring.end_of_train[slot])
        self.batcher.add(Waiting(slot, seq, int(ring.n[slot]), int(ring.received_ns[slot]), end_of_train))

    # --- a batch ------------------------------------------------------------------------------------

    def _begin(self, blocks: list[Waiting], now_ns: int) -> None:
        """Give a batch to the device; what is too old, or was in hand when inference died, goes past it.

        What was in hand has no deadline any more: its verdict may have left already and must stay the same.
        """
        tried = [block for block in blocks if self.ring.attempts[block.slot]]
        if tried:
            self._try_again(tried)
            blocks = [block for block in blocks if block not in tried]
        first = self._in_time(blocks, now_ns)
        if not first:
            return
        self._count_attempt(first)
        try:
            pending = self.loaded.runner.submit([self._frames(block) for block in first])
        except Exception as error:  # whatever a network raises costs its own block only
            self._failed(first, error)
            return
        self.under_way.append(Batch(first, pending, now_ns))

    def _try_again(self, blocks: Sequence[Waiting]) -> None:
        """What was in hand when inference died, each alone; what may have killed it is kept unclassified."""
        killers = [block for block in blocks if self.ring.attempts[block.slot] >= MAX_ATTEMPTS]
        self._fail_open(killers, "worker_lost")
        self._one_by_one([block for block in blocks if block not in killers])

    def _in_time(self, blocks: list[Waiting], now_ns: int) -> list[Waiting]:
        """The blocks that have not waited too long; the others are kept unclassified."""
        if not self.deadline_ns:
            return blocks
        late = [block for block in blocks if now_ns - block.received_ns > self.deadline_ns]
        self._fail_open(late, "timeout")
        return [block for block in blocks if now_ns - block.received_ns <= self.deadline_ns]

    def _count_attempt(self, blocks: Sequence[Waiting]) -> None:
        for block in blocks:
            self.ring.attempts[block.slot] += 1

    def _frames(self, block: Waiting) -> npt.NDArray[Any]:
        frames: npt.NDArray[Any] = self.ring.frames[block.slot, : block.events]
        return frames

    def _failed(self, blocks: list[Waiting], error: Exception) -> None:
        """A batch failed: try its blocks one by one, so that only the one at fault stays unclassified."""
        _leave_if_device_is_lost(error)
        self.page.values[self.at["model_errors"]] += 1
        self.repeated.warn("model_error", f"a batch of {len(blocks)} blocks failed: {error!r}")
        self._one_by_one(blocks)

    def _one_by_one(self, blocks: Sequence[Waiting]) -> None:
        """Each block in a batch of its own, with nothing else under way that it could harm."""
        while blocks and self.under_way:
            self._finish(self.under_way.popleft())
        for block in blocks:
            self._count_attempt([block])
            started_ns = time.monotonic_ns()
            try:
                packed = self.loaded.runner.submit([self._frames(block)]).wait()
            except Exception as error:  # the same as in a batch, and now its own fault
                _leave_if_device_is_lost(error)
                self.repeated.warn("model_error", f"block {block.seq} is kept unclassified: {error!r}")
                self._fail_open([block], "model_error")
            else:
                self._answer([block], packed, started_ns)

    def _finish(self, batch: Batch) -> None:
        """Wait for the answers of a batch."""
        try:
            packed = batch.pending.wait()
        except Exception as error:  # CUDA reports at the end what went wrong before
            self._failed(batch.blocks, error)
        else:
            self._answer(batch.blocks, packed, batch.started_ns)

    def _answer(self, blocks: Sequence[Waiting], packed: npt.NDArray[np.float32], started_ns: int) -> None:
        """Decide, count, publish, hand on."""
        table = split(packed, self.columns) | self._attached(blocks)
        ids = self._ids(blocks)
        decision = self.loaded.router.decide(table, *ids)
        values = self.page.values
        values[self.at["batches"]] += 1
        values[self.at["busy_ns"]] += time.monotonic_ns() - started_ns
        self.sizes[bisect_left(BATCH_EDGES, len(packed))] += 1
        self._emit(blocks, ids, packed, decision, self.loaded)

    def _attached(self, blocks: Sequence[Waiting]) -> dict[str, npt.NDArray[Any]]:
        if not self.attached:
            return {}
        rows = np.concatenate([self.ring.attached[b.slot, : b.events] for b in blocks])
        return dict(zip(self.attached, rows.T, strict=True))

    def _ids(self, blocks: Sequence[Waiting]) -> tuple[Ids, Ids]:
        ring, (first, *others) = self.ring, blocks
        if not others:
            return ring.train_id[first.slot, : first.events], ring.pulse_id[first.slot, : first.events]
        train_id = np.concatenate([ring.train_id[b.slot, : b.events] for b in blocks])
        pulse_id = np.concatenate([ring.pulse_id[b.slot, : b.events] for b in blocks])
        return train_id, pulse_id

    def _fail_open(self, blocks: Sequence[Waiting], reason: str) -> None:
        if not blocks:
            return
        n = sum(block.events for block in blocks)
        packed = np.full((n, self.ring.layout.packed), np.nan, np.float32)
        self._emit(blocks, self._ids(blocks), packed, failopen(n, reason), None)

    def _emit(
        self,
        blocks: Sequence[Waiting],
        ids: tuple[Ids, Ids],
        packed: npt.NDArray[np.float32],
        decision: Decision,
        made_by: Loaded | None,
    ) -> None:
        """Verdicts on the wire first; then results into the slots, and the slots to the sink."""
        self._publish(blocks[0], ids, decision, made_by)
        self._count(blocks)
        version = self.version if made_by is not None else NO_VERSION
        ring, start = self.ring, 0
        for block in blocks:
            slot, n = block.slot, block.events
            rows = slice(start, start + n)
            ring.packed[slot, :n] = packed[rows]
            ring.verdict[slot, :n] = decision.verdict[rows]
            ring.route[slot, :n] = decision.route[rows]
            ring.reason[slot, :n] = decision.reason[rows]
            ring.version[slot] = version
            ring.state[slot] = DONE
            start += n
        self.page.commit()
        self.to_sink.send(*[(b.slot, b.seq) for b in blocks])

    def _publish(
        self, first: Waiting, ids: tuple[Ids, Ids], decision: Decision, made_by: Loaded | None
    ) -> None:
        header = ResultHeader(
            run=self.stage.spec.config.run,
            stream=self.stage.spec.stream,
            received_at=float(self.ring.received_at_s[first.slot]),
            bundles=made_by.published if made_by is not None else (),
            rules_sha256=self.loaded.router.rules_sha256,
            routes=self.loaded.router.names,
        )
        columns: dict[str, npt.NDArray[Any]] = {
            "train_id": ids[0],
            "pulse_id": ids[1],
            "verdict": decision.verdict,
            "route": decision.route,
            "reason": decision.reason,
        }
        self.publisher.send(header, columns, "verdicts")

    def _count(self, blocks: Sequence[Waiting]) -> None:
        now_ns, values = time.monotonic_ns(), self.page.values
        for block in blocks:
            self.latency[bisect_left(LATENCY_EDGES_S, (now_ns - block.received_ns) * 1e-9)] += block.events
            values[self.at["events"]] += block.events
        values[self.at["blocks"]] += len(blocks)

    # --- another version ----------------------------------------------------------------------------

    def _serve_control(self) -> None:
        """Change rules at once; begin a swap, and adopt it between two batches, when it is loaded."""
        if self.swap is None and sockets.readable(self.control):
            request = sockets.receive_request(self.control)
            if "changes" in request:
                self.control.send(msgpack.packb(self._steer(request["changes"])))
            else:
                name = str(request.get("bundle", ""))
                self.swap = Swap(self.stage.spec, self.ring.frames, self.loaded, name)
        if self.swap is not None and self._swap_waits() and not self.under_way:
            self.control.send(msgpack.packb(self._adopt(self.swap)))
            self.swap = None

    def _swap_waits(self) -> bool:
        """New bundles are ready: what is under way ends first, so that no batch mixes versions."""
        return self.swap is not None and self.swap.finished()

    def _adopt(self, swap: Swap) -> dict[str, Any]:
        """Put the new bundles to work, or say why not."""
        if swap.loaded is None:
            self.stage.log.error("swap refused: %s", swap.error)
            self.page.values[self.at["swaps_refused"]] += 1
            self.page.commit()
            return {"ok": False, "error": swap.error}
        try:
            self._serve(swap.loaded, "swaps")
        except ConfigError as error:
            return {"ok": False, "error": str(error)}
        self.stage.log.info("swapped: now %s", [ref.name for ref in self.loaded.refs])
        return {"ok": True, "bundles": [ref.model_dump() for ref in self.loaded.refs]}

    def _steer(self, changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Other rules for the same bundles, from the next answer on: all of the changes, or none and why."""
        version = self.loaded.version
        try:
            for change in changes:
                version = steered(self.stage.spec, version, change)
            router = make_router(self.stage.spec, version, self.loaded.manifests)
            if version != self.loaded.version:
                self._serve(replace(self.loaded, version=version, router=router), "steerings")
        except ConfigError as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True, "steering": as_answer(self.version, self.loaded.version)}

    def _serve(self, loaded: Loaded, counter: str) -> None:
        """Noted before the first answer of it: the sink reads there what a slot's number means.

        Raises ConfigError if it cannot be noted; the old version goes on.
        """
        self.version = note_version(self.stage.spec, loaded.version)
        self.loaded = loaded
        self.page.values[self.at[counter]] += 1
        self.page.commit()


def _leave_if_device_is_lost(error: Exception) -> None:
    """After most CUDA errors the context is dead while the process lives: only a new process helps."""
    torch = sys.modules.get("torch")  # only bundles need it
    if torch is None:
        return
    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        logging.getLogger(__name__).critical("the device is lost: %s", error)
        raise StageError(f"the device is lost: {error}") from error


def run(stage: Stage) -> None:
    Inference(stage).run()


if __name__ == "__main__":
    main("inference", run)
