"""Words and numbers of the page: pure views, and what a browser may send."""

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="the page needs the extra `dashboard`")

from streamer.dashboard import journal_view, ledger_view, numbers
from streamer.dashboard.board import Counted, Past
from streamer.dashboard.mail import dumps, read_ask
from streamer.dashboard.pictures import png, svg

COUNTS: dict[str, Any] = {
    "received": 100,
    "kept": {"a": 10, "b": 5},
    "failopen": {"timeout": 3},
    "vetoed": 80,
    "shed": {},
    "in_flight": 2,
    "messages": 11,
    "accepted": 10,
    "rejected": {"not_msgpack": 1},
    "missing_upstream": 7,
}


def test_every_count_stands_in_the_ledger_and_trouble_is_marked() -> None:
    rows = {row["name"]: (row["cells"][0], row["kind"]) for row in ledger_view.rows(COUNTS)}
    assert rows["kept: a"] == (10, "")
    assert rows["kept unclassified: timeout"] == (3, "warn")
    assert rows["message rejected: not_msgpack"] == (1, "warn")
    assert rows["missing upstream, events"] == (7, "warn")
    assert rows["not accounted for"] == (0, "")


@pytest.mark.parametrize("change", [{"imbalance": 4}, {"messages": 15}, {"in_flight": -4}])
def test_an_imbalance_is_red_and_in_words(change: dict[str, int]) -> None:
    rows = {row["name"]: (row["cells"][0], row["kind"]) for row in ledger_view.rows(COUNTS | change)}
    assert rows["NOT ACCOUNTED FOR"] == (4, "bad")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9876, "9,876"),
        (12345, "12.3 k"),
        (999_999, "1,000 k"),
        (4_560_000, "4.56 M"),
        (2e9, "2.00 G"),
    ],
)
def test_counts_fit_a_tile(value: float, text: str) -> None:
    assert numbers.count(value) == text


def test_what_is_no_number_is_said_so() -> None:
    assert numbers.share(None) == "–"
    assert numbers.seconds(float("nan")) == "–"
    assert numbers.plain(float("nan")) == "no number"
    assert numbers.seconds(0.00085) == "850 µs"
    assert numbers.duration(3 * 3600 + 5 * 60) == "3 h 05 min"


@pytest.mark.parametrize(
    "text",
    [
        *(None, 7, b"x", "", "{", "[]", '"x"', "{}", '{"do": "show"}', '{"do": 1, "number": 1}'),
        *('{"do": "show", "number": "1"}', "[" * 3000, '{"do": "x", "number": 1, "y": "' + "z" * 4000 + '"}'),
    ],
)
def test_what_is_no_question_is_not_answered(text: object) -> None:
    assert read_ask(text) is None


def test_letters_hold_nothing_that_json_lacks() -> None:
    assert read_ask(dumps({"do": "show", "number": 1, "x": "</script>"})) is not None
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"x": float("nan")})


def test_the_last_minute_is_told_from_the_whole_run() -> None:
    past = Past()
    counts = [past.since(float(now_s), np.array([now_s * 10.0])) for now_s in range(200)]
    assert counts[0] == [0]
    assert counts[30] == [300]
    assert 590 <= counts[199][0] <= 620
    assert past.since(200.0, np.array([5.0])) == [5]  # a run that began anew


def test_a_quantile_is_the_upper_edge_of_its_bucket() -> None:
    counted = Counted(np.array([1.0, 2.0, 4.0]), np.array([1.0, 8.0, 1.0, 0.0]))
    assert counted.quantile(0.5) == 2.0
    assert counted.quantile(1.0) == 4.0
    assert Counted(np.array([1.0]), np.zeros(2)).quantile(0.5) is None


def test_the_journal_says_what_changed_and_nothing_else() -> None:
    old = {"name": "a", "when": "p.A > 0.5", "one_in": None, "enabled": True}
    other = {"name": "b", "when": None, "one_in": 10, "enabled": True}
    before = {"version": 1, "routes": [old, other], "clusters": {}, "store": True}
    after = before | {"version": 2, "routes": [old | {"when": "p.A > 0.7", "enabled": False}, other]}
    entry = {"at_s": 0.0, "by": "dashboard", "stream": "s", "action": {"change": {"route": "a"}}}
    assert journal_view.changed(entry | {"before": before, "after": after}) == (
        "p.A > 0.5",
        "p.A > 0.7 (off)",
    )
    assert journal_view.changed(entry | {"before": before, "after": before | {"store": False}}) == (
        "on",
        "off",
    )
    assert journal_view.changed(entry | {"refused": "no such name"}) == ("", "refused: no such name")
    shown = journal_view.journal([entry | {"refused": "x" * 5000}], "")
    assert len(json.dumps(shown)) < 1000


def test_pictures_of_anything_can_be_drawn() -> None:
    for frame in (
        np.zeros((8, 8), np.uint16),
        np.full((8, 8), np.nan, np.float32),
        np.where(np.eye(9) > 0, np.inf, 1.0),
    ):
        assert png(frame).startswith(b"\x89PNG")
    for spectrum in (np.zeros(3), np.arange(5000.0), np.array([np.nan, 1.0, np.inf])):
        assert b"nan" not in svg(spectrum)
        assert b"inf" not in svg(spectrum)
