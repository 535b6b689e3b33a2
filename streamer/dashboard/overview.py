"""The bar of the run and the tiles of a stream: what must be seen at a glance, with what is wrong in words.

Owns the words and the limits above which something is marked; `kind` is '', 'good', 'warn' or 'bad'.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from streamer.dashboard.board import View
from streamer.dashboard.ledger_view import imbalance
from streamer.dashboard.numbers import count, duration, rate, seconds, share

GONE_S: Final = 5.0  # the pipeline answers once a second; a swap may hold it up for a moment
SILENT_S: Final = 5.0  # sources send ten trains a second; a pause of this length is seen by eye

Mark = dict[str, str]


def run(views: Mapping[str, View], now_s: float) -> dict[str, Any]:
    """The bar at the top: the same for every stream."""
    first = next(iter(views.values()))
    report = first.status.run
    started_s = report.get("started_at")
    return {
        "title": _title(report, first),
        "uptime": f"up {duration(now_s - started_s)}" if started_s else "",
        "state": _state(views, now_s),
        "closes": _closes(views.values()),
        "storing": _storing(views),
        "alarm": _alarm(views),
        "rates": {name: f"{rate(view.rate_hz)}/s" for name, view in views.items()},
    }


def _title(report: Mapping[str, Any], view: View) -> str:
    config = view.state.spec.config
    run_number, proposal = report.get("run", config.run), report.get("proposal", config.proposal)
    return f"run {run_number}" + (f", proposal {proposal}" if proposal else "")


def _gone(view: View) -> bool:
    age_s = view.status.age_s
    return age_s is None or age_s > GONE_S


def silence_s(view: View, now_s: float) -> float:
    """How long nothing has come, as far back as the page remembers."""
    zone_s = time.localtime(now_s).tm_gmtoff
    came = view.t_ms[view.received > 0]
    last_s = came[-1] / 1e3 - zone_s if len(came) else None
    return now_s - last_s if last_s is not None else float("inf")


def _state(views: Mapping[str, View], now_s: float) -> Mark:
    first = next(iter(views.values()))
    if _gone(first):
        return {"text": "pipeline does not answer", "kind": "bad"}
    if first.status.run.get("stopping"):
        return {"text": "draining", "kind": "warn"}
    down = _down(views)
    if down:
        return {"text": f"{down} starting again", "kind": "warn"}
    silent = [name for name, view in views.items() if silence_s(view, now_s) > SILENT_S]
    if silent:
        return {"text": f"silent: {', '.join(silent)}"[:80], "kind": "warn"}
    return {"text": "running", "kind": "good"}


def _down(views: Mapping[str, View]) -> str:
    """The first stage that is not up, `stream.stage`."""
    stages = ((name, view.status.stages) for name, view in views.items())
    names = (f"{name}.{stage}" for name, of in stages for stage, state in of.items() if not state["up"])
    return next(names, "")


def _closes(views: Iterable[View]) -> Mark:
    off = {view.stream: imbalance(view.counts) for view in views if view.counts}
    wrong = {name: n for name, n in off.items() if n}
    if not off:
        return {"text": "ledger unknown", "kind": "warn"}
    if wrong:
        text = ", ".join(f"{n:,} in {name}" for name, n in wrong.items())
        return {"text": f"✗ ledger: {text} unaccounted", "kind": "bad"}
    return {"text": "✓ ledger closes", "kind": "good"}


def _storing(views: Mapping[str, View]) -> Mark:
    told = {name: view.steering.get("store") for name, view in views.items() if view.steering}
    if not told:
        return {"text": "storing unknown", "kind": "warn"}
    off = [name for name, on in told.items() if not on]
    if off:
        return {"text": f"■ not storing: {', '.join(off)}"[:80], "kind": "warn"}
    return {"text": "● storing", "kind": "good"}


def _alarm(views: Mapping[str, View]) -> str:
    """The worst in one sentence; '' if all is well."""
    first = next(iter(views.values()))
    if _gone(first):
        why = first.status.error or "it does not answer"
        return f"The pipeline is not there: {why}. What stands below is what was last heard."
    for name, view in views.items():
        if view.counts and (off := imbalance(view.counts)):
            return f"{name}: the ledger does not close, {off:,} events are not accounted for."
    return ""


def tiles(view: View, now_s: float) -> list[dict[str, str]]:
    """The numbers of one stream."""
    counts = view.counts
    silent_s = silence_s(view, now_s)
    failed, shed = _sum(counts, "failopen"), _sum(counts, "shed")
    rejected, missing = _sum(counts, "rejected"), int(counts.get("missing_upstream", 0))
    p50, p99 = _latency(view, counts)
    received = int(counts.get("received", 0))
    return [
        _rate(view, received, silent_s),
        _tile("hit rate", share(view.hit_rate), "kept by rules, last minute"),
        _tile("latency p99", seconds(p99), f"median {seconds(p50)}"),
        _tile("unclassified", count(failed), _most(counts, "failopen", "none kept so"), _warn(failed)),
        _tile("shed", count(shed), _most(counts, "shed", "nothing lost here"), "bad" if shed else ""),
        _tile("missing upstream", count(missing), _missing(counts), _warn(missing)),
        _tile("rejected", count(rejected), _most(counts, "rejected", "every message read"), _warn(rejected)),
        _ring(counts),
    ]


def _rate(view: View, received: int, silent_s: float) -> dict[str, str]:
    if silent_s <= SILENT_S:
        return _tile("event rate", f"{rate(view.rate_hz)}/s", f"{count(received)} received")
    return _tile("event rate", "silent", _since(silent_s), "warn")


def _warn(number: float) -> str:
    return "warn" if number else ""


def _since(silent_s: float) -> str:
    return f"for {duration(silent_s)}" if silent_s < 1e9 else "no event yet"


def _latency(view: View, counts: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Of the last minute, else of the run."""
    if view.latency is not None and view.latency.counts.any():
        return view.latency.quantile(0.5), view.latency.quantile(0.99)
    told = counts.get("verdict_latency_s", {})
    return told.get("p50"), told.get("p99")


