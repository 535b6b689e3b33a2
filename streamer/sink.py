"""Third stage: from the ring to the sockets and the files, and the slot back to ingest.

Owns the end of an event: its results are published, it is stored where its route says, it is counted. One
commit of the page says all three: what the files hold (the cursor), what was counted, and which block it was.
A block that was not committed when the process died is simply done again, over the same bytes of the files.
"""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import zmq

from streamer.archive import FAILOPEN, Archive, StoredBlock
from streamer.columns import Array, split, typed
from streamer.errors import FAILOPEN_REASONS, StoreError
from streamer.ledger import LATENCY_EDGES_S
from streamer.plan import BundleRef, attached_names, columns_of, make_router
from streamer.publish import KaraboBridgeResults, ResultsPublisher
from streamer.results import VERDICT_COLUMNS, ResultHeader
from streamer.results import BundleRef as PublishedBundle
from streamer.ring import DONE, FILLING, FREE, READY, TAKEN
from streamer.routing import VETO, failopen_code
from streamer.stage import IDLE_MS, RESCAN_NS, Stage, main
from streamer.versions import all_versions, hashes

OVERLOAD = failopen_code("overload")
FIRST_FAILOPEN = failopen_code(FAILOPEN_REASONS[0])


@dataclass(frozen=True)
class Finished:
    """What the ring holds of a finished block; arrays are views of the slot, first axis = event."""

    slot: int
    n: int
    train_id: npt.NDArray[np.uint64]
    pulse_id: npt.NDArray[np.uint64]
    verdict: npt.NDArray[np.uint8]
    route: npt.NDArray[np.int16]
    reason: npt.NDArray[np.uint8]
    received_at_s: float
    received_ns: int

    @property
    def overloaded(self) -> bool:
        """It came straight from ingest: its verdicts are still to be published."""
        return bool(self.n) and int(self.reason[0]) == OVERLOAD


