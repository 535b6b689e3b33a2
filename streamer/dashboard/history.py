"""What came in each of the last ten minutes' seconds: counts and mean probabilities.

Owns numbers only: no sockets and no clock, the time is an argument. Counts are exact, whatever the sample is.
Memory is laid out once: 600 x (20 + routes + labels) numbers of 8 bytes, 0.2 MB of a usual stream.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from streamer.errors import FAILOPEN_REASONS
from streamer.routing import FIRST_FAILOPEN, REASON_VETO, REASONS
from streamer.rules import Table

KEPT_S: Final = 600  # what a shift looks back on at a glance; Grafana has the rest

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seconds:
    """n consecutive whole seconds, oldest first; the second that has begun is not among them."""

    t_s: Floats
    """[n] unix time at which each began."""
    received: Counts
    """[n] events whose results came."""
    kept: dict[str, Counts]
    """By route, [n]: events that it kept, drawn ones included."""
    vetoed: Counts
    """[n]"""
    failopen: dict[str, Counts]
    """By reason, [n]: events kept without an answer."""
    labels: tuple[str, ...]
    """What the columns of `mean_p` are."""
    mean_p: Floats
    """[n, labels] mean probabilities of the events with an answer; NaN where there was none."""


class History:
    """Counts by second, of one stream with these routes and classes. Written by one thread, read by any."""

    def __init__(self, routes: Sequence[str], labels: Sequence[str]) -> None:
        self.routes, self.labels = tuple(routes), tuple(labels)
        self._lock = threading.Lock()
        self._second = np.full(KEPT_S, -1, np.int64)
        self._reasons = np.zeros((KEPT_S, len(REASONS)), np.int64)
        self._kept = np.zeros((KEPT_S, len(self.routes)), np.int64)
        self._p_sum = np.zeros((KEPT_S, len(self.labels)))
        self._answered = np.zeros(KEPT_S, np.int64)
        self._first: int | None = None
        self._now = 0

    # --- written ------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """It is `now_s` (unix) now: seconds in which nothing comes are seconds too."""
        with self._lock:
            self._open(int(now_s))

    def add(self, events: Table, now_s: float) -> None:
        """Events that came at `now_s`: columns reason and route [n], and p [n, labels] if known."""
        reasons = np.bincount(events["reason"], minlength=len(REASONS))
        route = events["route"]
        kept = np.bincount(route[route >= 0], minlength=len(self.routes))
        answered, p_sum = self._sum_p(events)
        with self._lock:
            row = self._open(int(now_s))
            self._reasons[row] += reasons
            self._kept[row] += kept
            self._answered[row] += answered
            self._p_sum[row] += p_sum

    def _sum_p(self, events: Table) -> tuple[int, Floats]:
        if not self.labels:
            return 0, np.zeros(0)
        p = events["p"]
        known = np.isfinite(p).all(axis=1)
        return int(np.count_nonzero(known)), p[known].sum(axis=0, dtype=np.float64)

    def _open(self, second: int) -> int:
        """The row of a second; emptied if it held an older one. A clock set back writes on the newest."""
        second = max(second, self._now)
        row = second % KEPT_S
        if self._first is None:
            self._first = second
        if self._second[row] != second:
            for counts in (self._reasons, self._kept, self._p_sum, self._answered):
                counts[row] = 0
            self._second[row] = second
        self._now = second
        return row

    # --- read ---------------------------------------------------------------------------------------

    def seconds(self) -> Seconds:
        """A copy of the last ten minutes, or of less when the page is younger."""
        with self._lock:
            first = self._now if self._first is None else self._first
            t = np.arange(max(first, self._now - KEPT_S + 1), self._now)
            rows = t % KEPT_S
            written = self._second[rows] == t
            reasons, kept, p_sum, answered = (
                np.where(written.reshape(-1, *(1,) * (counts.ndim - 1)), counts[rows], 0)
                for counts in (self._reasons, self._kept, self._p_sum, self._answered)
            )
        with np.errstate(invalid="ignore"):
            mean_p = p_sum / np.where(answered, answered, np.nan)[:, None]
        return Seconds(
            t_s=t.astype(np.float64),
            received=reasons.sum(axis=1),
            kept={name: kept[:, index] for index, name in enumerate(self.routes)},
            vetoed=reasons[:, REASON_VETO],
            failopen={
                reason: reasons[:, FIRST_FAILOPEN + index] for index, reason in enumerate(FAILOPEN_REASONS)
            },
            labels=self.labels,
            mean_p=mean_p,
        )
