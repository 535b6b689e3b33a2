"""The ledger: pages that are whole whenever their writer dies, sums that close, buckets that fit."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import FAILOPEN_REASONS, REJECT_REASONS, SHED_REASONS
from streamer.ledger import (
    EXPORT_EDGES_S,
    HEAD_CELLS,
    LATENCY_EDGES_S,
    Page,
    PageLayout,
    PageReader,
    StreamLedger,
    as_report,
    inference_layout,
    ingest_layout,
    quantile_s,
    read_stream,
    sink_layout,
)

LAYOUT = PageLayout(("a", "many", "b"), {"many": 3})


def page_of(layout: PageLayout = LAYOUT) -> tuple[Page, memoryview]:
    memory = memoryview(bytearray(layout.size_bytes))
    return Page(memory, layout), memory


# --- one page ---------------------------------------------------------------------------------------


def test_layout_places_fields_one_after_the_other() -> None:
    assert [LAYOUT.span(name) for name in LAYOUT.names] == [slice(0, 1), slice(1, 4), slice(4, 5)]
    assert (LAYOUT.index("b"), LAYOUT.cells, LAYOUT.size_bytes) == (4, 5, 8 * (HEAD_CELLS + 10))


def test_an_unknown_field_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no field 'c'; it has a, many, b"):
        LAYOUT.span("c")


def test_nothing_shows_before_the_commit() -> None:
    page, memory = page_of()
    reader = PageReader(memory, LAYOUT)
    page.values[:] = 7
    assert reader.read().tolist() == [0] * 5
    page.commit()
    assert reader.read().tolist() == [7] * 5


def test_a_copy_read_earlier_does_not_change() -> None:
    page, _ = page_of()
    page.values[:] = 1
    page.commit()
    earlier = page.read()
    for value in (2, 3):
        page.values[:] = value
        page.commit()
    assert earlier.tolist() == [1] * 5


@given(st.lists(st.integers(1, 10), max_size=6), st.integers(0, 5), st.booleans())
def test_a_writer_that_dies_within_a_commit_leaves_the_last_one_whole(
    commits: list[int], written: int, version_raised: bool
) -> None:
    """The stores of a commit by hand: `written` cells of the bank, and the version only after all."""
    page, memory = page_of()
    total = 0
    for step in commits:
        total += step
        page.values[:] = total
        page.commit()
    cells = np.frombuffer(memory, np.int64)
    banks = cells[HEAD_CELLS:].reshape(2, LAYOUT.cells)
    version = int(cells[0]) + 1
    banks[version & 1, :written] = 1000
    complete = written == LAYOUT.cells and version_raised
    if complete:
        cells[0] = version
    expected = [1000 if complete else total] * 5
    assert PageReader(memory, LAYOUT).read().tolist() == expected
    assert Page(memory, LAYOUT).values.tolist() == expected


def test_a_writer_that_starts_again_goes_on_from_the_last_commit() -> None:
    page, memory = page_of()
    for value in range(1, 4):
        page.values[0] = value
        page.view("many")[1] += 10
        page.commit()
    page.values[0] = 99  # never committed
    again = Page(memory, LAYOUT)
    assert again.values.tolist() == [3, 0, 30, 0, 0]
    again.values[0] += 1
    again.commit()
    assert PageReader(memory, LAYOUT).read()[0] == 4


def test_a_view_is_the_writers_own_cells() -> None:
    page, _ = page_of()
    page.view("many")[:] = [1, 2, 3]
    assert page.values.tolist() == [0, 1, 2, 3, 0]


def test_head_says_who_lives_and_is_cleared_for_the_next() -> None:
    page, memory = page_of()
    reader = PageReader(memory, LAYOUT)
    assert (reader.pid, reader.ready, reader.progress_ns) == (0, False, 0)
    page.announce(123, ready=True)
    page.progress(456)
    page.values[0] = 5
    page.commit()
    assert (reader.pid, reader.ready, reader.progress_ns) == (123, True, 456)
    reader.clear_head()
    assert (reader.ready, reader.progress_ns) == (False, 0)
    assert reader.read()[0] == 5, "the counts outlive their writer"


@pytest.mark.parametrize("layout", [ingest_layout(), inference_layout(), sink_layout(["x", "y"], 12)])
def test_fields_of_the_stages_have_unique_names_and_their_own_cells(layout: PageLayout) -> None:
    assert len(set(layout.names)) == len(layout.names)
    covered = [cell for name in layout.names for cell in range(layout.cells)[layout.span(name)]]
    assert covered == list(range(layout.cells))


def test_every_reason_has_a_counter() -> None:
    assert {f"rejected.{r}" for r in REJECT_REASONS} | {f"shed.{r}" for r in SHED_REASONS} <= set(
        ingest_layout().names
    )
    sink = sink_layout(["streaks"], 6)
    wanted = {"kept.streaks", "vetoed", *(f"failopen.{r}" for r in FAILOPEN_REASONS)}
    assert wanted | {f"shed.{r}" for r in SHED_REASONS} <= set(sink.names)
    assert sink.span("cursor").stop - sink.span("cursor").start == 6


# --- latency ----------------------------------------------------------------------------------------


def test_edges_rise_and_hold_the_exported_ones_exactly() -> None:
    assert all(low < high for low, high in pairwise(LATENCY_EDGES_S))
    assert set(EXPORT_EDGES_S) <= set(LATENCY_EDGES_S)
    assert (LATENCY_EDGES_S[0], LATENCY_EDGES_S[-1]) == (EXPORT_EDGES_S[0], 10.0)
    assert max(high / low for low, high in pairwise(LATENCY_EDGES_S)) < 1.26


@given(st.lists(st.floats(1e-6, 9.9), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_the_upper_edge_of_the_right_bucket(latencies_s: list[float], q: float) -> None:
    counts = [0] * (len(LATENCY_EDGES_S) + 1)
    for latency_s in latencies_s:
        counts[int(np.searchsorted(LATENCY_EDGES_S, latency_s))] += 1
    got = quantile_s(counts, q)
    exact = sorted(latencies_s)[max(0, int(np.ceil(q * len(latencies_s) - 1e-9)) - 1)]
    assert got is not None
    assert exact <= got <= max(1.26 * exact, LATENCY_EDGES_S[0])


def test_quantiles_of_nothing_and_of_the_last_bucket() -> None:
    counts = [0] * (len(LATENCY_EDGES_S) + 1)
    assert quantile_s(counts, 0.5) is None
    counts[-1] = 3
    assert quantile_s(counts, 0.5) == 10.0


# --- the sums ---------------------------------------------------------------------------------------

ROUTES = ["streaks", "sample"]


def three_pages() -> tuple[Page, Page, Page]:
    layouts = (ingest_layout(), inference_layout(), sink_layout(ROUTES, 6))
    ingest, inference, sink = (page_of(layout)[0] for layout in layouts)
    return ingest, inference, sink


def count(page: Page, **values: int) -> None:
    for name, value in values.items():
        page.values[page.layout.index(name.replace("__", "."))] = value
    page.commit()


def filled() -> StreamLedger:
    ingest, inference, sink = three_pages()
    count(ingest, messages=12, accepted=10, rejected__bad_header=2, received=100, shed__ring_full=5)
    count(ingest, missing_upstream=7, missing_upstream_trains=1, duplicates=3, trains=10, trains_empty=1)
    inference.view("latency")[4] = 80
    inference.commit()
    sink.view("latency")[6] = 15
    count(sink, kept__streaks=20, kept__sample=10, failopen__overload=15, vetoed=48, shed__disk_full=2)
    return read_stream(ingest, inference, sink)


def test_the_pages_of_a_stream_add_up() -> None:
    ledger = filled()
    assert ledger.kept == {"streaks": 20, "sample": 10}
    assert ledger.shed == {"ring_full": 5, "disk_full": 2, "store_error": 0}
    assert (ledger.outcomes, ledger.in_flight, ledger.closed) == (100, 0, True)
    assert sum(ledger.latency_counts) == 95
    assert ledger.latency_quantile_s(0.5) == LATENCY_EDGES_S[4]
    assert ledger.latency_quantile_s(0.99) == LATENCY_EDGES_S[6]


@pytest.mark.parametrize(
    "change",
    [{"received": 101}, {"messages": 13}, {"accepted": 9}, {"received": 99}],
)
def test_a_ledger_off_by_one_does_not_close(change: dict[str, int]) -> None:
    fields = {name: getattr(filled(), name) for name in StreamLedger.__dataclass_fields__}
    assert not StreamLedger(**(fields | change)).closed


def test_the_report_has_the_promised_fields_and_leaves_zeros_out_of_groups() -> None:
    report = as_report(filled(), 4.0, [{"name": "x", "sha256": "y"}])
    assert report["events_per_s"] == 25.0
    assert report["failopen"] == {"overload": 15}
    assert report["shed"] == {"ring_full": 5, "disk_full": 2}
    assert report["rejected"] == {"bad_header": 2}
    assert report["kept"] == {"streaks": 20, "sample": 10}
    assert report["verdict_latency_s"] == {"p50": LATENCY_EDGES_S[4], "p99": LATENCY_EDGES_S[6]}
    assert report["bundles"] == [{"name": "x", "sha256": "y"}]
    promised = {"received", "kept", "failopen", "vetoed", "shed", "rejected", "in_flight", "missing_upstream"}
    assert promised | {"duplicates", "events_per_s", "verdict_latency_s", "bundles"} <= set(report)


def test_a_report_of_no_time_has_no_rate() -> None:
    assert as_report(filled(), 0.0, [])["events_per_s"] == 0.0
