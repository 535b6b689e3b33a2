"""What happened over the last minutes: rates, the mix of verdicts, the mean probability of each class.

Owns three plots. Each streams only the seconds that its page does not have yet.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, NumeralTickFormatter

from streamer.dashboard import theme
from streamer.dashboard.board import View
from streamer.dashboard.plots import legend_below, over_time

Floats = npt.NDArray[np.float64]
SECONDS: Final = 600  # ten minutes, as long as history.py remembers
MARK_EVERY: Final = 20  # a marker every so many seconds tells lines apart without hiding them
MAX_SERIES: Final = 16  # more lines in one plot cannot be told apart


class Trail:
    """A source of one row a second, that grows by what is new."""

    def __init__(self, names: Sequence[str]) -> None:
        self.source = ColumnDataSource({name: np.empty(0) for name in ("t", *names)})
        self._last_ms = -np.inf

    def update(self, t_ms: Floats, columns: Mapping[str, Floats]) -> None:
        """`t_ms` [n] ascending, and the columns [n]; only rows later than the last call's are sent."""
        new = t_ms > self._last_ms
        if not new.any():
            return
        rows: dict[str, Any] = {"t": t_ms[new], **{name: values[new] for name, values in columns.items()}}
        if np.isinf(self._last_ms):
            self.source.data = rows
        else:
            self.source.stream(rows, rollover=SECONDS)
        self._last_ms = float(t_ms[-1])


class Rates:
    """Events received and kept each second."""

    def __init__(self, view: View) -> None:
        self._trail = Trail(("received", "kept"))
        self.figure = over_time()
        for index, name in enumerate(("received", "kept")):
            colour, dash, _, _ = theme.series(index)
            style = {"color": colour, "line_dash": dash, "line_width": 2.5, "legend_label": name}
            self.figure.line("t", name, source=self._trail.source, **style)
        self.figure.yaxis.formatter = NumeralTickFormatter(format="0.[0]a")
        legend_below(self.figure, 2)
        self.update(view)

    def update(self, view: View) -> None:
        self._trail.update(view.t_ms, {"received": view.received, "kept": view.kept})


class Mix:
    """Which share of the answered events went where, stacked to 100 %."""

    def __init__(self, view: View) -> None:
        self._names = tuple(view.mix)[:MAX_SERIES]
        self._columns = [f"m{index}" for index in range(len(self._names))]
        self._trail = Trail(self._columns)
        self.figure = over_time(y_range=(0, 1))
        style = [theme.series(index) for index in range(len(self._names))]
        self.figure.varea_stack(
            self._columns,
            x="t",
            source=self._trail.source,
            color=[
                theme.GREY if name == "vetoed" else s[0] for name, s in zip(self._names, style, strict=True)
            ],
            fill_alpha=[0.35 if name == "vetoed" else 0.85 for name in self._names],
            hatch_pattern=[" " if n == "vetoed" else s[3] for n, s in zip(self._names, style, strict=True)],
            hatch_color=["#000000"] * len(self._names),
            hatch_alpha=[0.55] * len(self._names),
            legend_label=list(self._names),
        )
        self.figure.yaxis.formatter = NumeralTickFormatter(format="0%")
        legend_below(self.figure, 3)
        self.update(view)

    def update(self, view: View) -> None:
        shares = (view.mix[name] for name in self._names)
        self._trail.update(view.t_ms, dict(zip(self._columns, shares, strict=True)))


class Classes:
    """Mean probability of each class, second by second."""

    def __init__(self, view: View) -> None:
        self._count = min(len(view.labels), MAX_SERIES)
        columns = [f"p{index}" for index in range(self._count)]
        self._trail = Trail([*columns, *(f"{name}m" for name in columns)])
        self.figure = over_time()
        for index, name in enumerate(columns):
            colour, dash, marker, _ = theme.series(index)
            given = {"color": colour, "legend_label": view.labels[index], "source": self._trail.source}
            self.figure.line("t", name, line_dash=dash, line_width=2.2, **given)
            self.figure.scatter("t", f"{name}m", marker=marker, size=9, **given)
        if self._count:
            legend_below(self.figure, 3)
        self.update(view)

    def update(self, view: View) -> None:
        marked = (view.t_ms // 1000) % MARK_EVERY == 0
        columns: dict[str, Floats] = {}
        for index in range(self._count):
            mean = view.mean_p[:, index]
            columns[f"p{index}"] = mean
            columns[f"p{index}m"] = np.where(marked, mean, np.nan)
        self._trail.update(view.t_ms, columns)
