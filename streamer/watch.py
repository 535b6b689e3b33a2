"""Results in the terminal, live.

Owns what is shown of a results endpoint: WatchState takes blocks, `render` and `lines` turn it into a table
or plain text without any I/O, `watch` joins both to a client. Text from the network is shown without its
control characters: a terminal would obey them.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamer.client import Client
from streamer.results import Block
from streamer.routing import NO_ROUTE, REASON_VETO, REASONS

WINDOW_S: Final = 5.0  # rates over less jump about, over more lag behind
NEWEST: Final = 5  # events shown of each stream: what an eye takes in between two refreshes
LATENTS: Final = 4  # elements shown of a latent vector
SHOWN_ABOVE: Final = 0.5  # a class is named when its probability is above
MAX_STREAMS: Final = 32  # a sender that invents stream names must not fill the memory
LIVE_PERIOD_S: Final = 0.25  # a terminal redrawn faster only flickers
LINE_PERIOD_S: Final = 1.0
LATENT_COLUMNS: Final = ("mu", "latent")


@dataclass
class StreamState:
    """What is known of one stream."""

    events: int = 0
    missed_blocks: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # events by routing.REASONS
    routes: Counter[str] = field(default_factory=Counter)  # kept events by route
    latency_s: float | None = None  # median of the newest block, from reception to here; None: not told
    newest: list[list[str]] = field(default_factory=list)  # train, pulse, verdict, labels, latents
    arrivals: deque[tuple[float, int]] = field(default_factory=deque)  # (unix s, events), of the window
    since_s: float = 0.0

    def share(self, kind: str) -> float:
        """Fraction of all events: 'kept' (by a route or sample), 'vetoed' or 'failopen'."""
        failed = sum(count for reason, count in self.reasons.items() if reason.startswith("failopen"))
        vetoed = self.reasons[REASONS[REASON_VETO]]
        counts = {"failopen": failed, "vetoed": vetoed, "kept": self.events - failed - vetoed}
        return counts[kind] / max(1, self.events)


class WatchState:
    """Everything shown. `now_s` (unix) is told with every block and by tick."""

    def __init__(self) -> None:
        self.streams: dict[str, StreamState] = {}
        self.now_s = 0.0
        self._sequences: dict[str, tuple[str, int]] = {}

    def update(self, block: Block, now_s: float) -> None:
        """Count one block of results or verdicts that arrived at `now_s`."""
        self.tick(now_s)
        if block.stream not in self.streams and len(self.streams) >= MAX_STREAMS:
            return
        state = self.streams.setdefault(block.stream, StreamState(since_s=now_s))
        state.events += len(block)
        state.arrivals.append((now_s, len(block)))
        self._count_missed(block, state)
        _count_verdicts(block, state)
        if len(block) and "received_at" in block.columns:
            state.latency_s = now_s - float(np.median(block.columns["received_at"]))
        state.newest = [_event_row(block, index) for index in range(max(0, len(block) - NEWEST), len(block))]

    def tick(self, now_s: float) -> None:
        """Move the window of the rates."""
        self.now_s = now_s
        for state in self.streams.values():
            while state.arrivals and state.arrivals[0][0] < now_s - WINDOW_S:
                state.arrivals.popleft()

    def events_per_s(self, stream: str) -> float:
        """Over the window, or over what has passed of it, at least 1 s."""
        state = self.streams[stream]
        elapsed_s = min(WINDOW_S, max(1.0, self.now_s - state.since_s))
        return sum(count for _, count in state.arrivals) / elapsed_s

    def _count_missed(self, block: Block, state: StreamState) -> None:
        publisher, last = self._sequences.get(
            block.stream, (block.header.publisher, block.header.sequence - 1)
        )
        if publisher == block.header.publisher:
            state.missed_blocks += max(0, block.header.sequence - last - 1)
        self._sequences[block.stream] = (block.header.publisher, block.header.sequence)


def _count_verdicts(block: Block, state: StreamState) -> None:
    if "reason" in block.columns:
        for reason, count in enumerate(_bincount(block.columns["reason"])):
            state.reasons[REASONS[reason] if reason < len(REASONS) else "unknown"] += count
    if "route" in block.columns:
        for route, count in enumerate(_bincount(block.columns["route"])):
            if count:
                state.routes[_route_name(block, route)] += count


def _bincount(column: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> list[int]:
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


def _event_row(block: Block, index: int) -> list[str]:
    ids = [str(block.columns[name][index]) for name in ("train_id", "pulse_id")]
    return [*ids, _verdict(block, index), _labels(block, index), _latents(block, index)]


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
    names = block.header.labels.get("p", ())
    if not names:
        return ""
    p = block.columns["p"][index].astype(np.float64)
    return ", ".join(
        f"{name} {value:.2f}" for name, value in zip(names, p, strict=True) if value > SHOWN_ABOVE
    )


def _latents(block: Block, index: int) -> str:
    for name in LATENT_COLUMNS:
        if name in block.columns:
            values = np.ravel(block.columns[name][index]).astype(np.float64)
            return " ".join(f"{value:+.2f}" for value in values[:LATENTS]) + (
                " ..." if len(values) > LATENTS else ""
            )
    return ""


# What is shown


def clean(text: str) -> str:
    """Text from the network, with '?' for what a terminal would obey, shortened."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


