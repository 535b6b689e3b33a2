"""The newest events' results, for scatter, preview and distributions: a random share when they are many.

Owns one array per result column, laid out once: N_SAMPLE rows, some MB. No sockets and no clock.
"""

import threading
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from streamer.columns import Array
from streamer.rules import Table

N_SAMPLE: Final = 20_000  # a scatter plot of more is a blot, and a share of them is known within 0.4 %
# More cannot be looked at; at most so many go into the sample, and from there to every open page.
SAMPLED_HZ: Final = 1000.0


class Sample:
    """The newest rows of `columns`: {name: (dtype, width)}, width 0 for a scalar. One thread adds, any reads.

    Below SAMPLED_HZ it holds every event. Above, each event is drawn with the same probability for a second,
    so that shares in the sample are shares of the stream.
    """

    def __init__(
        self, columns: Mapping[str, tuple[npt.DTypeLike, int]], rows: int = N_SAMPLE, seed: int | None = None
    ) -> None:
        self.rows = rows
        self._lock = threading.Lock()
        self._random = np.random.default_rng(seed)
        self._columns: dict[str, Array] = {
            name: np.zeros((rows, width) if width else rows, dtype)
            for name, (dtype, width) in columns.items()
        }
        self._before = np.zeros(
            rows, np.int64
        )  # events of the stream up to and with each row's call of `add`
        self._added = 0  # rows ever
        self._seen = 0  # events ever
        self._second, self._second_seen, self._last_seen = 0, 0, 0

    # --- written ------------------------------------------------------------------------------------

    def add(self, events: Table, now_s: float) -> None:
        """All events that came at `now_s` (unix), with every column [n] or [n, width]; some are taken."""
        n = len(events["train_id"])
        taken = self._draw(n, now_s)[-self.rows :]
        with self._lock:
            at = np.arange(self._added, self._added + len(taken)) % self.rows
            for name, column in self._columns.items():
                column[at] = events[name][taken]
            self._before[at] = self._seen + taken
            self._added += len(taken)
            self._seen += n

    def _draw(self, n: int, now_s: float) -> npt.NDArray[np.intp]:
        """Which of n events are taken, in order."""
        if int(now_s) != self._second:
            follows = int(now_s) == self._second + 1
            self._last_seen = self._second_seen if follows else 0
            self._second, self._second_seen = int(now_s), 0
        self._second_seen += n
        share = SAMPLED_HZ / max(SAMPLED_HZ, self._last_seen, self._second_seen)
        if share == 1.0:
            return np.arange(n)
        return np.flatnonzero(self._random.random(n) < share)

    # --- read ---------------------------------------------------------------------------------------

    @property
    def share(self) -> float:
        """Which part of all events, since the oldest one in it, is in the sample; 1.0: every one."""
        with self._lock:
            held = min(self._added, self.rows)
            if not held:
                return 1.0
            oldest = int(self._before[self._added % self.rows if self._added > self.rows else 0])
            return min(1.0, held / max(1, self._seen - oldest))

    def table(self) -> dict[str, Array]:
        """Every column [n] or [n, width], oldest event first: train_id, pulse_id, reason, route, results."""
        return self.since(0)[1]

    def since(self, sequence: int, limit: int = N_SAMPLE) -> tuple[int, dict[str, Array]]:
        """The sequence to ask with next; at most `limit` newest events after `sequence` (0: of all)."""
        with self._lock:
            n = max(0, min(self._added - sequence, limit, self.rows))
            at = np.arange(self._added - n, self._added) % self.rows
            return self._added, {name: column[at] for name, column in self._columns.items()}