class Sink:
    """Publishes, stores and counts the blocks of one stream."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.page, self.ring = stage, stage.page, stage.shared.ring
        spec = stage.spec
        self.columns, self.attached = columns_of(spec), attached_names(spec)
        router = make_router(spec)
        self.rules_sha256, self.routes = router.rules_sha256, router.names
        self.labels = {c.name: c.labels for c in self.columns if c.labels}
        self.values, self.latency = self.page.values, self.page.view("latency")
        self.at = self.page.at
        self.refs: tuple[BundleRef, ...] = spec.bundles
        self.archive = Archive(spec, self.page.view("cursor")) if spec.config.output.store else None
        context = zmq.Context()
        self.tokens = spec.tokens("sink")
        self.to_ingest = spec.tokens("ingest")
        self.publisher = ResultsPublisher(spec.settings.publish.results, context=context)
        self.bridge = self._open_bridge(context)
        self.poller = zmq.Poller()
        self.poller.register(self.tokens, zmq.POLLIN)
        self.scanned_ns = 0

    def _open_bridge(self, context: "zmq.Context[zmq.Socket[bytes]]") -> KaraboBridgeResults | None:
        publish = self.stage.spec.settings.publish
        if publish.karabo_bridge is None:
            return None
        return KaraboBridgeResults(publish.karabo_bridge, publish.karabo_bridge_socket, context=context)

    # --- life ---------------------------------------------------------------------------------------

    def run(self) -> None:
        if self.bridge is not None and self.stage.spec.settings.publish.karabo_bridge_socket == "REP":
            self.poller.register(self.bridge.socket, zmq.POLLIN)
        self.recover()
        self.stage.ready()
        while not (self.stage.stopping and self._empty()):
            self.step()
        self._close()

    def recover(self) -> None:
        """Bring the files to the last commit, free the block it was about, do the others again."""
        if self.archive is not None:
            self.archive.resume()
            self.page.commit()
        slot, seq = int(self.values[self.at["last_slot"]]), int(self.values[self.at["last_seq"]])
        if seq and self.ring.holds(slot, seq, DONE):
            self._free(slot, seq)
        self._take(self.ring.left_in(DONE))

    def _empty(self) -> bool:
        """After SIGTERM: every slot is back, or waiting longer is useless."""
        return not self.ring.left_in(FILLING, READY, TAKEN, DONE) or self.stage.overdue

    def _close(self) -> None:
        if self.archive is None:
            return
        try:
            self.archive.close()
        except StoreError as error:
            self.stage.log.error("files that could not be brought to their final size: %s", error)
            self.values[self.at["store_errors"]] += 1
        self.page.commit()

    def step(self) -> None:
        if not self.poller.poll(IDLE_MS):
            self._rescan()
        self._take(self.tokens.receive())
        if self.bridge is not None:
            self.bridge.serve_requests()
        self.stage.alive()

    def _rescan(self) -> None:
        """A token may have died with its sender; with nothing to do, look once a second."""
        now_ns = time.monotonic_ns()
        if now_ns - self.scanned_ns > RESCAN_NS:
            self.scanned_ns = now_ns
            self._take(self.ring.left_in(DONE))

    def _take(self, tokens: list[tuple[int, int]]) -> None:
        for slot, seq in tokens:
            if self.ring.holds(slot, seq, DONE):
                self.block(slot, seq)
                self.stage.alive()

    # --- one block ----------------------------------------------------------------------------------

    def block(self, slot: int, seq: int) -> None:
        """Publish, store, count, free."""
        block = self._read(slot)
        refs = self._version(slot)
        table = self._table(block)
        self._publish(block, table, refs)
        failed = self._store(block, table)
        self._count(block, failed)
        self.values[self.at["last_slot"]], self.values[self.at["last_seq"]] = slot, seq
        self.page.commit()
        self._free(slot, seq)

    def _free(self, slot: int, seq: int) -> None:
        self.ring.state[slot] = FREE
        self.to_ingest.send((slot, seq))

    def _read(self, slot: int) -> Finished:
        ring, n = self.ring, int(self.ring.n[slot])
        return Finished(
            slot=slot,
            n=n,
            train_id=ring.train_id[slot, :n],
            pulse_id=ring.pulse_id[slot, :n],
            verdict=ring.verdict[slot, :n],
            route=ring.route[slot, :n],
            reason=ring.reason[slot, :n],
            received_at_s=float(ring.header["received_at_s"][slot]),
            received_ns=int(ring.header["received_ns"][slot]),
        )

    def _version(self, slot: int) -> tuple[BundleRef, ...]:
        """The bundles that made this block's results; none made those of a fail-open block."""
        count = int(self.ring.header["bundles"][slot])
        if not count:
            return ()
        made_by = self.ring.header["sha256"][slot, :count].tobytes()
        if made_by != hashes(self.refs):
            self.refs = next(v for v in all_versions(self.stage.spec) if hashes(v) == made_by)
            if self.archive is not None:
                self.archive.set_version(self.refs)
                self.page.commit()  # the files' new cursor, before anything is written after it
        return self.refs

    def _table(self, block: Finished) -> dict[str, Array]:
        ring, slot, n = self.ring, block.slot, block.n
        fixed: dict[str, Array] = {
            "verdict": block.verdict,
            "reason": block.reason,
            "route": block.route,
            "flags": ring.flags[slot, :n],
            "missing_modules": ring.missing_modules[slot, :n],
            "received_at": np.full(n, block.received_at_s),
        }
        attached = dict(zip(self.attached, np.ascontiguousarray(ring.attached[slot, :n].T), strict=True))
        own = typed(split(ring.packed[slot, :n], self.columns), self.columns)
        return fixed | attached | own

    def _publish(self, block: Finished, table: dict[str, Array], refs: tuple[BundleRef, ...]) -> None:
        header = ResultHeader(
            run=self.stage.spec.config.run,
            stream=self.stage.spec.stream,
            received_at=block.received_at_s,
            bundles=tuple(PublishedBundle(ref.name, ref.sha256) for ref in refs),
            rules_sha256=self.rules_sha256,
            routes=self.routes,
            labels=self.labels,
        )
        columns = {"train_id": block.train_id, "pulse_id": block.pulse_id} | table
        if block.overloaded:
            verdicts = {name: columns[name] for name in VERDICT_COLUMNS}
            self.publisher.send(header, verdicts, "verdicts")
            bucket = int(np.searchsorted(LATENCY_EDGES_S, (time.monotonic_ns() - block.received_ns) * 1e-9))
            self.latency[bucket] += block.n
        self.publisher.send(header, columns)
        if self.bridge is not None:
            self.bridge.publish(header, columns)

    def _store(self, block: Finished, table: dict[str, Array]) -> dict[str, str]:
        """Series that could not take their events, with the reason."""
        if self.archive is None:
            return {}
        where = (
            block.route.astype(np.int64) + 1
        )  # series 0 is the results, 1.. the routes, the last fail-open
        where[block.reason >= FIRST_FAILOPEN] = len(self.routes) + 1
        where[block.verdict == VETO] = 0
        frames = self.ring.frames[block.slot, : block.n]
        stored = StoredBlock(block.train_id, block.pulse_id, frames, table, block.received_at_s)
        return self.archive.append(stored, where)

    def _count(self, block: Finished, failed: dict[str, str]) -> None:
        """Every event of the block gets its one outcome."""
        values, at = self.values, self.at
        values[at["blocks"]] += 1
        values[at["store_errors"]] += len(failed)
        values[at["unrecorded"]] += block.n if "results" in failed else 0
        reasons = np.bincount(block.reason, minlength=FIRST_FAILOPEN + len(FAILOPEN_REASONS)).tolist()
        values[at["vetoed"]] += reasons[0]
        for index, reason in enumerate(FAILOPEN_REASONS):
            self._outcome(f"failopen.{reason}", FAILOPEN, reasons[FIRST_FAILOPEN + index], failed)
        routes = np.bincount(block.route + 1, minlength=len(self.routes) + 1).tolist()
        for index, route in enumerate(self.routes):
            self._outcome(f"kept.{route}", route, routes[index + 1], failed)

    def _outcome(self, counter: str, series: str, count: int, failed: dict[str, str]) -> None:
        name = f"shed.{failed[series]}" if series in failed else counter
        self.values[self.at[name]] += count


def run(stage: Stage) -> None:
    Sink(stage).run()


if __name__ == "__main__":
    main("sink", run)
