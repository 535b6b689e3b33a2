"""Results in the terminal, live: `streamer watch`.

Owns the page that fits a terminal of any size, the plain lines for pipes and logs, and the loop that joins
them to a client. What is counted is in watch_state.py. Text from the network is shown without its control
characters: a terminal would obey them.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from streamer.client import Client
from streamer.terminal import aligned, bar, clean, count, counted, duration, percent, plural, rate
from streamer.watch_state import FAILOPEN, KEPT, UNTOLD, VETOED, ClassShare, NewEvent, StreamState, WatchState

LIVE_PERIOD_S: Final = 0.25  # a terminal redrawn faster only flickers
LINE_PERIOD_S: Final = 1.0
SILENT_S: Final = 3.0  # without a block for so long, the page says so: thirty trains
BAR: Final = 26  # letters: a third of a common terminal
LETTERS: Final = {KEPT: "#", VETOED: "-", FAILOPEN: "!", UNTOLD: "?"}
WORDS: Final = {KEPT: "kept", VETOED: "vetoed", FAILOPEN: "kept unclassified", UNTOLD: "untold"}
NAME_WIDTH: Final = 18  # of a class or a verdict: failopen:nonfinite
WIDE: Final = 100  # columns from which latents have room as well
ALARM: Final = "bold red"  # beside words in capitals, never alone


# The page


def render(
    state: WatchState, size: tuple[int, int] = (80, 24), heading: Sequence[str] = ()
) -> RenderableType:
    """The whole page, at most as high and as wide as `size` (columns, lines) where that can be."""
    width, height = size
    parts = [_line(line) for line in heading]
    if state.bad_messages:
        text = f"{plural(state.bad_messages, 'message')} NOT DECODED: does something else send there?"
        parts.append(_line(text, ALARM))
    if not state.streams:
        waited_s = state.now_s - state.started_s
        parts.append(
            _line(f"waiting for results, {waited_s:.0f} s ... (streamer status: does a pipeline run?)")
        )
        return Group(*parts)
    room = max(1, (height - 1 - len(parts)) // len(state.streams))
    shown: list[RenderableType] = list(parts)
    for name, stream in state.streams.items():
        shown += _stream(name, stream, state.now_s, (width, room))
    return Group(*shown)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _stream(name: str, stream: StreamState, now_s: float, size: tuple[int, int]) -> list[RenderableType]:
    """At most size[1] lines: the most important first."""
    width, room = size
    lines = [_head(name, stream, now_s), *(_line(text, ALARM) for text in _alarms(stream, now_s))]
    lines += [
        _line("  " + _mix(stream, now_s)),
        _line("  routes " + (_routes(stream) or "none kept anything")),
    ]
    left = room - len(lines) - 1  # one line of the two tables is their heading
    shown: list[RenderableType] = list(lines[: max(1, room)])
    if left > 0 and stream.newest:
        shown += _tables(stream, now_s, (width, left))
    return shown


def _head(name: str, stream: StreamState, now_s: float) -> Text:
    text = _line("")
    text.append(clean(name), "bold")
    facts = [f"{rate(stream.events_per_s(now_s))} events/s", f"{count(stream.events)} events"]
    if stream.latency_s is not None:
        facts.append(f"latency {duration(stream.latency_s)}")
    facts += ["no block missed"] if not stream.missed_blocks else []
    return text.append("   " + "   ".join(facts))


def _alarms(stream: StreamState, now_s: float) -> list[str]:
    """What needs attention, in words."""
    found = []
    if (silent_s := now_s - stream.seen_s) > SILENT_S:
        found.append(f"  NOTHING for {silent_s:.0f} s: source or pipeline stands still (streamer status)")
    if stream.missed_blocks:
        blocks = plural(stream.missed_blocks, "block")
        found.append(f"  MISSED {blocks}: too slow here or on the way; the files have every event")
    if failed := counted(stream.failopens()):
        found.append(f"  KEPT UNCLASSIFIED (failopen): {failed}")
    return found


def _mix(stream: StreamState, now_s: float) -> str:
    """The verdicts of the last seconds; of all events when nothing came lately."""
    outcomes = stream.recent_outcomes(now_s) or stream.outcomes()
    total = sum(outcomes.values())
    drawn = bar({LETTERS[kind]: outcomes[kind] for kind in LETTERS}, BAR)
    shown = [kind for kind in LETTERS if kind != UNTOLD or outcomes[UNTOLD]]
    return drawn + "  " + "  ".join(f"{LETTERS[k]} {WORDS[k]} {percent(outcomes[k], total)}" for k in shown)


def _routes(stream: StreamState) -> str:
    return "  ".join(f"{clean(name)} {count(number)}" for name, number in stream.routes.most_common())


def _tables(stream: StreamState, now_s: float, size: tuple[int, int]) -> list[Text]:
    """Classes of the last seconds left, the newest events right: size[1] lines below a heading."""
    width, rows = size
    classes = _classes(stream.class_shares(now_s)[:rows])
    newest = _newest(list(stream.newest)[-rows:], max(map(len, [*stream.routes, "veto"])), width >= WIDE)
    pairs = list(zip_longest(classes, newest, fillvalue=""))
    both = aligned(pairs) if classes else newest
    return [_line("  " + line, "underline" if index == 0 else "") for index, line in enumerate(both)]


def _classes(classes: Sequence[ClassShare]) -> list[str]:
    if not classes:
        return []
    cells = [(clean(c.name, NAME_WIDTH), percent(c.share, 1), f"{c.mean_p:.2f} ") for c in classes]
    return aligned([("class", "share", "mean p "), *cells], right=(1, 2))


def _newest(events: Sequence[NewEvent], verdict_width: int, latents: bool) -> list[str]:
    """The newest first. `verdict_width` at least: a column that comes and goes cannot be read."""
    rows = [("train", "pulse", "verdict".ljust(min(verdict_width, NAME_WIDTH)), "latents", "surest labels")]
    for e in reversed(events):
        rows.append((e.train, e.pulse, clean(e.verdict, NAME_WIDTH), clean(e.latents), clean(e.labels)))
    chosen = rows if latents else [(*row[:3], row[4]) for row in rows]
    return aligned(chosen, right=(0, 1))


# Plain lines


def lines(state: WatchState) -> list[str]:
    """One plain line per stream, for logs and pipes."""
    if not state.streams:
        return ["waiting for results ..."]
    return [_plain(state, name, stream) for name, stream in state.streams.items()]


def _plain(state: WatchState, name: str, stream: StreamState) -> str:
    outcomes = stream.outcomes()
    parts = [f"{name}: {stream.events} events, {rate(state.events_per_s(name))}/s"]
    parts += [f"{WORDS[kind]} {percent(outcomes[kind], stream.events)}" for kind in (KEPT, VETOED, FAILOPEN)]
    parts += [" ".join(f"{route}={number}" for route, number in stream.routes.most_common())]
    parts += [duration(stream.latency_s)] if stream.latency_s is not None else []
    parts += [text.strip() for text in _alarms(stream, state.now_s)]
    if stream.newest:
        new = stream.newest[-1]
        parts.append(" ".join(("newest", new.train, new.pulse, new.verdict, new.labels, new.latents)).strip())
    return ", ".join(clean(part, 200) for part in parts if part)


# The loop


@dataclass(frozen=True)
class Screen:
    """Where `watch` shows: a console, and a line that stands above everything."""

    console: Console = field(default_factory=Console)
    note: str = ""


class LinePrinter:
    """A line per stream and second."""

    period_s = LINE_PERIOD_S

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, state: WatchState) -> None:
        for line in lines(state):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LivePage:
    """A page that is drawn over itself."""

    period_s = LIVE_PERIOD_S

    def __init__(self, console: Console, heading: Sequence[str]) -> None:
        self._console, self._heading, self._size = console, heading, console.size
        self._live = Live(Text(""), console=console, auto_refresh=False)

    def show(self, state: WatchState) -> None:
        size = self._console.size
        if size != self._size:  # the terminal broke the old lines anew: nothing is where it was
            self._console.clear()
        self._size = size
        self._live.update(render(state, (size.width, size.height), self._heading), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def watch(
    endpoints: str | Sequence[str],
    duration_s: float | None = None,
    stop: threading.Event | None = None,
    stream: str | None = None,
    screen: Screen | None = None,
) -> WatchState:
    """Show results until `duration_s` has passed (None: for ever), `stop` is set, or ^C; what was counted.

    A terminal gets a live page, anything else a line per stream and second. ConfigError for a bad endpoint.
    """
    screen, state = screen or Screen(), WatchState()
    end_s = time.monotonic() + (duration_s if duration_s is not None else float("inf"))
    with Client(endpoints, stream) as client:
        if not screen.console.is_terminal or screen.console.is_dumb_terminal:
            _run(client, state, end_s, stop, LinePrinter(screen.console))
            return state
        heading = [*filter(None, [screen.note]), "watching " + ", ".join(client.endpoints) + "   (^C ends)"]
        with LivePage(screen.console, heading) as page:
            _run(client, state, end_s, stop, page)
    return state


def _run(
    client: Client,
    state: WatchState,
    end_s: float,
    stop: threading.Event | None,
    output: LinePrinter | LivePage,
) -> None:
    """Take blocks and show them every period, and once at the end. `end_s` is of the monotonic clock."""
    state.tick(time.time())
    shown_s = time.monotonic()
    try:
        while (now_s := time.monotonic()) < end_s and not (stop is not None and stop.is_set()):
            _take(client, state, min(LIVE_PERIOD_S, end_s - now_s))
            if now_s - shown_s >= output.period_s:
                output.show(state)
                shown_s = now_s
    except KeyboardInterrupt:  # the way to end it
        pass
    output.show(state)


def _take(client: Client, state: WatchState, timeout_s: float) -> None:
    """The next block, if one comes in time."""
    try:
        state.update(client.receive(timeout_s), time.time())
    except TimeoutError:
        state.tick(time.time())
    state.bad_messages = client.bad_messages
