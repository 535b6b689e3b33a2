"""The exported metrics: every name, type, unit and bucket, in one place.

Owns the translation of ledger pages to Prometheus. Hot code counts plain integers in shared memory; this
collector reads them when somebody asks, so a scrape costs the stream nothing. All series exist from the start
at 0, and label values come from closed lists. What is read beside the pages (processes, disk) is `usage`'s.
docs/metrics.md lists every metric.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from streamer import scrape
from streamer.ledger import BATCH_EDGES, EXPORT_EDGES_S, LATENCY_EDGES_S, StreamLedger

log = logging.getLogger(__name__)

PREFIX: Final = "streamer_"


@dataclass(frozen=True)
class StageState:
    """One process of a stream."""

    up: bool
    restarts: int
    started_at_s: float
    """Unix time of the process's start; 0 before the first."""
    progress_age_s: float
    """Since its last sign of work, or since its start."""
    cpu_s: float
    resident_bytes: int
    private_bytes: int


@dataclass(frozen=True)
class RunFacts:
    """What is the same for all streams of a run."""

    run: int
    proposal: int
    version: str
    """Of this program."""
    python: str
    disk_free_bytes: int | None
    """None: nothing is stored, or nobody can say."""
    disk_reserve_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """One stream at one moment."""

    ledger: StreamLedger
    bytes_received: int
    batches: int
    batch_events: Sequence[int]
    model_errors: int
    swaps: int
    swaps_refused: int
    steerings: int
    answered: int
    """Events whose verdicts inference has sent."""
    busy_s: float
    reconnects: int
    silence_s: float
    """Since the first message of the newest block of events came, or since the start of ingest."""
    deadline_s: float
    slots_in_use: int
    slots: int
    slot_bytes: int
    stages: Mapping[str, StageState]
    storing: bool
    bundles: Sequence[tuple[str, str]]
    samples: frozenset[str]
    """Routes that were random samples (`one_in`) when the run began: what they keep are no hits."""
    run: RunFacts


# Counters with the stream as their only label: name -> (help, value).
_PLAIN: Final[dict[str, tuple[str, Callable[[Snapshot], float]]]] = {
    "messages_total": ("Messages taken from the source", lambda s: s.ledger.messages),
    "events_received_total": ("Events taken into the ring, or shed there", lambda s: s.ledger.received),
    "bytes_received_total": ("Bytes of all messages", lambda s: s.bytes_received),
    "trains_total": ("Trains received", lambda s: s.ledger.trains),
    "trains_empty_total": ("Trains without an event of this stream", lambda s: s.ledger.trains_empty),
    "events_vetoed_total": ("Events not kept", lambda s: s.ledger.vetoed),
    "events_missing_upstream_total": (
        "Events lost before us, from gaps in the train ids",
        lambda s: s.ledger.missing_upstream,
    ),
    "trains_missing_upstream_total": (
        "Trains lost before us, from gaps in the train ids",
        lambda s: s.ledger.missing_upstream_trains,
    ),
    "ids_duplicate_total": ("Events that came again and were dropped", lambda s: s.ledger.duplicates),
    "ids_out_of_order_total": ("Events of a train older than one before", lambda s: s.ledger.out_of_order),
    "ids_jump_total": ("Jumps of the train id too large to be losses", lambda s: s.ledger.id_jumps),
    "results_unrecorded_total": ("Events whose results no file could take", lambda s: s.ledger.unrecorded),
    "events_not_stored_total": ("Events kept while storing was off", lambda s: s.ledger.not_stored),
    "store_errors_total": ("Appends and closings that the files refused", lambda s: s.ledger.store_errors),
    "events_classified_total": (
        "Events whose verdict inference has sent, kept unclassified or not",
        lambda s: s.answered,
    ),
    "batches_total": ("Batches given to the device", lambda s: s.batches),
    "model_errors_total": ("Batches that failed on the device", lambda s: s.model_errors),
    "model_swaps_total": ("Bundles exchanged while running", lambda s: s.swaps),
    "model_swaps_refused_total": (
        "Bundles that could not be loaded while running; the old ones went on",
        lambda s: s.swaps_refused,
    ),
    "steerings_total": ("Changes of rules, names or storing while running", lambda s: s.steerings),
    "device_busy_seconds_total": ("Time from a batch's start to its results", lambda s: s.busy_s),
    "source_reconnects_total": ("Lost connections to the source", lambda s: s.reconnects),
}

