"""The exported metrics: every name, type, unit and bucket, in one place.

Owns the translation of ledger pages to Prometheus. Hot code counts plain integers in shared memory; this
collector reads them when somebody asks, so a scrape costs the stream nothing. All series exist from the start
at 0, and label values come from closed lists.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from streamer.errors import ConfigError
from streamer.ledger import BATCH_EDGES, EXPORT_EDGES_S, LATENCY_EDGES_S, StreamLedger

PREFIX: Final = "streamer_"


@dataclass(frozen=True)
class Snapshot:
    """One stream at one moment."""

    ledger: StreamLedger
    bytes_received: int
    batches: int
    batch_events: Sequence[int]
    model_errors: int
    swaps: int
    busy_s: float
    reconnects: int
    slots_in_use: int
    slots: int
    restarts: Mapping[str, int]
    up: Mapping[str, bool]
    bundles: Sequence[tuple[str, str]]


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
    "ids_duplicate_total": ("Events that came again and were dropped", lambda s: s.ledger.duplicates),
    "ids_out_of_order_total": ("Events of a train older than one before", lambda s: s.ledger.out_of_order),
    "ids_jump_total": ("Jumps of the train id too large to be losses", lambda s: s.ledger.id_jumps),
    "results_unrecorded_total": ("Events whose results no file could take", lambda s: s.ledger.unrecorded),
    "batches_total": ("Batches given to the device", lambda s: s.batches),
    "model_errors_total": ("Batches that failed on the device", lambda s: s.model_errors),
    "model_swaps_total": ("Bundles exchanged while running", lambda s: s.swaps),
    "device_busy_seconds_total": ("Time from a batch's start to its results", lambda s: s.busy_s),
    "source_reconnects_total": ("Lost connections to the source", lambda s: s.reconnects),
}

_GAUGES: Final[dict[str, tuple[str, Callable[[Snapshot], float]]]] = {
    "events_in_flight": ("Events received that have no outcome yet", lambda s: s.ledger.in_flight),
    "ring_slots_in_use": ("Slots of the ring that hold a block", lambda s: s.slots_in_use),
    "ring_slots": ("Slots of the ring", lambda s: s.slots),
    "ledger_imbalance": ("Messages without an outcome; must be 0", lambda s: _imbalance(s.ledger)),
}

# Counters with one more label: name -> (help, label, values).
_LABELLED: Final[dict[str, tuple[str, str, Callable[[Snapshot], Mapping[str, int]]]]] = {
    "events_kept_total": ("Events kept by a route", "route", lambda s: s.ledger.kept),
    "events_failopen_total": ("Events kept without an answer", "reason", lambda s: s.ledger.failopen),
    "events_shed_total": ("Events whose data are gone", "reason", lambda s: s.ledger.shed),
    "messages_rejected_total": ("Messages refused", "reason", lambda s: s.ledger.rejected),
    "stage_restarts_total": ("Starts of a stage after its first", "stage", lambda s: s.restarts),
}


def _imbalance(ledger: StreamLedger) -> int:
    return ledger.messages - ledger.accepted - sum(ledger.rejected.values()) + min(0, ledger.in_flight)


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

    def collect(self) -> Iterator[Metric]:
        streams = self._read()
        yield from _plain(streams)
        yield from _labelled(streams)
        yield _histogram("verdict_latency_seconds", "Last byte received to verdict sent", streams, _latency)
        yield _histogram("batch_events", "Events in a batch", streams, _batches)
        yield _info(streams)


def _plain(streams: Mapping[str, Snapshot]) -> Iterator[Metric]:
    for name, (text, value) in _PLAIN.items():
        counter = CounterMetricFamily(PREFIX + name.removesuffix("_total"), text, labels=["stream"])
        for stream, snapshot in streams.items():
            counter.add_metric([stream], value(snapshot))
        yield counter
    for name, (text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(PREFIX + name, text, labels=["stream"])
        for stream, snapshot in streams.items():
            gauge.add_metric([stream], value(snapshot))
        yield gauge


def _labelled(streams: Mapping[str, Snapshot]) -> Iterator[Metric]:
    for name, (text, label, values) in _LABELLED.items():
        counter = CounterMetricFamily(PREFIX + name.removesuffix("_total"), text, labels=["stream", label])
        for stream, snapshot in streams.items():
            for key, count in values(snapshot).items():
                counter.add_metric([stream, key], count)
        yield counter
    up = GaugeMetricFamily(
        PREFIX + "stage_up", "1 while the process runs and is ready", labels=["stream", "stage"]
    )
    for stream, snapshot in streams.items():
        for stage, running in snapshot.up.items():
            up.add_metric([stream, stage], float(running))
    yield up


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
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise ConfigError(
            f"metrics: cannot listen on {address}:{port}: {error.strerror}. Is another run using it? "
            "Choose another metrics.port, or 0 for any."
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return int(server.server_port), stop


def names() -> Iterable[str]:
    """Every exported metric name, for the tests of rules and boards."""
    plain = (
        *_PLAIN,
        *_GAUGES,
        *_LABELLED,
        "stage_up",
        "model_info",
        "verdict_latency_seconds",
        "batch_events",
    )
    return [PREFIX + name for name in plain]
