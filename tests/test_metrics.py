"""The exported metrics: there from the start, named as declared, equal to the counts."""

import math
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from streamer.errors import FAILOPEN_REASONS, REJECT_REASONS, SHED_REASONS, ConfigError
from streamer.ledger import (
    BATCH_EDGES,
    EXPORT_EDGES_S,
    LATENCY_EDGES_S,
    Page,
    inference_layout,
    ingest_layout,
    read_stream,
    sink_layout,
)
from streamer.metrics import RunFacts, Snapshot, StageState, StreamCollector, cumulate, names, serve
from streamer.usage import UsageReader, disk_free_bytes, usage

STAGE = StageState(False, 0, 0.0, 0.0, 0.0, 0, 0)
RUN = RunFacts(run=7, proposal=1234, version="0.1", python="3.11.2", disk_free_bytes=0, disk_reserve_bytes=0)
# Series that are no zero in a stream that has received nothing.
NOT_ZERO = ("_slots", "_info", "_up", "_limit_bytes")
ROOT = Path(__file__).parents[1]


def fresh() -> Snapshot:
    """A stream that has received nothing, from real pages."""
    layouts = (ingest_layout(), inference_layout(), sink_layout(["streaks", "drawn"], 6))
    pages = [Page(memoryview(bytearray(layout.size_bytes)), layout) for layout in layouts]
    return Snapshot(
        ledger=read_stream(*pages),
        bytes_received=0,
        batches=0,
        batch_events=[0] * (len(BATCH_EDGES) + 1),
        model_errors=0,
        swaps=0,
        swaps_refused=0,
        steerings=0,
        answered=0,
        busy_s=0.0,
        reconnects=0,
        silence_s=0.0,
        deadline_s=0.0,
        slots_in_use=0,
        slots=8,
        slot_bytes=100,
        stages={"ingest": replace(STAGE, up=True), "sink": STAGE},
        storing=False,
        bundles=[("cnn", "ab" * 32)],
        samples=frozenset({"drawn"}),
        run=RUN,
    )


def scrape(streams: Mapping[str, Snapshot]) -> dict[str, Metric]:
    registry = CollectorRegistry()
    registry.register(StreamCollector(lambda: streams))
    return {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}


def value(families: Mapping[str, Metric], sample: str, **labels: str) -> float:
    found = [s.value for f in families.values() for s in f.samples if s.name == sample and s.labels == labels]
    assert len(found) == 1, f"{sample} {labels}: {found}"
    return float(found[0])


def test_every_series_exists_at_zero_before_the_first_event() -> None:
    families = scrape({"s": fresh()})
    zero = [s for f in families.values() for s in f.samples if not s.name.endswith(NOT_ZERO)]
    assert zero
    assert {s.value for s in zero} == {0.0}
    for name, reasons in (
        ("failopen", FAILOPEN_REASONS),
        ("shed", SHED_REASONS),
    ):
        for reason in reasons:
            assert value(families, f"streamer_events_{name}_total", stream="s", reason=reason) == 0
    for reason in REJECT_REASONS:
        assert value(families, "streamer_messages_rejected_total", stream="s", reason=reason) == 0
    assert value(families, "streamer_events_kept_total", stream="s", route="streaks", kind="rule") == 0


def test_the_names_declared_are_those_exported() -> None:
    exported = {
        s.name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        for f in scrape({"s": fresh()}).values()
        for s in f.samples
    }
    assert exported == set(names())
    assert all(name.startswith("streamer_") for name in exported)