_GAUGES: Final[dict[str, tuple[str, Callable[[Snapshot], float]]]] = {
    "events_in_flight": ("Events received that have no outcome yet", lambda s: s.ledger.in_flight),
    "ring_slots_in_use": ("Slots of the ring that hold a block", lambda s: s.slots_in_use),
    "ring_slots": ("Slots of the ring", lambda s: s.slots),
    "ring_bytes_in_use": ("Memory of those slots", lambda s: s.slots_in_use * s.slot_bytes),
    "ring_limit_bytes": ("Memory of all slots of the ring", lambda s: s.slots * s.slot_bytes),
    "ledger_imbalance": ("Messages without an outcome; must be 0", lambda s: s.ledger.imbalance),
    "source_silence_seconds": ("Since the newest block of events began", lambda s: s.silence_s),
    "deadline_seconds": ("Events that waited longer are kept unclassified; 0 never", lambda s: s.deadline_s),
    "storing": ("1 while kept events are written to files", lambda s: float(s.storing)),
}

# Counts by the values of more labels.
Counts = Mapping[tuple[str, ...], int]

# Counters with more labels: name -> (help, labels, values).
_LABELLED: Final[dict[str, tuple[str, tuple[str, ...], Callable[[Snapshot], Counts]]]] = {
    "events_kept_total": (
        "Events kept by a route; kind `rule`: hits, `sample`: drawn",
        ("route", "kind"),
        lambda s: _kept(s),
    ),
    "events_failopen_total": (
        "Events kept unclassified: without an answer",
        ("reason",),
        lambda s: _single(s.ledger.failopen),
    ),
    "events_shed_total": ("Events whose data are gone", ("reason",), lambda s: _single(s.ledger.shed)),
    "messages_rejected_total": ("Messages refused", ("reason",), lambda s: _single(s.ledger.rejected)),
    "verdicts_total": (
        "Events by their verdict, when they are counted",
        ("verdict",),
        lambda s: _single(_verdicts(s.ledger)),
    ),
}

# Of each process: name -> (help, value). A name that ends in `_total` is a counter.
_STAGES: Final[dict[str, tuple[str, Callable[[StageState], float]]]] = {
    "stage_up": ("1 while the process runs and is ready", lambda p: float(p.up)),
    "stage_restarts_total": ("Starts of a stage after its first", lambda p: p.restarts),
    "stage_start_time_seconds": ("Unix time of the process's start", lambda p: p.started_at_s),
    "progress_age_seconds": ("Since the last sign of work", lambda p: p.progress_age_s),
    "stage_cpu_seconds_total": ("Processor time of the process", lambda p: p.cpu_s),
    "stage_resident_bytes": (
        "Memory of the process, with what it touched of the ring",
        lambda p: p.resident_bytes,
    ),
    "stage_private_bytes": ("Memory of the process that is its own", lambda p: p.private_bytes),
}

# Of the whole run: name -> (help, labels and value). Without a disk to write to there is no value.
_RUN: Final[dict[str, tuple[str, Callable[[RunFacts], tuple[Mapping[str, str], float | None]]]]] = {
    "run_info": ("The run", lambda r: ({"run": str(r.run), "proposal": str(r.proposal)}, 1)),
    "build_info": ("The program", lambda r: ({"version": r.version, "python": r.python}, 1)),
    "disk_free_bytes": ("Free space of the output's disk", lambda r: ({}, r.disk_free_bytes)),
    "disk_reserve_bytes": ("Free space that is never used", lambda r: ({}, r.disk_reserve_bytes)),
}


def _single(counts: Mapping[str, int]) -> Counts:
    return {(key,): count for key, count in counts.items()}


def _kept(snapshot: Snapshot) -> Counts:
    """By route and by its kind at the start: a counter's labels must not change when a route is steered."""
    return {
        (route, "sample" if route in snapshot.samples else "rule"): count
        for route, count in snapshot.ledger.kept.items()
    }


def _verdicts(ledger: StreamLedger) -> dict[str, int]:
    kept, failopen = sum(ledger.kept.values()), sum(ledger.failopen.values())
    return {"keep": kept, "failopen": failopen, "veto": ledger.vetoed}


def cumulate(
    counts: Sequence[int], edges: Sequence[float], exported: Sequence[float]
) -> list[tuple[str, float]]:
    """Fine bucket counts (last one: beyond all edges) to Prometheus' cumulative buckets."""
    buckets: list[tuple[str, float]] = []
    for upper in exported:
        within = sum(count for edge, count in zip(edges, counts, strict=False) if edge <= upper * (1 + 1e-9))
        buckets.append((f"{upper:g}", within))
    return [*buckets, ("+Inf", sum(counts))]


