"""Third stage: from the ring to the sockets and the files, and the slot back to ingest.

Owns the end of an event: its results are published, it is stored where its route says, it is counted. One
commit of the page says all three: what the files hold (the cursor), what was counted, and which blocks these
were. A block that was not committed when the process died is simply done again, over the same bytes of the
files. Blocks that wait together are done together (`finished`), with one commit.
"""

import time
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import zmq

from streamer import memory
from streamer.archive import FAILOPEN, Archive, StoredBlock
from streamer.errors import FAILOPEN_REASONS, StoreError
from streamer.finished import Finished, Group, Reader
from streamer.ledger import LATENCY_EDGES_S
from streamer.plan import attached_names, columns_of, make_router, route_names
from streamer.publish import KaraboBridgeResults, ResultsPublisher
from streamer.results import VERDICT_COLUMNS, ResultHeader
from streamer.results import BundleRef as PublishedBundle
from streamer.ring import DONE, FILLING, FREE, READY, TAKEN
from streamer.routing import FIRST_FAILOPEN
from streamer.stage import IDLE_MS, RESCAN_NS, Stage, main
from streamer.tokens import Token
from streamer.versions import FIRST, NO_VERSION, version

# A turn begins at least so long after the one before. What comes meanwhile is done together, for a part of
# the processor time: at 1 kHz every wake-up of this process, of its I/O thread and of every reader costs as
# much as ten events, and where cores are few the next verdicts wait for it. Nobody waits for the results: the
# verdicts have left. A person sees 0.1 s.
GATHER_S = 0.01
# What comes meanwhile may fill a small ring: it takes a quarter of any ring at most, at the rate of memory.
# So 10 ms need a ring of 160 MB.
FILL_BYTES_A_S = 4e9
RING_SHARE = 4


