"""The latent space: one point an event, by class or cluster, the most novel ones marked.

Owns which columns are drawn, how points are named, and the plot. A page keeps the newest POINTS of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.transform import factor_cmap, factor_mark

from streamer.dashboard import theme
from streamer.dashboard.board import View
from streamer.dashboard.plots import empty, legend_below

POINTS: Final = 3000  # a browser draws them in some 20 ms; more only cover one another
RING_PX: Final = 15.0  # around a point of 8
NEW_POINTS: Final = 500  # of one tick
LATENTS: Final = ("mu", "latent")  # columns that hold a latent space, in the order of choice
SURE: Final = 0.5  # an event whose classes are all below is 'none'
NONE: Final = "none"
MAX_FACTORS: Final = 12  # names in the legend; points of more are grey
HEIGHT_PX: Final = 430

Table = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Space:
    """What a stream offers to draw."""

    latent: str  # column; '' without any
    width: int
    classes: tuple[str, ...]
    clusters: int  # number of clusters told by labels of the responsibilities; 0 without
    novelty: bool

    @property
    def choices(self) -> list[tuple[str, str]]:
        """What points can be coloured by, [(value, words)]."""
        found = [("class", "class")] if self.classes else []
        found += [("cluster", "cluster")] if self.clusters else []
        return [*found, ("verdict", "verdict")]


def space(view: View) -> Space:
    """Read from the columns of the stream's bundles."""
    columns = {column.name: column.labels for column in view.state.spec.columns}
    latent = next((name for name in LATENTS if len(columns.get(name, ())) >= 2), "")
    clusters = len(columns.get("responsibilities", ())) or (MAX_FACTORS if "cluster" in columns else 0)
    return Space(latent, len(columns.get(latent, ())), view.labels, clusters, "log_likelihood" in columns)


def names(table: Table, by: str, offered: Space, named: Mapping[str, int]) -> list[str]:
    """What each event is called when coloured by class, cluster or verdict."""
    if by == "class":
        p = np.nan_to_num(table["p"])
        words = np.array([*offered.classes, NONE], object)
        return [str(w) for w in words[np.where(p.max(1) >= SURE, p.argmax(1), len(offered.classes))]]
    if by == "cluster":
        given = {number: name for name, number in named.items()}
        return [_cluster(value, given) for value in table["cluster"].tolist()]
    verdict = np.array(["vetoed", "kept"], object)[np.clip(table["verdict"], 0, 1)]
    return [str(word) for word in verdict]


def _cluster(value: float, given: Mapping[int, str]) -> str:
    if not np.isfinite(value):
        return NONE
    number = int(value)
    return given.get(number, f"cluster {number}")


def factors(by: str, offered: Space, named: Mapping[str, int]) -> list[str]:
    """Every name that `names` may give."""
    if by == "class":
        return [*offered.classes[:MAX_FACTORS], NONE]
    if by == "cluster":
        given = {number: name for name, number in named.items()}
        return [_cluster(number, given) for number in range(min(offered.clusters, MAX_FACTORS))] + [NONE]
    return ["vetoed", "kept"]


class Latent:
    """The scatter of one page and stream."""

    def __init__(self, view: View) -> None:
        self.space = space(view)
        self.by = self.space.choices[0][0]
        self.axes = (0, min(1, self.space.width - 1))
        self._sequence = 0
        self._named: dict[str, int] = {}
        self._source = ColumnDataSource(_no_rows(), name=f"{view.stream}/points")
        self.figure = empty(HEIGHT_PX)
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = self._axis_names(view)
        if self.space.novelty:
            self._ring()
        self._points = self.figure.scatter(
            "x", "y", source=self._source, size=8, fill_alpha=0.75, line_color=None, legend_field="name"
        )
        told = [
            ("event", "train @train, pulse @pulse"),
            ("", "@name"),
            ("log likelihood", "@likelihood{0.00}"),
        ]
        self.figure.add_tools(HoverTool(renderers=[self._points], tooltips=told))
        legend_below(self.figure, 5)
        self.colour(view, self.by)

    def _ring(self) -> None:
        """A ring around the most novel points."""
        style = {"fill_color": None, "line_color": theme.VERMILLION, "line_width": 2}
        given: dict[str, Any] = {"source": self._source, "legend_label": "most novel", **style}
        self.figure.scatter("x", "y", size="ring", marker="circle", **given)

    def _axis_names(self, view: View) -> tuple[str, str]:
        labels = {column.name: column.labels for column in view.state.spec.columns}.get(self.space.latent, ())
        x, y = (labels[axis] if labels else "" for axis in self.axes)
        return f"{self.space.latent} {x}", f"{self.space.latent} {y}"

    def colour(self, view: View, by: str) -> None:
        """Name the points anew and send them all."""
        if by not in dict(self.space.choices):
            return
        self.by, self._named = by, _clusters(view)
        known = factors(by, self.space, self._named)
        styles = [theme.series(index) for index in range(len(known))]
        palette = [
            theme.GREY if name in (NONE, "vetoed") else s[0] for name, s in zip(known, styles, strict=True)
        ]
        glyph = self._points.glyph
        glyph.fill_color = factor_cmap("name", palette, known, nan_color=theme.GREY)
        glyph.marker = factor_mark("name", [style[2] for style in styles], known)
        self._sequence = 0
        self._source.data = _no_rows()
        self.update(view)

    def words(self, view: View) -> str:
        """What the points are, for the line above the plot."""
        if not self.space.latent:
            return "No bundle of this stream gives a latent space."
        share = view.state.sample.share
        part = "every event" if share > 0.999 else f"a random 1 in {1 / share:.3g} events"
        novel = ", the least likely ringed" if self.space.novelty else ""
        return f"The newest {POINTS:,} points of {part}{novel}."

    def update(self, view: View) -> None:
        if not self.space.latent:
            return
        if self.by == "cluster" and self._named != _clusters(view):
            self.colour(view, self.by)
            return
        first = self._sequence == 0
        limit = POINTS if first else NEW_POINTS
        self._sequence, table = view.state.sample.since(self._sequence, limit)
        rows = self._rows(view, table)
        if not len(rows["x"]):
            return
        if first:
            self._source.data = rows
        else:
            self._source.stream(rows, rollover=POINTS)

    def _rows(self, view: View, table: Table) -> dict[str, Any]:
        """Points of the events that have finite latents."""
        if not len(table.get("train_id", ())):
            return _no_rows()
        latent = table[self.space.latent]
        shown = np.isfinite(latent).all(1)
        called = np.array(names(table, self.by, self.space, self._named), object)[shown]
        below = -np.inf if view.novel_below is None else view.novel_below
        likelihood = table["log_likelihood"][shown] if self.space.novelty else np.full(shown.sum(), np.nan)
        return {
            "x": latent[shown, self.axes[0]].astype(np.float32),
            "y": latent[shown, self.axes[1]].astype(np.float32),
            "name": called.tolist(),
            "ring": np.where(likelihood <= below, RING_PX, 0.0).astype(np.float32),
            "likelihood": likelihood.astype(np.float32),
            # As text: a browser's numbers end at 2**53.
            "train": [str(value) for value in table["train_id"][shown].tolist()],
            "pulse": [str(value) for value in table["pulse_id"][shown].tolist()],
        }


def _clusters(view: View) -> dict[str, int]:
    return dict(view.steering.get("clusters", {}))


def _no_rows() -> dict[str, Any]:
    columns = ("x", "y", "name", "ring", "likelihood", "train", "pulse")
    return {column: [] for column in columns}
