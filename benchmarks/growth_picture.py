"""The picture of `growth`: for each axis the cost of an event by stage, and under it the events a second.

Colours are Okabe and Ito's, told apart with every common colour-blindness, and each stage has a mark of its
own beside its colour. matplotlib is asked without pyplot: no window, no state.
"""

import io
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from benchmarks.helper import BenchmarkError
from benchmarks.table import Line
from streamer.pipeline import STAGES

MARKS: Final = dict(zip(STAGES, (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^")), strict=True))
RATE: Final = "#333333"
COLUMNS: Final = 3
WIDTH_IN, ROW_IN = 9.6, 4.0  # a page on a narrow laptop; a cost panel and a rate panel
DPI: Final = 110  # 1056 points wide
PALETTE: Final = 64
STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
# Values that span less, a factor of eight, lie on a linear axis from zero.
LOGARITHMIC_DECADES: Final = 0.9
# Above it powers of ten are labels enough.
MANY_DECADES: Final = 2.5


def draw(lines: Sequence[Line], path: Path, where: str) -> None:
    """One panel for each row of `lines`. Raises BenchmarkError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure  # only a picture needs it
    except ImportError as error:
        raise BenchmarkError(
            "--picture: expected matplotlib, it is not installed; pip install -c constraints.txt '.[train]'"
        ) from error
    panels = [(title, list(rows)) for title, rows in groupby(lines, lambda line: line.row)]
    height = -(-len(panels) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, ROW_IN * height), layout="constrained")
        axes = figure.subplots(2 * height, COLUMNS, squeeze=False, height_ratios=(3, 2) * height)
        for index in range(height * COLUMNS):
            row, column = divmod(index, COLUMNS)
            pair = axes[2 * row, column], axes[2 * row + 1, column]
            _panel(pair, *panels[index]) if index < len(panels) else _hide(pair)
        axes[0, 0].legend(loc="best")
        figure.suptitle(where, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """With a palette: a third of the bytes of full colours, and seven colours are no photograph."""
    from PIL import Image  # matplotlib brings it

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(PALETTE).save(path, format="PNG", optimize=True)


def _hide(axes: Sequence[Any]) -> None:
    for each in axes:
        each.set_visible(False)


def _panel(axes: Sequence[Any], title: str, lines: Sequence[Line]) -> None:
    """Cost above, rate below, over the same places."""
    cost, rate = axes
    places = list(range(len(lines)))  # by rank: 0 has no place on a logarithmic axis
    for stage, (colour, mark) in MARKS.items():
        cost.plot(
            places, [line.values[stage] for line in lines], color=colour, marker=mark, ms=4, label=stage
        )
    rates = [line.values["rate"] for line in lines]
    spread = [
        [line.values["rate"] - line.values["rate_low"] for line in lines],
        [line.values["rate_high"] - line.values["rate"] for line in lines],
    ]
    rate.errorbar(places, rates, spread, color=RATE, marker="D", ms=3, capsize=2, lw=1)
    _scale(cost, [line.values[stage] for line in lines for stage in STAGES])
    _scale(rate, [line.values[name] for line in lines for name in ("rate_low", "rate_high")])
    cost.set(ylabel="CPU us per event")
    rate.set(ylabel="events/s", xlabel=title)
    for each in axes:
        each.set_xticks(places, [line.contender for line in lines])
        each.grid(alpha=0.3)


def _scale(axes: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(max(values) / min(values)) if min(values) > 0 else 0.0
    if decades > LOGARITHMIC_DECADES:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > MANY_DECADES else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, 1.1 * max(values))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """1500000 -> 1.5M, 20000 -> 20k, 0.1 -> 0.1."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