def render(state: WatchState) -> RenderableType:
    """The whole view; nothing but rich objects is made here."""
    if not state.streams:
        return Text("waiting for results ...")
    parts: list[RenderableType] = [_overview(state)]
    for name, stream in state.streams.items():
        parts.append(_newest(name, stream))
    return Group(*parts)


def _overview(state: WatchState) -> Table:
    table = Table(
        "stream", "events", "events/s", "kept", "vetoed", "fail-open", "routes", "latency", "missed"
    )
    for name, stream in state.streams.items():
        shares = [f"{stream.share(kind):.1%}" for kind in ("kept", "vetoed", "failopen")]
        cells = [name, str(stream.events), f"{state.events_per_s(name):.0f}", *shares]
        cells += [_routes(stream), _latency(stream), str(stream.missed_blocks)]
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table


def _newest(name: str, stream: StreamState) -> Table:
    title = Text(f"{clean(name)}: newest events")
    table = Table("train", "pulse", "verdict", "labels", "latents", title=title, title_justify="left")
    for row in stream.newest:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table


def _routes(stream: StreamState) -> str:
    return " ".join(f"{name}={count}" for name, count in stream.routes.most_common())


def _latency(stream: StreamState) -> str:
    return "" if stream.latency_s is None else f"{stream.latency_s * 1e3:.1f} ms"


def lines(state: WatchState) -> list[str]:
    """One plain line per stream, for logs and pipes."""
    if not state.streams:
        return ["waiting for results ..."]
    return [_line(state, name, stream) for name, stream in state.streams.items()]


def _line(state: WatchState, name: str, stream: StreamState) -> str:
    parts = [f"{name}: {stream.events} events, {state.events_per_s(name):.0f}/s"]
    parts += [f"{kind} {stream.share(kind):.1%}" for kind in ("kept", "vetoed", "failopen")]
    parts += [text for text in (_routes(stream), _latency(stream)) if text]
    if stream.missed_blocks:
        parts.append(f"missed {stream.missed_blocks} blocks")
    if stream.newest:
        parts.append("newest " + " ".join(stream.newest[-1]).strip())
    return ", ".join(clean(part) for part in parts)


def watch(
    endpoints: str | Sequence[str],
    duration_s: float | None = None,
    stop: threading.Event | None = None,
    stream: str | None = None,
    console: Console | None = None,
) -> WatchState:
    """Show results until `duration_s` has passed (None: for ever) or `stop` is set; returns what was counted.

    A terminal gets a live table, anything else a line per stream and second. ConfigError for a bad endpoint.
    """
    console, state = console or Console(), WatchState()
    end_s = time.monotonic() + (duration_s if duration_s is not None else float("inf"))
    with Client(endpoints, stream) as client:
        if not console.is_terminal:
            _run(client, state, end_s, stop, _LinePrinter(console))
            return state
        with Live(render(state), console=console, auto_refresh=False) as live:
            _run(client, state, end_s, stop, _LiveTable(live))
    return state


@dataclass
class _LinePrinter:
    console: Console
    period_s: float = LINE_PERIOD_S

    def show(self, state: WatchState) -> None:
        for line in lines(state):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _LiveTable:
    live: Live
    period_s: float = LIVE_PERIOD_S

    def show(self, state: WatchState) -> None:
        self.live.update(render(state), refresh=True)


def _run(
    client: Client,
    state: WatchState,
    end_s: float,
    stop: threading.Event | None,
    output: _LinePrinter | _LiveTable,
) -> None:
    """Take blocks and show them every period, and once at the end. `end_s` is of the monotonic clock."""
    shown_s = time.monotonic()
    while (now_s := time.monotonic()) < end_s and not (stop is not None and stop.is_set()):
        try:
            block = client.receive(min(LIVE_PERIOD_S, end_s - now_s))
            state.update(block, time.time())
        except TimeoutError:
            state.tick(time.time())
        if now_s - shown_s >= output.period_s:
            output.show(state)
            shown_s = now_s
    output.show(state)
