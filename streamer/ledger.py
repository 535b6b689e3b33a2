"""The counts that must add up, in shared memory that outlives any worker.

Owns the pages (one per process, one writer each) and the sums over them; knows neither sockets nor clocks.

A page has two banks of integers and a version. The writer works on private numbers; `commit` copies them
into the idle bank and then raises the version, which is one aligned 8-byte store. So kill -9 at any
instruction leaves the last commit whole: a page never holds half a block. A stage puts what it must know
after a crash (which block was last accounted, how far the files are written) into the same page, and that
makes "counted" and "done" one fact instead of two.

The two lines that must hold, per stream (docs/ledger.md):

    received = kept{route} + failopen{reason} + vetoed + shed{reason} + in_flight
    messages = accepted + rejected{reason}
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.errors import FAILOPEN_REASONS, REJECT_REASONS, SHED_REASONS

Int64s = npt.NDArray[np.int64]
Numbers = Sequence[float] | npt.NDArray[np.float64]

# version, pid, ready, progress_ns: written by one store each, outside the banks.
HEAD_CELLS = 4
_VERSION, _PID, _READY, _PROGRESS = range(HEAD_CELLS)


@dataclass(frozen=True)
class PageLayout:
    """Names of the integers of a page, in order. A name may stand for several cells: `sizes[name]`."""

    names: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)

    def span(self, name: str) -> slice:
        start = 0
        for other in self.names:
            size = self.sizes.get(other, 1)
            if other == name:
                return slice(start, start + size)
            start += size
        raise KeyError(f"ledger page has no field {name!r}; it has {', '.join(self.names)}")

    def index(self, name: str) -> int:
        return int(self.span(name).start)

    @property
    def cells(self) -> int:
        return sum(self.sizes.get(name, 1) for name in self.names)

    @property
    def size_bytes(self) -> int:
        return 8 * (HEAD_CELLS + 2 * self.cells)


class PageReader:
    """Reads a page that another process writes."""

    def __init__(self, memory: memoryview, layout: PageLayout) -> None:
        cells: Int64s = np.frombuffer(memory, np.int64, HEAD_CELLS + 2 * layout.cells)
        self.layout = layout
        self._head = cells[:HEAD_CELLS]
        self._banks = cells[HEAD_CELLS:].reshape(2, layout.cells)

    def read(self) -> Int64s:
        """A copy of the last commit, whole: a bank is rewritten only two commits later."""
        while True:
            version = int(self._head[_VERSION])
            values: Int64s = self._banks[version & 1].copy()
            if version == int(self._head[_VERSION]):
                return values

    def get(self, values: Int64s, name: str) -> int:
        return int(values[self.layout.index(name)])

    @property
    def pid(self) -> int:
        return int(self._head[_PID])

    @property
    def ready(self) -> bool:
        return bool(self._head[_READY])

    @property
    def progress_ns(self) -> int:
        """Monotonic time of the writer's last sign of work, ns; 0 before the first."""
        return int(self._head[_PROGRESS])

    def clear_head(self) -> None:
        """Forget a dead writer: called by the supervisor before it starts the next one."""
        self._head[_READY] = 0
        self._head[_PROGRESS] = 0


class Page(PageReader):
    """The one writer of a page. `values` is private until `commit`."""

    def __init__(self, memory: memoryview, layout: PageLayout) -> None:
        super().__init__(memory, layout)
        self.values = self.read()
        # Where each name's first cell is: hot code looks it up here.
        self.at = {name: layout.index(name) for name in layout.names}

    def commit(self) -> None:
        version = int(self._head[_VERSION]) + 1
        self._banks[version & 1] = self.values
        self._head[_VERSION] = version

    def view(self, name: str) -> Int64s:
        """The private cells of a field of several cells."""
        return self.values[self.layout.span(name)]

    def progress(self, now_ns: int) -> None:
        self._head[_PROGRESS] = now_ns

    def announce(self, pid: int, ready: bool) -> None:
        self._head[_PID] = pid
        self._head[_READY] = ready