class Sink:
    """Publishes, stores and counts the blocks of one stream."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.page, self.ring = stage, stage.page, stage.shared.ring
        spec = stage.spec
        columns = columns_of(spec)
        self.reader = Reader(self.ring, columns, attached_names(spec))
        self.routes = route_names(spec.settings)
        self.labels = {c.name: c.labels for c in columns if c.labels}
        self.values, self.latency = self.page.values, self.page.view("latency")
        self.at = self.page.at
        self._name(int(self.values[self.at["version"]]) or FIRST)
        self.archive = self._open_archive()
        context = zmq.Context()
        self.tokens = spec.tokens("sink")
        self.to_ingest = spec.tokens("ingest")
        self.publisher = ResultsPublisher(spec.settings.publish.results, context=context)
        self.bridge = self._open_bridge(context)
        self.poller = zmq.Poller()
        self.poller.register(self.tokens, zmq.POLLIN)
        self.scanned_ns = 0
        self.gather_s = min(GATHER_S, self.ring.frames.nbytes / RING_SHARE / FILL_BYTES_A_S)

    def _name(self, number: int) -> None:
        """The version that answers now."""
        spec = self.stage.spec
        self.number, self.version = number, version(spec, number)
        self.published = tuple(PublishedBundle(ref.name, ref.sha256) for ref in self.version.bundles)
        self.rules_sha256 = make_router(spec, self.version).rules_sha256
        self.values[self.at["version"]] = number

    def _open_archive(self) -> Archive | None:
        spec = self.stage.spec
        return Archive(spec, self.page.view("cursor"), self.version) if spec.config.output.store else None

    def _open_bridge(self, context: "zmq.Context[zmq.Socket[bytes]]") -> KaraboBridgeResults | None:
        publish = self.stage.spec.settings.publish
        if publish.karabo_bridge is None:
            return None
        return KaraboBridgeResults(publish.karabo_bridge, publish.karabo_bridge_socket, context=context)

    # --- life ---------------------------------------------------------------------------------------

    def run(self) -> None:
        memory.keep_freed_memory()  # what is published passes through a buffer for each column
        if self.bridge is not None and self.stage.spec.settings.publish.karabo_bridge_socket == "REP":
            self.poller.register(self.bridge.socket, zmq.POLLIN)
        self.recover()
        self.stage.ready()
        while not (self.stage.stopping and self._empty()):
            start_s = time.monotonic()
            self.step()
            time.sleep(max(0.0, start_s + self.gather_s - time.monotonic()))
        self._close()

    def recover(self) -> None:
        """Bring the files to the last commit, free the blocks it was about, do the others again."""
        if self.archive is not None:
            self.archive.resume()
            self.page.commit()
        first, last = (int(self.values[self.at[name]]) for name in ("first_seq", "last_seq"))
        left = self.ring.left_in(DONE)
        self._free([token for token in left if first <= token[1] <= last])
        self._take(left)

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
        """One turn: everything that waits, or a wait."""
        tokens = self.tokens.receive()
        self._take(tokens)
        if not tokens and not self.poller.poll(IDLE_MS):
            self._rescan()
        if self.bridge is not None:
            self.bridge.serve_requests()
        self.stage.alive()

    def _rescan(self) -> None:
        """A token may have died with its sender; with nothing to do, look once a second."""
        now_ns = time.monotonic_ns()
        if now_ns - self.scanned_ns > RESCAN_NS:
            self.scanned_ns = now_ns
            self._take(self.ring.left_in(DONE))

    # --- blocks -------------------------------------------------------------------------------------

    def _take(self, tokens: Sequence[Token]) -> None:
        for group in self.reader.groups(tokens):
            self.finish(group)
            self.stage.alive()

    def finish(self, group: Group) -> None:
        """Publish, store, count and free the blocks of one group."""
        done, tokens = self.reader.read(group), group.tokens
        self._use_version(group.version)
        self._publish(done)
        series = self._series(done)
        self._count(done, series, self._store(done, series))
        self.values[self.at["first_seq"]], self.values[self.at["last_seq"]] = tokens[0][1], tokens[-1][1]
        self.page.commit()
        self._free(tokens)

    def _free(self, tokens: Sequence[Token]) -> None:
        for slot, _ in tokens:
            self.ring.state[slot] = FREE
        self.to_ingest.send(*tokens)

    def _use_version(self, number: int) -> None:
        """Go on in other files when another version answers. What none answered stays with the last one."""
        if number in (NO_VERSION, self.number):
            return
        self._name(number)
        if self.archive is not None:
            self.archive.set_version(self.version)
        self.page.commit()  # the files' new cursor, before anything is written after it

    def _header(self, done: Finished) -> ResultHeader:
        return ResultHeader(
            run=self.stage.spec.config.run,
            stream=self.stage.spec.stream,
            received_at=done.received_at_s,
            bundles=self.published if done.group.version else (),
            rules_sha256=self.rules_sha256,
            routes=tuple(self.routes),
            labels=self.labels,
        )

    def _publish(self, done: Finished) -> None:
        header = self._header(done)
        if done.group.overloaded:
            verdicts = {name: done.columns[name] for name in VERDICT_COLUMNS}
            self.publisher.send(header, verdicts, "verdicts")
            self._count_latency(done)
        self.publisher.send(header, done.columns)
        if self.bridge is not None:
            self.bridge.publish(header, done.columns)

    def _count_latency(self, done: Finished) -> None:
        """Of blocks whose verdicts left here."""
        now_ns = time.monotonic_ns()
        for (slot, _), n in zip(done.group.tokens, done.group.sizes, strict=True):
            waited_s = (now_ns - int(self.ring.received_ns[slot])) * 1e-9
            self.latency[bisect_left(LATENCY_EDGES_S, waited_s)] += n

    def _series(self, done: Finished) -> npt.NDArray[np.int64]:
        """Which series takes each event: 0 is none but the results, 1.. the routes, the last fail-open."""
        series = done.columns["route"] + np.int64(1)
        series[done.columns["reason"] >= FIRST_FAILOPEN] = len(self.routes) + 1
        return series

    def _store(self, done: Finished, series: npt.NDArray[np.int64]) -> dict[str, str]:
        """Series that could not take their events, with the reason."""
        if self.archive is None or not self.version.store:
            self.values[self.at["not_stored"]] += np.count_nonzero(series)
            return {}
        ids = done.columns["train_id"], done.columns["pulse_id"]
        events = StoredBlock(*ids, done.frames, done.columns, done.received_at_s, done.frame_at)
        return self.archive.append(events, series)

    def _count(self, done: Finished, series: npt.NDArray[np.int64], failed: dict[str, str]) -> None:
        """Every event gets its one outcome."""
        values, at = self.values, self.at
        values[at["blocks"]] += len(done.group.tokens)
        values[at["store_errors"]] += len(failed)
        values[at["unrecorded"]] += done.n if "results" in failed else 0
        vetoed, *kept, unclear = np.bincount(series, minlength=len(self.routes) + 2).tolist()
        values[at["vetoed"]] += vetoed
        for route, count in zip(self.routes, kept, strict=True):
            self._outcome(f"kept.{route}", route, count, failed)
        if unclear:
            codes = np.bincount(done.columns["reason"], minlength=FIRST_FAILOPEN + len(FAILOPEN_REASONS))
            for reason, count in zip(FAILOPEN_REASONS, codes[FIRST_FAILOPEN:].tolist(), strict=True):
                self._outcome(f"failopen.{reason}", FAILOPEN, count, failed)

    def _outcome(self, counter: str, series: str, count: int, failed: dict[str, str]) -> None:
        name = f"shed.{failed[series]}" if series in failed else counter
        self.values[self.at[name]] += count


def run(stage: Stage) -> None:
    Sink(stage).run()


if __name__ == "__main__":
    main("sink", run)
