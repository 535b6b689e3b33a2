"""What the pages show, worked out once a tick for all of them.

Owns the views: plain arrays and texts made of what the feed knows. Nothing is computed while no page is open,
and ten pages cost one computation. Knows no Bokeh.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamer.dashboard.feed import Feed
from streamer.dashboard.state import Status, StreamState
from streamer.ledger import quantile

Floats = npt.NDArray[np.float64]

TICK_S: Final = 1.0  # numbers faster than this cannot be read
SMOOTH_S: Final = 5  # shares of single seconds jump about at low rates
NOVEL_SHARE: Final = 0.02  # of the newest events wear a ring: few enough to be looked at one by one
NOVEL_OF: Final = 3000
RECENT_S: Final = 60.0  # "the last minute" of the tiles and histograms


@dataclass(frozen=True)
class Counted:
    """A histogram: counts [n + 1] below edges[0], between them, and above edges[n - 1]."""

    edges: Floats
    counts: Floats

    def quantile(self, q: float) -> float | None:
        """Upper edge of the bucket with quantile q; None without counts."""
        return quantile(self.edges, self.counts, q)


@dataclass(frozen=True)
class View:
    """One stream at one moment. Arrays have one row a second, oldest first."""

    stream: str
    state: StreamState
    status: Status
    counts: Mapping[str, Any]  # the stream's part of the report; empty before the first answer
    steering: Mapping[str, Any]  # the same
    t_ms: Floats  # server's time of day, as a plot shows it
    received: Floats
    kept: Floats
    hits: Floats  # kept by routes that were no samples when the run began, as Prometheus counts them
    answered: Floats  # kept or vetoed by the rules
    mix: Mapping[str, Floats]  # shares 0..1, smoothed
    mean_p: Floats  # [n, classes]
    labels: tuple[str, ...]
    latency: Counted | None
    batches: Counted | None
    novel_below: float | None  # log_likelihood of the least likely of the newest events; None without

    def recent(self, values: Floats) -> float:
        """Sum over the last minute."""
        return float(values[-int(RECENT_S) :].sum())

    @property
    def rate_hz(self) -> float:
        """Events a second over the last SMOOTH_S."""
        return float(self.received[-SMOOTH_S:].mean()) if len(self.received) else 0.0

    @property
    def hit_rate(self) -> float | None:
        """Share of the answered events of the last minute that a rule kept; None without any."""
        answered = self.recent(self.answered)
        return self.recent(self.hits) / answered if answered else None


class Board:
    """Views of every stream, not older than TICK_S."""

    def __init__(self, feed: Feed, clock: Callable[[], float] = time.time) -> None:
        self.feed = feed
        self._clock = clock
        self._views: dict[str, tuple[float, View]] = {}
        self._past = {name: (Past(), Past()) for name in feed.streams}

    def view(self, stream: str) -> View:
        """KeyError for a stream that is not in the run."""
        now_s = self._clock()
        made_s, view = self._views.get(stream, (-np.inf, None))
        if view is None or not 0 <= now_s - made_s < TICK_S * 0.9:  # pages do not tick exactly
            view = make_view(stream, self.feed.streams[stream], self._past[stream], now_s)
            self._views[stream] = now_s, view
        return view


class Past:
    """Histograms of earlier answers, to tell the last minute from the whole run."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Floats]] = deque(maxlen=int(RECENT_S / TICK_S) + 10)

    def since(self, now_s: float, counts: Floats) -> Floats:
        """Counts since about RECENT_S ago, or since the first answer seen; all when they began anew."""
        while len(self._kept) > 1 and self._kept[1][0] <= now_s - RECENT_S:
            self._kept.popleft()
        before = self._kept[0][1] if self._kept else np.zeros_like(counts)
        if before.shape != counts.shape or (before > counts).any():
            self._kept.clear()
            before = np.zeros_like(counts)
        self._kept.append((now_s, counts))
        return counts - before


def make_view(stream: str, state: StreamState, past: tuple[Past, Past], now_s: float) -> View:
    """Everything that is shown of one stream but its points and pictures."""
    seconds, status = state.history.seconds(), state.status()
    kept = {name: values.astype(float) for name, values in seconds.kept.items()}
    nothing = np.zeros(len(seconds.t_s))
    failed = sum((values.astype(float) for values in seconds.failopen.values()), nothing)
    by_rules, vetoed = sum(kept.values(), nothing), seconds.vetoed.astype(float)
    return View(
        stream=stream,
        state=state,
        status=status,
        counts=status.report,
        steering=status.steering,
        t_ms=(seconds.t_s + _zone_s(now_s)) * 1e3,
        received=seconds.received.astype(float),
        kept=by_rules + failed,
        hits=sum((kept[name] for name in _rules(state) if name in kept), nothing),
        answered=by_rules + vetoed,
        mix=_shares({**kept, "kept unclassified": failed, "vetoed": vetoed}),
        mean_p=seconds.mean_p,
        labels=tuple(seconds.labels),
        latency=_counted(status.report, ("latency", "edges_s"), past[0], now_s),
        batches=_counted(status.report, ("batch_events", "edges"), past[1], now_s),
        novel_below=_novel_below(state),
    )


def _novel_below(state: StreamState) -> float | None:
    """Below which log_likelihood an event is among the NOVEL_SHARE least likely of the newest."""
    if "log_likelihood" not in state.columns:
        return None
    newest = state.sample.since(0, NOVEL_OF)[1]["log_likelihood"]
    finite = newest[np.isfinite(newest)]
    return float(np.quantile(finite, NOVEL_SHARE)) if len(finite) else None


def _rules(state: StreamState) -> list[str]:
    """The routes that are no samples, as configured: steering changes a route, not what a hit is."""
    return [route.name for route in state.spec.first_version.routes if route.one_in is None]


def _zone_s(now_s: float) -> float:
    """How far local time is ahead of UTC: plots take times as they are."""
    return float(time.localtime(now_s).tm_gmtoff)


def _shares(parts: Mapping[str, Floats]) -> dict[str, Floats]:
    """Each part over the sum of all, both summed over SMOOTH_S; 0 where nothing was answered."""
    n = len(next(iter(parts.values())))
    if n == 0:  # the page's first second has not passed
        return dict(parts)
    window = np.ones(min(SMOOTH_S, n))
    summed = {name: np.convolve(values, window)[:n] for name, values in parts.items()}
    total = np.maximum(sum(summed.values(), np.zeros(n)), 1.0)
    return {name: values / total for name, values in summed.items()}


def _counted(counts: Mapping[str, Any], keys: tuple[str, str], past: Past, now_s: float) -> Counted | None:
    """A histogram of the report, of the last minute; None when the pipeline does not tell it."""
    told = counts.get(keys[0])
    if not isinstance(told, Mapping):
        return None
    found = np.asarray(told["counts"], float)
    return Counted(np.asarray(told[keys[1]], float), past.since(now_s, found))