def _sum(counts: Mapping[str, Any], group: str) -> int:
    return sum(counts.get(group, {}).values())


def _most(counts: Mapping[str, Any], group: str, none: str) -> str:
    """The reasons, the most frequent first; `none` without any."""
    found = sorted(counts.get(group, {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{reason.replace('_', ' ')} {count(n)}" for reason, n in found[:3]) or none


def _missing(counts: Mapping[str, Any]) -> str:
    trains = int(counts.get("missing_upstream_trains", 0))
    return f"{count(trains)} whole trains" if trains else "no gap in the ids"


def _ring(counts: Mapping[str, Any]) -> dict[str, str]:
    ring = counts.get("ring")
    if not ring:
        return _tile("in flight", count(counts.get("in_flight", 0)), "events between stages")
    used = ring["in_use"] / max(1, ring["slots"])
    told = f"{ring['in_use']} of {ring['slots']} slots"
    return _tile("ring", share(used), told, _warn(used > 0.5))


def _tile(name: str, value: str, more: str, kind: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "more": more, "kind": kind}


def note(view: View) -> str:
    """From what the numbers come, where that must be said."""
    link, share_of = view.state.link(), view.state.sample.share
    told = [link.results, link.pictures]
    if share_of < 0.999:
        told.append(
            f"Scatter and previews show a random sample, 1 in {1 / share_of:.3g} events; counts are exact."
        )
    if link.missed_blocks:
        told.append(f"This page missed {link.missed_blocks:,} blocks; the ledger counts them.")
    if link.bad_messages:
        told.append(f"{link.bad_messages:,} messages on the address of the results were none of this stream.")
    return " ".join(text for text in told if text)
