"""What two answers of a running pipeline say together: rates, latency and batches of the last seconds.

Owns the memory of the newest answers and the differences of their counts. Knows no clock, no socket and no
terminal: the pipeline's own `duration_s` is the time. An answer is a report of foreground.status.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from streamer.ledger import quantile

Report: TypeAlias = Mapping[str, Any]

WINDOW_S: Final = 10.0  # looked back on: a hundred trains of the European XFEL, and an eye's patience
MAX_ANSWERS: Final = 64  # of the window: asked each second there are eleven


# What is told with the number that came lately.
LOSSES: Final = ("failopen", "rejected", "missing_upstream")


@dataclass(frozen=True)
class Recent:
    """One stream over a span of time; None where the pipeline has not told."""

    span_s: float
    whole_run: bool  # the span is the run until now: there is no earlier answer to compare with
    received_per_s: float
    kept_per_s: float  # those kept unclassified included
    vetoed_per_s: float
    p50_s: float | None  # upper edges of their buckets: at most 25 % too large
    p99_s: float | None
    batch_events: float | None  # median
    lately: Mapping[str, int]  # events and messages by LOSSES
    silent_s: float  # no message came for so long, as far as the answers tell


class History:
    """The answers of the last WINDOW_S."""

    def __init__(self) -> None:
        self._answers: deque[Report] = deque(maxlen=MAX_ANSWERS)

    def add(self, report: Report) -> None:
        """Take the newest answer. One of another run, or of one that began anew, forgets the others."""
        if self._answers and not _follows(self._answers[-1], report):
            self._answers.clear()
        self._answers.append(report)
        old_s = report["duration_s"] - WINDOW_S
        while len(self._answers) > 2 and self._answers[1]["duration_s"] <= old_s:
            self._answers.popleft()

    def recent(self, stream: str) -> Recent:
        """From the oldest answer to the newest; from the start of the run if there is only one."""
        now, before = self._answers[-1], self._answers[0]
        told, silent_s = now["streams"][stream], self._silent_s(stream)
        if len(self._answers) < 2 or now["duration_s"] <= before["duration_s"]:
            return _recent(told, {}, _Span(now["duration_s"], True, silent_s))
        span = _Span(now["duration_s"] - before["duration_s"], False, silent_s)
        return _recent(told, before["streams"].get(stream, {}), span)

    def _silent_s(self, stream: str) -> float:
        """Since the first of the answers that know of no fewer messages than the newest."""
        now = self._answers[-1]
        messages = now["streams"][stream]["messages"]
        if not messages:
            return float(now["duration_s"])
        same = [a for a in self._answers if a["streams"].get(stream, {}).get("messages") == messages]
        return float(now["duration_s"] - same[0]["duration_s"])


def _follows(before: Report, now: Report) -> bool:
    same = all(before.get(key) == now.get(key) for key in ("run", "started_at"))
    received = [sum(s["received"] for s in report["streams"].values()) for report in (before, now)]
    return same and now["duration_s"] >= before["duration_s"] and received[1] >= received[0]


class _Span(NamedTuple):
    """What Recent says of time."""

    span_s: float
    whole_run: bool
    silent_s: float


def _recent(now: Report, before: Report, span: _Span) -> Recent:
    def new(key: str) -> int:
        return total(now.get(key, 0)) - total(before.get(key, 0))

    def per_s(*keys: str) -> float:
        return sum(map(new, keys)) / span.span_s if span.span_s > 0 else 0.0

    latency, batches = _difference(now, before, "latency"), _difference(now, before, "batch_events")
    edges_s = now.get("latency", {}).get("edges_s", [])
    told = now["verdict_latency_s"] if latency is None else {}
    return Recent(
        **span._asdict(),
        received_per_s=per_s("received"),
        kept_per_s=per_s("kept", "failopen"),
        vetoed_per_s=per_s("vetoed"),
        p50_s=told.get("p50") if latency is None else quantile(edges_s, latency, 0.5),
        p99_s=told.get("p99") if latency is None else quantile(edges_s, latency, 0.99),
        batch_events=None if batches is None else quantile(now["batch_events"]["edges"], batches, 0.5),
        lately={key: new(key) for key in LOSSES},
    )


def _difference(now: Report, before: Report, key: str) -> list[int] | None:
    """Counts of a histogram since `before`; None if the pipeline tells none."""
    if key not in now:
        return None
    counts = now[key]["counts"]
    earlier = before[key]["counts"] if key in before else [0] * len(counts)
    return [new - old for new, old in zip(counts, earlier, strict=True)]


def total(count: int | Mapping[str, int]) -> int:
    """A count, or the sum of a group of counts."""
    return count if isinstance(count, int) else sum(count.values())
