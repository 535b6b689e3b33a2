"""What `streamer watch` counts of a results endpoint.

WatchState takes blocks; time is an argument. Shows nothing: that is watch.py. Memory is bounded whatever
comes: streams, publishers, classes, routes and the time looked back on.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamer.results import Block
from streamer.routing import NO_ROUTE, REASON_VETO, REASONS

BIN_S: Final = 0.5  # rates and shares are over whole bins: smooth, whatever the rhythm of the trains
BINS: Final = 10  # 5 s: over less, rates jump about, over more they lag behind
NEWEST: Final = 20  # events kept of each stream: more than one page shows
LATENTS: Final = 4  # elements shown of a latent vector
SHOWN_ABOVE: Final = 0.5  # a class is named when its probability is above
MAX_STREAMS: Final = 32  # a sender that invents stream names must not fill the memory
MAX_PUBLISHERS: Final = 4 * MAX_STREAMS  # remembered to tell missed blocks
MAX_CLASSES: Final = 256  # classes that are averaged; a page shows ten
LATENT_COLUMNS: Final = ("mu", "latent")
KEPT, VETOED, FAILOPEN, UNTOLD = "kept", "vetoed", "failopen", "untold"


@dataclass(frozen=True)
class NewEvent:
    """One event as it is shown; verdict, labels and latents in words."""

    train: str
    pulse: str
    verdict: str
    labels: str
    latents: str


@dataclass
class Bin:
    """What came in half a second."""

    number: int  # unix time in steps of BIN_S
    events: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    classes: tuple[str, ...] = ()
    class_events: int = 0
    p_sum: npt.NDArray[np.float64] | float = 0.0  # [classes]
    above: npt.NDArray[np.int64] | int = 0  # [classes], events whose p is above SHOWN_ABOVE


@dataclass(frozen=True)
class ClassShare:
    """One class over the last seconds."""

    name: str
    share: float  # of the events whose probability is above SHOWN_ABOVE
    mean_p: float


@dataclass
class StreamState:
    """What is known of one stream."""

    since_s: float  # unix s
    seen_s: float  # when the newest block came, unix s
    events: int = 0
    missed_blocks: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # events by routing.REASONS
    routes: Counter[str] = field(default_factory=Counter)  # kept events by route
    latency_s: float | None = None  # median of the newest block, from reception to here; None: not told
    newest: deque[NewEvent] = field(default_factory=lambda: deque(maxlen=NEWEST))
    bins: deque[Bin] = field(default_factory=lambda: deque(maxlen=BINS + 1))  # the last may be under way

    def outcomes(self) -> Counter[str]:
        """All events by outcome: kept (by any route), vetoed, failopen, untold (no such column)."""
        return _outcomes(self.reasons, self.events)

    def failopens(self) -> dict[str, int]:
        """Events kept without an answer, by reason."""
        prefix = "failopen:"
        return {r.removeprefix(prefix): n for r, n in self.reasons.items() if r.startswith(prefix)}

    def recent(self, now_s: float) -> list[Bin]:
        """The whole bins of the last seconds; the one under way as long as there is no other."""
        current = int(now_s // BIN_S)
        whole = [b for b in self.bins if current - BINS <= b.number < current]
        return whole or [b for b in self.bins if b.number == current]

    def events_per_s(self, now_s: float) -> float:
        whole_bins = int(now_s // BIN_S) - int(self.since_s // BIN_S)
        return sum(b.events for b in self.recent(now_s)) / (BIN_S * min(BINS, max(1, whole_bins)))

    def recent_outcomes(self, now_s: float) -> Counter[str]:
        return sum((b.outcomes for b in self.recent(now_s)), Counter())

    def class_shares(self, now_s: float) -> list[ClassShare]:
        """Of the last seconds, the most frequent first; [] of a stream without classes."""
        bins = [b for b in self.recent(now_s) if b.classes and b.class_events]
        bins = [b for b in bins if b.classes == bins[-1].classes]  # another model: only the newer one's
        if not bins:
            return []
        events = sum(b.class_events for b in bins)
        shares, means = sum(b.above for b in bins) / events, sum(b.p_sum for b in bins) / events
        found = [
            ClassShare(name, float(share), float(mean))
            for name, share, mean in zip(bins[-1].classes, np.ravel(shares), np.ravel(means), strict=True)
        ]
        return sorted(found, key=lambda c: (-c.share, -c.mean_p))


def _outcomes(reasons: Counter[str], events: int) -> Counter[str]:
    failed = sum(number for reason, number in reasons.items() if reason.startswith(FAILOPEN))
    vetoed = reasons[REASONS[REASON_VETO]]
    told = sum(reasons.values())
    return Counter({KEPT: told - failed - vetoed, VETOED: vetoed, FAILOPEN: failed, UNTOLD: events - told})


class WatchState:
    """Everything shown. `now_s` (unix) is told with every block and by tick."""

    def __init__(self) -> None:
        self.streams: dict[str, StreamState] = {}
        self.now_s = 0.0
        self.started_s = 0.0  # unix s, of the first tick
        self.bad_messages = 0
        self._sequences: dict[tuple[str, str], int] = {}

    def update(self, block: Block, now_s: float) -> None:
        """Count one block of results or verdicts that arrived at `now_s`."""
        self.tick(now_s)
        if block.stream not in self.streams and len(self.streams) >= MAX_STREAMS:
            return
        state = self.streams.setdefault(block.stream, StreamState(since_s=now_s, seen_s=now_s))
        state.events += len(block)
        state.seen_s = now_s
        self._count_missed(block, state)
        reasons = _reasons(block)
        state.reasons += reasons
        _count_routes(block, state)
        _count_recent(block, reasons, _bin(state, now_s))
        if len(block) and "received_at" in block.columns:
            state.latency_s = now_s - float(np.median(block.columns["received_at"]))
        state.newest += [_event(block, index) for index in range(max(0, len(block) - NEWEST), len(block))]

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        self.now_s = now_s
        self.started_s = self.started_s or now_s

    def events_per_s(self, stream: str) -> float:
        """Over the last whole bins, at most BINS."""
        return self.streams[stream].events_per_s(self.now_s)

    def _count_missed(self, block: Block, state: StreamState) -> None:
        key, sequence = (block.header.publisher, block.stream), block.header.sequence
        last = self._sequences.pop(key, sequence - 1)
        state.missed_blocks += max(0, sequence - last - 1)
        self._sequences[key] = sequence
        if len(self._sequences) > MAX_PUBLISHERS:
            del self._sequences[next(iter(self._sequences))]  # the one that was silent for longest


def _bin(state: StreamState, now_s: float) -> Bin:
    number = int(now_s // BIN_S)
    if not state.bins or state.bins[-1].number != number:
        state.bins.append(Bin(number))
    return state.bins[-1]


def _count_recent(block: Block, reasons: Counter[str], now: Bin) -> None:
    classes = block.header.labels.get("p", ())[:MAX_CLASSES]
    if classes != now.classes:  # the first block, or another model: the averages begin anew
        now.classes, now.class_events, now.p_sum, now.above = classes, 0, 0.0, 0
    now.events += len(block)
    now.outcomes += _outcomes(reasons, len(block))
    now.class_events += len(block)
    if classes:
        p = block.columns["p"][:, : len(classes)].astype(np.float64)
        now.p_sum = now.p_sum + np.nansum(p, axis=0)  # fail-open events have NaN
        now.above = now.above + np.count_nonzero(p > SHOWN_ABOVE, axis=0)


def _reasons(block: Block) -> Counter[str]:
    numbers = _bincount(block.columns["reason"]) if "reason" in block.columns else []
    found: Counter[str] = Counter()
    for reason, number in enumerate(numbers):
        found[REASONS[reason] if reason < len(REASONS) else "unknown"] += number
    return found


def _count_routes(block: Block, state: StreamState) -> None:
    for route, number in enumerate(_bincount(block.columns["route"]) if "route" in block.columns else []):
        name = _route_name(block, route)
        if number and (name in state.routes or len(state.routes) < MAX_CLASSES):
            state.routes[name] += number


def _bincount(column: npt.NDArray[Any]) -> list[int]:
    """Events by value 0, 1, ...; other values and columns of another shape count nowhere."""
    if column.ndim != 1 or column.dtype.kind not in "iu":
        return []
    values = column.astype(np.int64)
    counts: list[int] = np.bincount(values[(values >= 0) & (values < 2**15)]).tolist()
    return counts


def _route_name(block: Block, route: int) -> str:
    names = block.route_names
    return names[route] if 0 <= route < len(names) else f"route {route}"


# One event


def _event(block: Block, index: int) -> NewEvent:
    train, pulse = (str(block.columns[name][index]) for name in ("train_id", "pulse_id"))
    return NewEvent(train, pulse, _verdict(block, index), _labels(block, index), _latents(block, index))


def _scalar(block: Block, name: str, index: int, default: int) -> int:
    column = block.columns.get(name)
    return (
        default if column is None or column.ndim != 1 or column.dtype.kind not in "iu" else int(column[index])
    )


def _verdict(block: Block, index: int) -> str:
    route, reason = _scalar(block, "route", index, NO_ROUTE), _scalar(block, "reason", index, -1)
    if route != NO_ROUTE:
        return _route_name(block, route)
    return REASONS[reason] if 0 <= reason < len(REASONS) else "?"


def _labels(block: Block, index: int) -> str:
    """The classes of an event, the surest first."""
    names = block.header.labels.get("p", ())[:MAX_CLASSES]
    if not names:
        return ""
    p = block.columns["p"][index][: len(names)].astype(np.float64)
    found = sorted(zip(p, names, strict=True), key=lambda pair: -pair[0])
    return ", ".join(f"{name} {value:.2f}" for value, name in found if value > SHOWN_ABOVE)


def _latents(block: Block, index: int) -> str:
    for name in LATENT_COLUMNS:
        if name in block.columns:
            values = np.ravel(block.columns[name][index]).astype(np.float64)
            return " ".join(f"{value:+.2f}" for value in values[:LATENTS]) + (
                " ..." if len(values) > LATENTS else ""
            )
    return ""
