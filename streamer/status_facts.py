"""The facts that `streamer status` tells, in words.

Owns what is said of a stream, of its routes and of a steering action; one row or line each. Knows no
terminal. Texts of people and of the configuration are cleaned here.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from streamer.status_numbers import Recent, Report, total
from streamer.terminal import aligned, clean, count, counted, duration, percent, plural, rate

LONGEST: Final = 160  # of one text from a person: two lines of a common terminal
SILENT_S: Final = 3.0  # a source without a message for longer: an alarm; thirty trains of the European XFEL


class Row(NamedTuple):
    """One fact: its name and its words."""

    name: str
    words: str
    alarm: bool = False  # somebody should do something
    first: bool = False  # shown where there is little room, as alarms are


def stream_rows(name: str, report: Report, recent: Recent) -> Iterator[Row]:
    """Every fact of one stream, the ordinary ones first."""
    stream = report["streams"][name]
    steering = report.get("steering", {}).get(name, {})
    started = report["duration_s"] > 0
    yield _stages(report.get("stages", {}).get(name, {}), "DOWN" if started else "starting")
    yield (
        _flow(recent) if started else Row("rate", "none yet: waiting until every stage is ready", first=True)
    )
    yield _times(recent)
    yield from _ledger(stream)
    yield from _losses(stream, recent)
    yield from _storing(stream, steering)
    if "ring" in stream:
        yield Row(
            "ring", f"{count(stream['ring']['in_use'])} of {plural(stream['ring']['slots'], 'slot')} in use"
        )
    yield Row(
        "models",
        ", ".join(f"{clean(b['name'])} {clean(b['sha256'], 8)}" for b in stream["bundles"]) or "none",
    )
    if clusters := steering.get("clusters"):
        yield Row("clusters", ", ".join(f"{clean(c)} = {number}" for c, number in clusters.items()))


def _stages(stages: Mapping[str, Mapping[str, Any]], otherwise: str) -> Row:
    """`otherwise` is said of a stage that is not up."""
    down = any(not state["up"] for state in stages.values())
    words = [_stage(stage, state, otherwise) for stage, state in stages.items()]
    restarted = any(state["restarts"] for state in stages.values())
    return Row("stages", "  ".join(words), down and otherwise.isupper(), restarted)


def _stage(name: str, state: Mapping[str, Any], otherwise: str) -> str:
    inner = [f"pid {state['pid']}"] if state["up"] else []
    inner += [plural(state["restarts"], "restart")] if state["restarts"] else []
    told = f" ({', '.join(inner)})" if inner else ""
    return f"{name} {'up' if state['up'] else otherwise}{told}"


def span(recent: Recent) -> str:
    """The time that rates are over, in words."""
    return "since the start" if recent.whole_run else f"in the last {recent.span_s:.0f} s"


def _flow(recent: Recent) -> Row:
    if recent.silent_s > SILENT_S:
        return Row("rate", f"NOTHING CAME for {recent.silent_s:.0f} s: is the source sending?", alarm=True)
    rates = (recent.received_per_s, recent.kept_per_s, recent.vetoed_per_s)
    come, kept, vetoed = map(rate, rates)
    return Row("rate", f"{come} events/s, {kept} kept, {vetoed} vetoed, {span(recent)}", first=True)


def _times(recent: Recent) -> Row:
    words = f"median {duration(recent.p50_s)}, 99 % within {duration(recent.p99_s)}"
    if recent.batch_events is not None:
        words += f"; batches of {recent.batch_events:.0f} (median)"
    return Row("latency", words, first=True)


def _ledger(stream: Report) -> Iterator[Row]:
    """Terms that are 0 are left out, so that the line is one; kept and vetoed always stand there."""
    terms = [("kept", total(stream["kept"])), ("kept unclassified (failopen)", total(stream["failopen"]))]
    terms += [
        ("vetoed", stream["vetoed"]),
        ("shed", total(stream["shed"])),
        ("in flight", stream["in_flight"]),
    ]
    told = [f"{count(number)} {word}" for word, number in terms if number or word in ("kept", "vetoed")]
    yield Row("ledger", f"{count(stream['received'])} received = " + " + ".join(told), first=True)
    if off := stream["imbalance"]:
        yield Row(
            "IMBALANCE", f"of {count(off)}: the ledger DOES NOT ADD UP; keep the logs, it is our fault", True
        )


def _losses(stream: Report, recent: Recent) -> Iterator[Row]:
    """What went wrong, each kind with its reasons; nothing where nothing did. An alarm while it goes on."""
    for key, name, text in (
        ("failopen", "unclassified", "kept unclassified (failopen)"),
        ("rejected", "rejected", "messages refused"),
    ):
        if reasons := counted(stream[key]):
            yield _going_on(name, f"{text}: {reasons}", recent.lately[key], recent)
    if missing := stream["missing_upstream"]:
        words = (
            f"{plural(missing, 'event')} of {plural(stream['missing_upstream_trains'], 'train')} did not come"
        )
        yield _going_on("upstream", words, recent.lately["missing_upstream"], recent)
    odd = {name: stream[name.replace(" ", "_")] for name in ("duplicates", "out of order", "id jumps")}
    if words := counted(odd):
        yield Row("ids", words)
    if gone := counted(stream["shed"]):
        yield Row("SHED", f"data GONE: {gone}", alarm=True)
    if stream["store_errors"] or stream["unrecorded"]:
        errors, events = plural(stream["store_errors"], "error"), plural(stream["unrecorded"], "event")
        yield Row("FILES", f"{errors}; results of {events} NOT written", alarm=True)


def _going_on(name: str, words: str, lately: int, recent: Recent) -> Row:
    if lately and not recent.whole_run:
        return Row(name.upper(), f"{words}; {count(lately)} {span(recent)}", alarm=True)
    return Row(name, words + ("" if recent.whole_run else f"; none {span(recent)}"), alarm=recent.whole_run)


def _storing(stream: Report, steering: Mapping[str, Any]) -> Iterator[Row]:
    lost = stream.get("not_stored", 0)
    if steering.get("store") is False:
        yield Row("STORING", f"IS OFF: kept events are NOT written, {count(lost)} until now", alarm=True)
    elif "store" in steering:
        yield Row("storing", "on" + (f"; it was off for {plural(lost, 'kept event')}" if lost else ""))


def endpoint_rows(report: Report) -> list[Row]:
    """Where the run can be reached and where its files are, a row each; none if it does not tell."""
    told = {clean(str(name)): _place(value) for name, value in report.get("endpoints", {}).items()}
    return [Row(name, place) for name, place in told.items() if place]


def _place(value: Any) -> str:
    """One place, or one of every stream; empty for what the run does not have."""
    if isinstance(value, Mapping):
        return "  ".join(f"{clean(str(of))} {clean(str(place), LONGEST)}" for of, place in value.items())
    if isinstance(value, list | tuple):
        return "  ".join(clean(str(place), LONGEST) for place in value)
    return "" if value is None else clean(str(value), LONGEST)


def route_lines(name: str, report: Report) -> list[str]:
    """The routes of a stream, aligned: name, events kept, share of all, what it asks for."""
    stream = report["streams"][name]
    steered = {route["name"]: route for route in report.get("steering", {}).get(name, {}).get("routes", [])}
    rows = [
        (clean(route), count(kept), percent(kept, stream["received"]), _asks(steered.get(route, {})))
        for route, kept in stream["kept"].items()
    ]
    return aligned(rows, right=(1, 2)) if rows else ["none: what no model answers is kept, the rest vetoed"]


def _asks(route: Mapping[str, Any]) -> str:
    words = [] if route.get("enabled", True) else ["SWITCHED OFF:"]
    words += [clean(route["when"], LONGEST)] if route.get("when") else []
    words += [f"one in {count(route['one_in'])}"] if route.get("one_in") else []
    return "  " + " ".join(words)


def action_line(entry: Mapping[str, Any]) -> str:
    """One entry of the journal: when, who, where, what, from what to what."""
    at = time.strftime("%H:%M:%S", time.localtime(float(entry.get("at_s", 0))))
    who = clean(str(entry.get("by", "unknown")))
    line = f"{at} {who}: {clean(str(entry.get('stream', '')))} {_action(entry)}"
    return line + (f"  REFUSED: {clean(str(entry['refused']), LONGEST)}" if "refused" in entry else "")


def _action(entry: Mapping[str, Any]) -> str:
    action = entry.get("action", {})
    change = action.get("change", action)
    subject = change.get("route", change.get("cluster", ""))
    settings = [(key, value) for key, value in change.items() if key not in ("route", "cluster")]
    words = [
        f"{clean(str(key))} {_before(entry, subject, key)}-> {clean(str(value), LONGEST)}"
        for key, value in settings
    ]
    return " ".join([clean(str(subject)), *words]).strip()


def _before(entry: Mapping[str, Any], subject: str, key: str) -> str:
    """What a setting was, if the journal tells."""
    before = entry.get("before") or {}
    route = next((r for r in before.get("routes", []) if r["name"] == subject), None)
    known = {"store": before.get("store"), "number": before.get("clusters", {}).get(subject)}
    value = route.get(key) if route else known.get(key)
    return "" if value is None else f"{clean(str(value), LONGEST)} "
