"""Latency to the verdict and batch sizes, of the last minute.

Owns two plots of bars over the buckets that the ledger's pages count in.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, FixedTicker, NumeralTickFormatter
from bokeh.models.annotations import Span

from streamer.dashboard import theme
from streamer.dashboard.board import View
from streamer.dashboard.numbers import seconds
from streamer.dashboard.plots import empty
from streamer.ledger import BATCH_EDGES

_BASES: Final = (1, 2, 5)
_TICKS_S: Final = tuple(base * 10.0**power for power in range(-5, 2) for base in _BASES)
_FEW: Final = 20.0  # a range of less than this factor has room for all of them


class Latency:
    """Events by the time from their reception to their verdict, logarithmic."""

    def __init__(self, view: View) -> None:
        self.figure = empty(x_axis_type="log")
        self._source = _draw_bars(self.figure, theme.BLUE)
        self._median = Span(dimension="height", line_color=theme.VERMILLION, line_width=3, visible=False)
        self._p99 = Span(
            dimension="height", line_color=theme.VERMILLION, line_width=3, line_dash="dashed", visible=False
        )
        self.figure.add_layout(self._median)
        self.figure.add_layout(self._p99)
        self.figure.xaxis.ticker = FixedTicker(ticks=list(_TICKS_S))
        self.figure.xaxis.major_label_overrides = {tick: seconds(tick) for tick in _TICKS_S}
        self.update(view)

    def update(self, view: View) -> None:
        counted = view.latency
        if counted is None:
            return
        edges = np.concatenate([[counted.edges[0] / 2], counted.edges, [counted.edges[-1] * 2]])
        bars = _bars(edges, counted.counts)
        self._source.data = bars
        if len(bars["left"]):
            wide = bars["right"][-1] / bars["left"][0] > _FEW
            self.figure.xaxis.ticker.ticks = list(_TICKS_S[:: len(_BASES)] if wide else _TICKS_S)
        for span, q in ((self._median, 0.5), (self._p99, 0.99)):
            at = counted.quantile(q)
            span.update(visible=at is not None, location=at or 1.0)


class Batches:
    """Batches by their number of events: powers of two."""

    def __init__(self, view: View) -> None:
        self.figure = empty()
        self._source = _draw_bars(self.figure, theme.GREEN)
        names = [f"{edge:,}" for edge in BATCH_EDGES]
        self.figure.xaxis.ticker = FixedTicker(ticks=list(range(len(names) + 1)))
        self.figure.xaxis.major_label_overrides = {**dict(enumerate(names)), len(names): "more"}
        self.update(view)

    def update(self, view: View) -> None:
        counted = view.batches
        if counted is None:
            return
        stands = np.flatnonzero(counted.counts)
        places = stands.astype(float)
        self._source.data = {"left": places - 0.45, "right": places + 0.45, "top": counted.counts[stands]}


def _draw_bars(on: Any, colour: str) -> ColumnDataSource:
    """Bars from 0 on in a figure; the source that they are drawn from."""
    source = ColumnDataSource({"left": [], "right": [], "top": []})
    on.quad(
        left="left",
        right="right",
        bottom=0,
        top="top",
        source=source,
        fill_color=colour,
        line_color=theme.SKY,
    )
    on.yaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    on.y_range.start = 0
    return source


def _bars(edges: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Only the bars that stand, so that the axis shows where they are."""
    stands = counts > 0
    return {"left": edges[:-1][stands], "right": edges[1:][stands], "top": counts[stands]}
