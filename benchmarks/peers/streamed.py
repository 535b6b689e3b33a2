"""The contenders that a detector pushes to: our pipeline, and the loop around the official client.

The source sends as fast as it is taken, the answers are read at a subscriber. Our events are counted by the
ledger, those of the loop by its subscriber.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from benchmarks.config import Load, free_endpoint
from benchmarks.helper import Helper
from benchmarks.peers.contender import SPARE_S, Contender, Measure, Setting
from benchmarks.peers.model import BUNDLE, MAX_EVENTS, SHAPES
from benchmarks.peers.processes import Tree
from benchmarks.peers.rows import ROWS, Outcome, Row
from benchmarks.running import Running, Window
from models.shipped import find_bundle

# A thousand frames in flight: once round it is a second of the network, which the end of a row waits for.
RING_BYTES: Final = 32 << 20
# Longer than the connection of a subscriber takes on 127.0.0.1.
CONNECT_S: Final = 0.3
# On a clock, before the measurement: caches, the first batch of a network.
FIRST_S: Final = 0.25


@dataclass(frozen=True)
class Ends:
    """The two ends of a stream: who sends, and who listens to the answers."""

    detector: Helper
    listener: Helper

    def send(self, row: Row, seconds: float) -> None:
        self.detector.tell({"row": asdict(row), "seconds": seconds})

    def sent(self, seconds: float) -> dict[str, Any]:
        """The end of the sending."""
        return self.detector.read(seconds + SPARE_S)

    def heard(self, row: Row, sent: Mapping[str, Any]) -> dict[str, Any]:
        """What came of it to the subscriber."""
        request = {"row": asdict(row), "first": sent["first"], "sent": sent["sent"], "limit_s": SPARE_S}
        return self.listener.ask(request, 2 * SPARE_S)


def latencies_s(sent: Mapping[str, Any], heard: Mapping[str, Any]) -> list[float]:
    """Seconds of each train from the moment it was due to its verdict at the subscriber."""
    due_s = dict(enumerate(sent["due_s"], sent["first"]))
    return [at_s - due_s[train_id] for train_id, at_s in heard["seen"]]


# --- ours -----------------------------------------------------------------------------------------------


class Ours:
    """One pipeline at a time: the one that a row needs, started when it is asked for first."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._stack = setting, ExitStack()
        self._now: tuple[str, Load] | None = None

    def measure(self, row: Row) -> Outcome:
        if self._now != (row.network, _load(row)):
            self.close()
            self._now = (row.network, _load(row))
            self._ends, self._running = self._start(row)
        if row.open:
            self._round(row, FIRST_S, 0.0)
        warm_s = 0.0 if row.open else self._setting.warm_s
        window, sent, heard = self._round(row, self._setting.seconds, warm_s)
        times = latencies_s(sent, heard) if row.open else []
        counts = {"events": window.events, "seconds": window.seconds, "total": window.events}
        outcome = Outcome.of(heard | counts, sum(window.cpu_s.values()), times)
        mode = self._running.mode
        return replace(outcome, remark=f"in {mode}" if mode not in (None, self._setting.mode) else "")

    def _round(
        self, row: Row, seconds: float, warm_s: float
    ) -> tuple[Window, dict[str, Any], dict[str, Any]]:
        """Send for a while, look at the ledger meanwhile, come to the end of every event."""
        self._ends.send(row, seconds + 2 * warm_s)
        time.sleep(warm_s)
        window = self._running.measure(seconds, 0)
        sent = self._ends.sent(seconds)
        self._running.drain()
        return window, sent, self._ends.heard(row, sent)

    def _start(self, row: Row) -> tuple[Ends, Running]:
        folder = {"folder": str(self._setting.folder)}
        detector = self._stack.enter_context(
            Helper("benchmarks.peers.detector", folder | {"row": asdict(row)})
        )
        running = self._stack.enter_context(pipeline(row, detector.hello["endpoint"]))
        endpoints = {"verdicts": running.verdicts, "results": str(running.settings.publish.results)}
        listener = self._stack.enter_context(Helper("benchmarks.peers.listener", folder | endpoints))
        time.sleep(CONNECT_S)  # a subscriber that is not connected yet misses what is published
        return Ends(detector, listener), running

    def close(self) -> None:
        self._stack.close()