# --- what each stage counts -------------------------------------------------------------------------

# Verdict latency in seconds: 1-2-5 steps from 50 us (half the cheapest hop) to 10 s (beyond any deadline),
# each cut in four, so that quantiles are good to 25 % and the exported 1-2-5 buckets are exact sums.
_DECADES = (*[base * 10.0**power for power in range(-5, 1) for base in (1, 2, 5)][2:], 10.0)
LATENCY_EDGES_S: tuple[float, ...] = (
    *(low * (high / low) ** (quarter / 4) for low, high in pairwise(_DECADES) for quarter in range(4)),
    10.0,
)
EXPORT_EDGES_S: tuple[float, ...] = _DECADES
# Events in a batch: powers of two, as the fixed batch sizes on a GPU.
BATCH_EDGES: tuple[int, ...] = tuple(2**power for power in range(13))


def ingest_layout() -> PageLayout:
    return PageLayout(
        names=(
            "messages",
            "accepted",
            *(f"rejected.{reason}" for reason in REJECT_REASONS),
            "received",
            *(f"shed.{reason}" for reason in SHED_REASONS),
            "bytes",
            "trains",
            "trains_empty",
            "missing_upstream",
            "missing_upstream_trains",
            "duplicates",
            "out_of_order",
            "id_jumps",
            "reconnects",
            # state that must survive a crash
            "started",
            "last_train",
            "nominal_pulses",
            "rejected_since",
            "stray_train",  # 1 + id of the last train far behind the others; 0 none
            "block_seq",
            "block_n",  # committed events of that block
            "tail",  # events of the train under way that are not yet committed
        ),
    )


def inference_layout() -> PageLayout:
    return PageLayout(
        names=(
            "batches",
            "blocks",
            "events",
            "model_errors",
            "swaps",
            "swaps_refused",
            "steerings",
            "busy_ns",
            "latency",
            "batch_events",
        ),
        sizes={"latency": len(LATENCY_EDGES_S) + 1, "batch_events": len(BATCH_EDGES) + 1},
    )


def sink_layout(routes: Sequence[str], cursor_cells: int) -> PageLayout:
    return PageLayout(
        names=(
            "blocks",
            *(f"kept.{route}" for route in routes),
            *(f"failopen.{reason}" for reason in FAILOPEN_REASONS),
            "vetoed",
            *(f"shed.{reason}" for reason in SHED_REASONS),
            "store_errors",  # appends and closings that the files refused
            "unrecorded",  # events whose results the files could not take
            "not_stored",  # events kept while storing was off
            "latency",  # of events that inference never saw
            # state that must survive a crash
            "version",  # of the stream, in the files that the cursor is of; 0 is the first
            "last_seq",
            "first_seq",
            "cursor",
        ),
        sizes={"latency": len(LATENCY_EDGES_S) + 1, "cursor": max(1, cursor_cells)},
    )


def dashboard_layout() -> PageLayout:
    return PageLayout(names=("pages",))  # open now


# --- the sums ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamLedger:
    """The ledger of one stream at one moment."""

    messages: int
    accepted: int
    rejected: dict[str, int]
    received: int
    kept: dict[str, int]
    failopen: dict[str, int]
    vetoed: int
    shed: dict[str, int]
    missing_upstream: int
    missing_upstream_trains: int
    duplicates: int
    out_of_order: int
    id_jumps: int
    trains: int
    trains_empty: int
    unrecorded: int
    not_stored: int
    store_errors: int
    latency_counts: tuple[int, ...]

    @property
    def outcomes(self) -> int:
        return sum(self.kept.values()) + sum(self.failopen.values()) + self.vetoed + sum(self.shed.values())

    @property
    def in_flight(self) -> int:
        return self.received - self.outcomes

    @property
    def imbalance(self) -> int:
        """Messages without an outcome or the reverse, and outcomes without an event. Must be 0."""
        return abs(self.messages - self.accepted - sum(self.rejected.values())) + max(0, -self.in_flight)

    @property
    def closed(self) -> bool:
        return self.in_flight == 0 and self.messages == self.accepted + sum(self.rejected.values())

    def latency_quantile_s(self, q: float) -> float | None:
        return quantile_s(self.latency_counts, q)


