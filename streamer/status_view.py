"""The state of the running pipeline in the terminal: `streamer status`.

Owns the page that is drawn each second, and the asking. The words of the facts are in status_facts.py, what
is computed from two answers in status_numbers.py. What needs attention stands in capitals as well as in red,
and a page that has no room for everything keeps that.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamer import control
from streamer.errors import ConfigError
from streamer.status_facts import (
    LONGEST,
    SILENT_S,
    Row,
    action_line,
    endpoint_rows,
    route_lines,
    stream_rows,
)
from streamer.status_numbers import History, Report
from streamer.terminal import aligned, clean, clock, count, duration, rate

PERIOD_S: Final = 1.0  # the rhythm in which a person reads
GAP_S: Final = 1.0  # between two answers of a single look: ten trains of the European XFEL
LOOKS: Final = int(SILENT_S / GAP_S) + 2  # of a single look at most: a silence is an alarm, or over, by then
ASK_S: Final = 5.0  # for an answer: a pipeline at work answers in milliseconds
LIVE_ASK_S: Final = 2.0  # while the page is live: it asks again
ACTIONS: Final = 5  # newest ones of the steering journal
ALARM: Final = "bold red"  # beside words in capitals, never alone
Entries = Sequence[Mapping[str, Any]]


@dataclass
class State:
    """What is known: the newest answers, and since when there is none."""

    endpoint: str
    history: History = field(default_factory=History)
    report: Report | None = None
    entries: Entries = ()
    answered_at_s: float | None = None  # unix s
    silent_since_s: float | None = None  # unix s; None: it answers

    def take(self, report: Report, entries: Entries, now_s: float) -> None:
        self.report, self.entries, self.answered_at_s, self.silent_since_s = report, entries, now_s, None
        self.history.add(report)

    def undecided(self) -> bool:
        """Nothing came from a source, but not for so long that it is an alarm."""
        streams = self.report["streams"] if self.report else ()
        return any(0 < self.history.recent(name).silent_s <= SILENT_S for name in streams)

    def lose(self, now_s: float) -> None:
        """It did not answer."""
        self.silent_since_s = self.silent_since_s or now_s


# The page


def render(state: State, now_s: float, size: tuple[int, int] | None = None) -> RenderableType:
    """Everything; a page that is lower than that (`size`: columns, lines) leaves out what is well."""
    head = [Text(line, style) for line, style in _head(state, now_s)]
    if state.report is None:
        return Group(*head)

    def page(body: Iterable[RenderableType]) -> Group:
        return Group(*head, *body, *_actions(state.entries))

    full, brief = (page(_full(state.report, state.history, brief)) for brief in (False, True))
    for found in (full, brief):
        if size is None or _height(found, size[0]) < size[1]:
            return found
    return page(_short(state.report, state.history))


def _height(page: RenderableType, width: int) -> int:
    probe = Console(width=width, force_terminal=False, color_system=None)
    return len(probe.render_lines(page, probe.options.update(height=None)))


def _head(state: State, now_s: float) -> Iterator[tuple[str, str]]:
    if state.silent_since_s is not None or state.report is None:
        since_s = now_s - (state.silent_since_s or now_s)
        yield f"NO PIPELINE ANSWERS at {clean(state.endpoint, LONGEST)} for {clock(since_s)}", ALARM
        yield "It ended, or has not started. This page takes it up by itself.", ""
    if state.report is None or state.answered_at_s is None:
        return
    report = state.report
    told = time.strftime("%H:%M:%S", time.localtime(state.answered_at_s))
    parts = [f"run {report['run']}"] if "run" in report else []
    parts += [f"proposal {report['proposal']}"] if report.get("proposal") else []
    parts += [f"up {clock(report['duration_s'])}", f"streamer {clean(report['versions']['streamer'])}"]
    if report.get("stopping"):
        parts.append("STOPPING")
    if (page := report.get("dashboard")) is not None:
        parts.append("live page " + ("up" if page["up"] else "DOWN"))
    yield "   ".join(parts) + f"   as of {told}", "bold" if state.silent_since_s is None else ""


def _full(report: Report, history: History, brief: bool) -> Iterator[RenderableType]:
    """Every stream with its facts and routes; `brief`: what comes first, and what needs attention."""
    if not brief and (places := endpoint_rows(report)):
        yield _grid(places)
    for name in report["streams"]:
        yield Text(clean(name), "bold underline")
        rows = list(stream_rows(name, report, history.recent(name)))
        rows = [row for row in rows if not brief or row.alarm or row.first]
        routes = route_lines(name, report)
        rows += [Row("routes" if index == 0 else "", line) for index, line in enumerate(routes)]
        yield _grid(rows)


def _grid(rows: Sequence[Row]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        style = ALARM if row.alarm else ""
        table.add_row(Text("  " + row.name, style), Text(row.words, style))
    return table


def _short(report: Report, history: History) -> Iterator[RenderableType]:
    """A line for each stream, and what needs attention."""
    rows = [("stream", "events/s", "kept/s", "99 %", "in flight", "")]
    alarms = []
    for name, stream in report["streams"].items():
        recent = history.recent(name)
        wrong = [row for row in stream_rows(name, report, recent) if row.alarm]
        alarms += [Row(f"{clean(name)} {row.name}", row.words, alarm=True) for row in wrong]
        rates = rate(recent.received_per_s), rate(recent.kept_per_s), duration(recent.p99_s)
        rows.append((clean(name), *rates, count(stream["in_flight"]), "" if wrong else " all well"))
    for index, line in enumerate(aligned(rows, right=(1, 2, 3, 4))):
        yield Text(line, "underline" if index == 0 else "", no_wrap=True, overflow="ellipsis")
    if alarms:
        yield _grid(alarms)


def _actions(entries: Entries) -> Iterator[RenderableType]:
    if entries:
        yield Text("steering, the newest last", "bold underline")
    for entry in entries[-ACTIONS:]:
        yield Text("  " + action_line(entry), ALARM if "refused" in entry else "", overflow="fold")


# Asking


def ask(endpoint: str, timeout_s: float = LIVE_ASK_S) -> tuple[Report, Entries]:
    """The report and the journal of the moment. Raises ConfigError if no pipeline answers."""
    report: Report = control.request(endpoint, {"command": "status"}, timeout_s)["report"]
    try:
        return report, control.request(endpoint, {"command": "journal"}, timeout_s)["entries"]
    except ConfigError:  # it ended between the two questions: what it said still holds
        return report, ()


def once(endpoint: str, console: Console) -> None:
    """Print the state of the moment. Raises ConfigError.

    Two answers, GAP_S apart: rates are of now. More while a source may be slow, or silent.
    """
    state = State(endpoint)
    state.take(*ask(endpoint, ASK_S), time.time())
    for _ in range(LOOKS - 1):
        time.sleep(GAP_S)  # not a wait for anybody: a rate is over a time
        state.take(*ask(endpoint, ASK_S), time.time())
        if not state.undecided():
            break
    console.print(render(state, time.time()))


def live(endpoint: str, console: Console, stop: threading.Event | None = None) -> None:
    """Draw the page each PERIOD_S until ^C or `stop`; a pipeline that ends or begins anew is followed."""
    state, stop, size = State(endpoint), stop or threading.Event(), console.size
    with Live(Text("asking ..."), console=console, auto_refresh=False) as page:
        try:
            while not stop.is_set():
                _look(state)
                if console.size != size:  # the terminal broke the old lines anew: nothing is where it was
                    console.clear()
                size = console.size
                page.update(render(state, time.time(), (size.width, size.height)), refresh=True)
                stop.wait(PERIOD_S)
        except KeyboardInterrupt:  # the way to end it
            return


def _look(state: State, asking: Callable[[str], tuple[Report, Entries]] = ask) -> None:
    try:
        state.take(*asking(state.endpoint), time.time())
    except ConfigError:
        state.lose(time.time())


def show(endpoint: str, console: Console, single: bool) -> None:
    """The live page on a terminal; the state of the moment if `single` is wanted, or the output is a pipe."""
    if single or not console.is_terminal or console.is_dumb_terminal:
        once(endpoint, console)
    else:
        live(endpoint, console)
