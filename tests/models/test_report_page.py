"""The page escapes what it is given, and pictures neither clash nor carry a colour of their own for text."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from models.report import figures
from models.report.page import Chapter, Picture, Section, Table, render, show
from models.report.recorded import baselines, recorded

HOSTILE = '<script>alert("x")</script>'
EMPTY = {"meta", "br", "img", "link", "hr", "input"}


class Balanced(HTMLParser):
    """Open tags, and those seen; fails on a closing tag that closes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.seen.append(tag)
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(*parts: Any) -> str:
    chapters = [Chapter(HOSTILE, (Section(HOSTILE, parts),)), Chapter("second", ())]
    return render(HOSTILE, HOSTILE, chapters)


def test_hostile_text_stays_text() -> None:
    table = Table(HOSTILE, (HOSTILE, "b"), [[HOSTILE, HOSTILE]])
    picture = Picture("<svg></svg>", HOSTILE, f'" onload="{HOSTILE}')
    page = page_of(HOSTILE, table, picture, Picture("", HOSTILE, HOSTILE, f'x" onerror="{HOSTILE}'))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.seen
    assert "alert(&quot;x&quot;)" in page
    assert not re.search(r'<[^>]*\son(load|error)="', page)


def test_cells_show_what_they_know() -> None:
    assert [show(v) for v in (None, float("nan"), 3, "a", 0.5, 0.0, 12345.6, 1e-5)] == [
        "–",
        "–",
        "3",
        "a",
        "0.500",
        "0.000",
        "1.23e+04",
        "1e-05",
    ]


def test_numbers_stand_right_and_texts_left() -> None:
    page = page_of(Table("", ("name", "count", "word"), [["a", 1, "x"], ["b", None, "y"]]))
    assert '<th scope="col" class="number">count</th>' in page
    assert '<th scope="col">word</th>' in page
    assert '<td class="number">–</td>' in page


def test_pictures_follow_the_page_and_have_their_own_names() -> None:
    def draw(axis: Any, index: int) -> None:
        axis.plot([0, 1], [0, index])
        axis.set_title(HOSTILE)

    first, second = (figures.panels(3, draw, 2) for _ in range(2))
    assert first.startswith("<svg")
    assert "currentColor" in first
    assert "#010203" not in first
    assert "<script" not in first
    names = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert names[0]
    assert not names[0] & names[1]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', first))
    assert used <= names[0]


def test_a_png_is_a_png() -> None:
    figure = figures.figure_of(1, lambda axis, _: axis.plot([0, 1]), figures.Grid(1, 1.0, 1.0))
    assert figures.png_of(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [(16, 16), (300, 200), (3, 32, 32)])
def test_a_frame_is_reduced_and_bounded(size: tuple[int, ...]) -> None:
    import numpy as np

    shown = figures.brightness(np.random.default_rng(0).poisson(10, size))
    assert max(shown.shape) < 2 * figures.THUMBNAIL_PX
    assert (shown.min(), shown.max()) == (0, figures.GREY_LEVELS - 1)


def test_recorded_scores_of_equal_form_are_one_table() -> None:
    methods = {
        "ours": {"homogeneity": 0.9, "completeness": 0.8},
        "spectral": {"homogeneity": 0.2, "completeness": 0.3},
        "pca": {"homogeneity": 0.4, "completeness": 0.4},
    }
    section = recorded({"test": {"median": 1.0, "methods": methods}})
    plain, table = section.parts
    assert isinstance(plain, Table)
    assert isinstance(table, Table)
    assert plain.rows == [["median", 1.0]]
    assert table.head == ("", "homogeneity", "completeness")
    assert table.rows[1] == ["spectral", 0.2, 0.3]
    assert recorded({}).parts == ("The manifest records no scores.",)


def test_flat_scores_of_other_methods_become_one_table() -> None:
    scores = {
        "homogeneity": 0.9,
        "completeness": 0.8,
        "baseline_homogeneity": 0.3,
        "baseline_completeness": 0.4,
        "baseline_pca_homogeneity": 0.5,
        "published_homogeneity": 0.826,
        "median": 7.0,
    }
    table, rest = recorded({"test": scores}).parts
    assert isinstance(table, Table)
    assert isinstance(rest, Table)
    assert table.head == ("", "homogeneity", "completeness")
    assert table.rows == [
        ["this bundle", 0.9, 0.8],
        ["baseline", 0.3, 0.4],
        ["pca", 0.5, None],
        ["published", 0.826, None],
    ]
    assert rest.rows == [["median", 7.0]]


def test_baselines_of_a_score_are_found_by_its_name() -> None:
    scores = {"test": {"f1": 0.9, "baseline_f1": 0.5, "baseline_linear_f1": 0.7, "baseline_macro_f1x": 0.1}}
    assert baselines(scores["test"], "classifier", "f1") == "baseline 0.500, linear 0.700"
    assert baselines(scores["test"], "vae_mixture", "f1").startswith("spectral clustering 0.500")
    assert baselines(scores["test"], "classifier", "f1", "baseline_f1") == "linear 0.700"
    assert baselines({}, "classifier", "f1") == ""
    (table,) = recorded({"p": [0.5, 1.0], "long": list(range(99))}).parts
    assert isinstance(table, Table)
    assert table.rows == [["p", "0.500, 1.000"]]