def test_counts_come_out_under_their_names() -> None:
    ledger = replace(
        fresh().ledger,
        messages=9,
        accepted=7,
        received=100,
        vetoed=60,
        kept={"streaks": 30, "drawn": 2},
        missing_upstream=4,
        rejected={"bad_header": 1},
    )
    stages = {"ingest": replace(STAGE, up=True, progress_age_s=0.25), "sink": replace(STAGE, restarts=2)}
    snapshot = replace(fresh(), ledger=ledger, busy_s=1.5, stages=stages, slots_in_use=3)
    families = scrape({"s": snapshot, "t": fresh()})
    assert value(families, "streamer_events_received_total", stream="s") == 100
    assert value(families, "streamer_events_received_total", stream="t") == 0
    assert value(families, "streamer_events_in_flight", stream="s") == 8
    assert value(families, "streamer_events_kept_total", stream="s", route="streaks", kind="rule") == 30
    assert value(families, "streamer_events_kept_total", stream="s", route="drawn", kind="sample") == 2
    assert value(families, "streamer_device_busy_seconds_total", stream="s") == 1.5
    assert value(families, "streamer_stage_restarts_total", stream="s", stage="sink") == 2
    assert value(families, "streamer_stage_up", stream="s", stage="ingest") == 1
    assert value(families, "streamer_stage_up", stream="s", stage="sink") == 0
    assert value(families, "streamer_progress_age_seconds", stream="s", stage="ingest") == 0.25
    assert value(families, "streamer_ring_bytes_in_use", stream="s") == 300
    assert value(families, "streamer_ring_limit_bytes", stream="s") == 800
    assert value(families, "streamer_verdicts_total", stream="s", verdict="keep") == 32
    assert value(families, "streamer_verdicts_total", stream="s", verdict="veto") == 60
    assert value(families, "streamer_verdicts_total", stream="s", verdict="failopen") == 0
    assert value(families, "streamer_model_info", stream="s", bundle="cnn", sha256="ab" * 32) == 1
    assert value(families, "streamer_ledger_imbalance", stream="s") == 1, "9 messages, 7 + 1 outcomes"


def test_more_outcomes_than_events_is_an_imbalance() -> None:
    ledger = replace(fresh().ledger, received=5, vetoed=7)
    assert value(scrape({"s": replace(fresh(), ledger=ledger)}), "streamer_ledger_imbalance", stream="s") == 2


def test_what_is_true_of_the_run_is_said_once() -> None:
    run = replace(RUN, disk_free_bytes=5, disk_reserve_bytes=3)
    families = scrape({"s": replace(fresh(), run=run), "t": replace(fresh(), run=run)})
    assert value(families, "streamer_run_info", run="7", proposal="1234") == 1
    assert value(families, "streamer_build_info", version="0.1", python="3.11.2") == 1
    assert value(families, "streamer_disk_free_bytes") == 5
    assert value(families, "streamer_disk_reserve_bytes") == 3


def test_without_files_there_is_no_disk_to_be_full() -> None:
    families = scrape({"s": replace(fresh(), run=replace(RUN, disk_free_bytes=None))})
    assert not families["streamer_disk_free_bytes"].samples


def test_streams_that_cannot_be_read_give_their_last_numbers() -> None:
    answers = iter([{"s": replace(fresh(), batches=5)}])

    def read() -> Mapping[str, Snapshot]:
        for answer in answers:
            return answer
        raise FileNotFoundError("the run's folder is gone")

    registry = CollectorRegistry()
    registry.register(StreamCollector(read))
    first, second = generate_latest(registry), generate_latest(registry)
    assert b'streamer_batches_total{stream="s"} 5.0' in first
    assert second == first


def test_before_any_stream_is_known_a_scrape_is_empty_and_no_error() -> None:
    assert not [s for family in scrape({}).values() for s in family.samples]


def test_the_usage_of_a_process_is_what_the_kernel_says() -> None:
    mine = usage(os.getpid())
    assert mine is not None
    assert 0 < mine.private_bytes <= mine.resident_bytes
    assert abs(mine.cpu_s - sum(os.times()[:2])) < 1.0, "two readings, a moment apart"


