"""What the page knows of one stream: written by the feed's thread, read by every page that is open.

Owns the parts and the last answer of the control socket. Every method gives copies and may be called from any
thread. `history`, `sample` and `gallery` say what each holds.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isnan, nan
from time import monotonic
from typing import Any

import numpy as np

from streamer.dashboard.gallery import Gallery, Shot
from streamer.dashboard.history import History, Seconds
from streamer.dashboard.sample import N_SAMPLE, Sample
from streamer.plan import FIXED_COLUMNS, StageSpec, attached_names, route_names

__all__ = ["N_SAMPLE", "Gallery", "History", "Link", "Sample", "Seconds", "Shot", "Status", "StreamState"]


@dataclass(frozen=True)
class Status:
    """The newest answer of the control socket; empty maps before the first one."""

    report: Mapping[str, Any] = field(default_factory=dict)
    """The stream's counts: `report["streams"][name]`."""
    steering: Mapping[str, Any] = field(default_factory=dict)
    """version, bundles, routes, clusters, store: `report["steering"][name]`."""
    stages: Mapping[str, Any] = field(default_factory=dict)
    """By stage: up, pid, restarts."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """What is common to all streams: closed, duration_s, run, proposal, started_at, versions."""
    age_s: float | None = None
    """How old the answer is; None: there never was one."""
    error: str = ""
    """Why the last question was not answered; empty: it was."""


@dataclass(frozen=True)
class Link:
    """How the stream's results reach the page."""

    last_block_age_s: float | None = None
    """Since results came last; None: never."""
    missed_blocks: int = 0
    """Blocks that the page was too slow for: its counts lack them, the pipeline's do not."""
    bad_messages: int = 0
    """Messages that are not results of this stream; each costs itself only."""
    pictures: str = ""
    """Why there are no pictures; empty: there are."""
    results: str = ""
    """Why no results can come; empty: they can."""


class StreamState:
    """Everything about one stream."""

    def __init__(self, spec: StageSpec) -> None:
        self.spec = spec
        self.route_names = tuple(route_names(spec.settings))
        self.labels = next((column.labels for column in spec.columns if column.name == "p"), ())
        self.columns = sample_columns(spec)
        """{name: (dtype, width)} of everything in the sample; width 0 for a scalar."""
        self.history = History(self.route_names, self.labels)
        self.sample = Sample(self.columns)
        self.gallery = Gallery(self.labels)
        self._lock = threading.Lock()
        self._status, self._answered_at_s = Status(), nan
        self._link, self._last_block_at_s = Link(), nan

    def status(self) -> Status:
        """The newest answer of the control socket about this stream, and how old it is now."""
        with self._lock:
            return replace(self._status, age_s=_age_s(self._answered_at_s))

    def link(self) -> Link:
        """How the stream's results reach the page, as it is now."""
        with self._lock:
            return replace(self._link, last_block_age_s=_age_s(self._last_block_at_s))

    # --- written by the feed ------------------------------------------------------------------------

    def answered(self, status: Status) -> None:
        """The control socket answered just now."""
        with self._lock:
            self._status, self._answered_at_s = status, monotonic()

    def unanswered(self, error: str) -> None:
        """It did not; the last answer stays, and grows older."""
        with self._lock:
            self._status = replace(self._status, error=error)

    def came(self) -> None:
        """Results came just now."""
        with self._lock:
            self._last_block_at_s = monotonic()

    def linked(self, **changes: Any) -> None:
        """Fields of Link that changed."""
        with self._lock:
            self._link = replace(self._link, **changes)


def _age_s(at_s: float) -> float | None:
    return None if isnan(at_s) else monotonic() - at_s


def sample_columns(spec: StageSpec) -> dict[str, tuple[str, int]]:
    """{name: (dtype, width)} of the columns of the stream's results; width 0 for a scalar [n]."""
    ids = {"train_id": ("u8", 0), "pulse_id": ("u8", 0)}
    fixed = {name: (dtype, 0) for name, dtype in FIXED_COLUMNS}
    attached = dict.fromkeys(attached_names(spec), ("f8", 0))
    results = {c.name: (np.dtype(c.dtype).str[1:], len(c.labels)) for c in spec.columns}
    return ids | fixed | attached | results