class StreamCollector(Collector):
    """Reads every stream when Prometheus asks."""

    def __init__(self, read: Callable[[], Mapping[str, Snapshot]]) -> None:
        self._read = read
        self._last: Mapping[str, Snapshot] = {}

    def _now(self) -> Mapping[str, Snapshot]:
        """The streams; the last known ones if they cannot be read, e.g. while the run ends."""
        try:
            self._last = self._read()
        except (OSError, ValueError) as error:
            log.warning("metrics: the streams cannot be read, the last numbers are given again: %s", error)
        return self._last

    def collect(self) -> Iterator[Metric]:
        streams = self._now()
        yield from _plain(streams)
        yield from _labelled(streams)
        yield from _stages(streams)
        yield from _run(streams)
        yield _histogram("verdict_latency_seconds", "Last byte received to verdict sent", streams, _latency)
        yield _histogram("batch_events", "Events in a batch", streams, _batches)
        yield _info(streams)


def _family(name: str, text: str, labels: Sequence[str]) -> CounterMetricFamily | GaugeMetricFamily:
    """A counter, if its name says so; prometheus_client adds the suffix."""
    if name.endswith("_total"):
        return CounterMetricFamily(PREFIX + name.removesuffix("_total"), text, labels=labels)
    return GaugeMetricFamily(PREFIX + name, text, labels=labels)


def _plain(streams: Mapping[str, Snapshot]) -> Iterator[Metric]:
    for name, (text, value) in (_PLAIN | _GAUGES).items():
        family = _family(name, text, ["stream"])
        for stream, snapshot in streams.items():
            family.add_metric([stream], value(snapshot))
        yield family


def _labelled(streams: Mapping[str, Snapshot]) -> Iterator[Metric]:
    for name, (text, labels, values) in _LABELLED.items():
        family = _family(name, text, ["stream", *labels])
        for stream, snapshot in streams.items():
            for keys, count in values(snapshot).items():
                family.add_metric([stream, *keys], count)
        yield family


def _stages(streams: Mapping[str, Snapshot]) -> Iterator[Metric]:
    for name, (text, value) in _STAGES.items():
        family = _family(name, text, ["stream", "stage"])
        for stream, snapshot in streams.items():
            for stage, state in snapshot.stages.items():
                family.add_metric([stream, stage], value(state))
        yield family


def _run(streams: Mapping[str, Snapshot]) -> Iterator[Metric]:
    for name, (text, told) in _RUN.items():
        # Every stream says the same of the run.
        labels, value = told(next(iter(streams.values())).run) if streams else ({}, None)
        family = GaugeMetricFamily(PREFIX + name, text, labels=list(labels))
        if value is not None:
            family.add_metric(list(labels.values()), value)
        yield family


# Those with a shape of their own.
_OTHERS: Final = ("verdict_latency_seconds", "batch_events", "model_info")

Buckets = tuple[list[tuple[str, float]], float]


def _latency(snapshot: Snapshot) -> Buckets:
    counts = snapshot.ledger.latency_counts
    # The sum from bucket edges: at most 25 % too large, and never touched by hot code.
    total_s = sum(edge * count for edge, count in zip(LATENCY_EDGES_S, counts, strict=False))
    return cumulate(counts, LATENCY_EDGES_S, EXPORT_EDGES_S), total_s + LATENCY_EDGES_S[-1] * counts[-1]


def _batches(snapshot: Snapshot) -> Buckets:
    edges = tuple(float(edge) for edge in BATCH_EDGES)
    total = sum(edge * count for edge, count in zip(edges, snapshot.batch_events, strict=False))
    return cumulate(snapshot.batch_events, edges, edges), total


def _histogram(
    name: str, text: str, streams: Mapping[str, Snapshot], buckets: Callable[[Snapshot], Buckets]
) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=["stream"])
    for stream, snapshot in streams.items():
        cumulative, total = buckets(snapshot)
        family.add_metric([stream], cumulative, total)
    return family


def _info(streams: Mapping[str, Snapshot]) -> Metric:
    labels = ["stream", "bundle", "sha256"]
    family = GaugeMetricFamily(PREFIX + "model_info", "Bundles that serve now", labels=labels)
    for stream, snapshot in streams.items():
        for bundle, sha256 in snapshot.bundles:
            family.add_metric([stream, bundle, sha256], 1)
    return family


def serve(
    read: Callable[[], Mapping[str, Snapshot]], address: str, port: int
) -> tuple[int, Callable[[], None]]:
    """Serve /metrics from a thread; returns the port and the function that stops it. Raises ConfigError."""
    registry = CollectorRegistry()
    registry.register(StreamCollector(read))
    return scrape.serve(registry, address, port)


def names() -> Iterable[str]:
    """Every exported metric name, for the tests of rules and boards."""
    return [PREFIX + name for name in (*_PLAIN, *_GAUGES, *_LABELLED, *_STAGES, *_RUN, *_OTHERS)]