def quantile_s(counts: Sequence[int], q: float) -> float | None:
    """Upper edge of the latency bucket that holds quantile `q`; None without events."""
    return quantile(LATENCY_EDGES_S, counts, q)


def quantile(edges: Numbers, counts: Numbers, q: float) -> float | None:
    """Upper edge of the bucket that holds quantile `q`; the last edge beyond them all, None without counts.

    `counts` has one more than `edges`.
    """
    total = sum(counts)
    if total == 0:
        return None
    reached = np.searchsorted(np.cumsum(counts), q * total)
    return float(edges[min(int(reached), len(edges) - 1)])


def _group(page: PageReader, values: Int64s, prefix: str) -> dict[str, int]:
    names = [name for name in page.layout.names if name.startswith(prefix + ".")]
    return {name[len(prefix) + 1 :]: page.get(values, name) for name in names}


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def read_stream(ingest: PageReader, inference: PageReader, sink: PageReader) -> StreamLedger:
    """Sum the pages of one stream; the sink first, so that in_flight is never negative."""
    out = sink.read()
    work = inference.read()
    come = ingest.read()
    latency = work[inference.layout.span("latency")] + out[sink.layout.span("latency")]
    shed_in, shed_out = _group(ingest, come, "shed"), _group(sink, out, "shed")
    plain = {
        name: ingest.get(come, name)
        for name in (
            *("messages", "accepted", "received", "missing_upstream", "missing_upstream_trains"),
            *("duplicates", "out_of_order", "id_jumps", "trains", "trains_empty"),
        )
    }
    return StreamLedger(
        **plain,
        rejected=_group(ingest, come, "rejected"),
        kept=_group(sink, out, "kept"),
        failopen=_group(sink, out, "failopen"),
        vetoed=sink.get(out, "vetoed"),
        shed={reason: shed_in[reason] + shed_out[reason] for reason in SHED_REASONS},
        unrecorded=sink.get(out, "unrecorded"),
        not_stored=sink.get(out, "not_stored"),
        store_errors=sink.get(out, "store_errors"),
        latency_counts=tuple(latency.tolist()),
    )


def as_report(
    ledger: StreamLedger, duration_s: float, bundles: Iterable[Mapping[str, str]]
) -> dict[str, Any]:
    """The stream's part of `--report`: plain JSON values, zero counts left out of the groups."""
    p50, p99 = ledger.latency_quantile_s(0.5), ledger.latency_quantile_s(0.99)
    return {
        "received": ledger.received,
        "kept": ledger.kept,
        "failopen": _nonzero(ledger.failopen),
        "vetoed": ledger.vetoed,
        "shed": _nonzero(ledger.shed),
        "rejected": _nonzero(ledger.rejected),
        "in_flight": ledger.in_flight,
        "messages": ledger.messages,
        "accepted": ledger.accepted,
        "trains": ledger.trains,
        "trains_empty": ledger.trains_empty,
        "missing_upstream": ledger.missing_upstream,
        "missing_upstream_trains": ledger.missing_upstream_trains,
        "duplicates": ledger.duplicates,
        "out_of_order": ledger.out_of_order,
        "id_jumps": ledger.id_jumps,
        "unrecorded": ledger.unrecorded,
        "not_stored": ledger.not_stored,
        "store_errors": ledger.store_errors,
        "events_per_s": round(ledger.received / duration_s, 1) if duration_s > 0 else 0.0,
        "verdict_latency_s": {"p50": p50, "p99": p99},
        "bundles": list(bundles),
    }