def test_a_process_that_has_ended_leaves_its_last_numbers() -> None:
    reader = UsageReader()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        before = reader.read({"sink": child.pid, "ingest": 0})
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now: nobody has waited for it
        assert reader.read({"sink": child.pid})["sink"] == before["sink"]
    assert before["sink"].resident_bytes > 0
    assert before["ingest"].cpu_s == 0.0
    assert reader.read({"sink": child.pid})["sink"] == before["sink"]


def test_free_space_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    here, later = disk_free_bytes(tmp_path), disk_free_bytes(tmp_path / "a" / "b")
    assert here
    assert later
    assert abs(here - later) < 1 << 30, "the same disk, a moment later"


def test_every_metric_is_in_the_table_of_the_manual() -> None:
    """docs/metrics.md has one row per metric, with the text and the labels that are exported."""
    families = scrape({"s": fresh()})
    table = (ROOT / "docs" / "metrics.md").read_text()
    rows = {}
    for line in table.splitlines():
        if line.startswith("| `streamer_"):
            name, kind, labels, text = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name.strip("`")] = (kind, labels, text)
    told = {}
    for family in families.values():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for s in family.samples for label in s.labels} - {"le"})
        told[name] = (family.type, ", ".join(f"`{label}`" for label in labels), family.documentation)
    assert rows == told


@given(st.lists(st.integers(0, 50), min_size=len(LATENCY_EDGES_S) + 1, max_size=len(LATENCY_EDGES_S) + 1))
def test_buckets_are_cumulative_and_hold_every_count(counts: list[int]) -> None:
    buckets = cumulate(counts, LATENCY_EDGES_S, EXPORT_EDGES_S)
    assert [edge for edge, _ in buckets] == [f"{edge:g}" for edge in EXPORT_EDGES_S] + ["+Inf"]
    values = [count for _, count in buckets]
    assert values == sorted(values)
    assert values[-1] == sum(counts)
    for edge, count in zip(EXPORT_EDGES_S, values, strict=False):
        fine = sum(c for e, c in zip(LATENCY_EDGES_S, counts, strict=False) if e <= edge)
        assert count == fine, "the exported edges are edges of the fine buckets"


def test_the_histogram_of_latencies_has_the_ledgers_counts_and_a_sum_near_the_truth() -> None:
    counts = [0] * (len(LATENCY_EDGES_S) + 1)
    counts[8], counts[-1] = 10, 2
    snapshot = replace(fresh(), ledger=replace(fresh().ledger, latency_counts=tuple(counts)))
    families = scrape({"s": snapshot})
    assert value(families, "streamer_verdict_latency_seconds_count", stream="s") == 12
    assert value(families, "streamer_verdict_latency_seconds_bucket", stream="s", le="10") == 10
    total_s = value(families, "streamer_verdict_latency_seconds_sum", stream="s")
    assert math.isclose(total_s, 10 * LATENCY_EDGES_S[8] + 2 * 10.0)


def test_the_histogram_of_batches() -> None:
    sizes = [0] * (len(BATCH_EDGES) + 1)
    sizes[0], sizes[3] = 5, 2
    families = scrape({"s": replace(fresh(), batch_events=sizes)})
    assert value(families, "streamer_batch_events_bucket", stream="s", le="1") == 5
    assert value(families, "streamer_batch_events_bucket", stream="s", le="8") == 7
    assert value(families, "streamer_batch_events_sum", stream="s") == 5 * 1 + 2 * 8


@pytest.fixture
def served() -> Iterator[int]:
    port, stop = serve(lambda: {"s": fresh()}, "127.0.0.1", 0)
    yield port
    stop()


def test_a_scrape_over_http_parses(served: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{served}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {family.name for family in text_string_to_metric_families(text)}
    assert "streamer_events_received" in found


def test_a_port_in_use_is_a_configuration_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}.*0 for any"):
            serve(dict, "127.0.0.1", port)


def test_the_port_is_free_after_it_stopped() -> None:
    port, stop = serve(dict, "127.0.0.1", 0)
    stop()
    again, stop = serve(dict, "127.0.0.1", port)
    stop()
    assert again == port