def pipeline(row: Row, endpoint: str) -> Running:
    bundles = (str(find_bundle(BUNDLE)),) if row.network == "cnn" else ()
    more = {"threads": 1, "max_events": MAX_EVENTS, "device": "cpu", "ring_bytes": RING_BYTES, "store": False}
    return Running(_load(row), endpoint, bundles, **more)


def _load(row: Row) -> Load:
    """A train of one is a camera's shot: without an axis of pulses."""
    return Load(row.events, SHAPES[row.events], "uint16", row.per_request)


def mode_of_pipeline() -> str | None:
    """How our pipeline runs the network on this machine, as its log says."""
    with pipeline(ROWS[0], free_endpoint()) as running:
        return running.mode


@contextmanager
def _ours(setting: Setting) -> Iterator[Measure]:
    ours = Ours(setting)
    try:
        yield ours.measure
    finally:
        ours.close()


OURS: Final = Contender(
    "ours",
    "Karabo Bridge in; ledger, published verdict and results of every event; stores nothing, as nobody",
    _ours,
    lambda _: True,
)


# --- the official client --------------------------------------------------------------------------------


class Loop:
    """One loop at a time: the one that a row needs, with its own detector."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._stack = setting, ExitStack()
        self._now: tuple[str, Load] | None = None

    def measure(self, row: Row) -> Outcome:
        if self._now != (row.network, _load(row)):
            self.close()
            self._now = (row.network, _load(row))
            self._ends, self._tree = _loop(self._stack, self._setting, row)
        _round(row, self._ends, FIRST_S)
        before_s = self._tree.cpu_s()
        sent, heard = _round(row, self._ends, self._setting.seconds)
        return _outcome(row, sent, heard, self._tree.cpu_s() - before_s)

    def close(self) -> None:
        self._stack.close()


@contextmanager
def _karabo(setting: Setting) -> Iterator[Measure]:
    loop = Loop(setting)
    try:
        yield loop.measure
    finally:
        loop.close()


def _loop(stack: ExitStack, setting: Setting, row: Row) -> tuple[Ends, Tree]:
    folder, endpoint = {"folder": str(setting.folder)}, free_endpoint()
    detector = stack.enter_context(Helper("benchmarks.peers.detector", folder | {"row": asdict(row)}))
    argv = [sys.executable, "-m", "benchmarks.peers.servers.karabo", row.network, setting.mode or ""]
    tree = stack.enter_context(Tree([*argv, detector.hello["endpoint"], endpoint]))
    how = folder | {"verdicts": endpoint, "results": None}
    listener = stack.enter_context(Helper("benchmarks.peers.listener", how))
    return Ends(detector, listener), tree


def _round(row: Row, ends: Ends, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    ends.send(row, seconds)
    sent = ends.sent(seconds)
    return sent, ends.heard(row, sent)


def _outcome(row: Row, sent: Mapping[str, Any], heard: dict[str, Any], cpu_s: float) -> Outcome:
    """The rate between the first answer and the last: the queue in front of the loop is full throughout."""
    times = [at_s for _, at_s in heard["seen"]]
    counts = {
        "events": len(times) * row.per_request,
        "seconds": max(times, default=1.0) - min(times, default=0.0),
        "total": sent["sent"] * row.per_request,
    }
    return Outcome.of(heard | counts, cpu_s, latencies_s(sent, heard) if row.open else ())


KARABO: Final = Contender(
    "karabo_bridge client loop", "Client.next(), one train after the other, PUB of the answers", _karabo
)
