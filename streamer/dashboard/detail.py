"""One event, whole: its frame or spectrum as a plot, with the network's attention over it.

Owns the plot of the detail dialog; what is told beside it is gallery_view's, the attention explain's.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper
from bokeh.models.annotations import ColorBar
from bokeh.palettes import Viridis256

from streamer.dashboard import theme
from streamer.dashboard.plots import empty

Picture = npt.NDArray[Any]

HEIGHT_PX: Final = 400
MAX_SIDE_PX: Final = 1024  # of a frame sent to a browser: 4 MB
HEAT: Final = [f"#d55e00{alpha:02x}" for alpha in range(0, 200, 4)]  # transparent to mostly vermillion
BRIGHT: Final = 0.999


class Detail:
    """The picture of the dialog."""

    def __init__(self) -> None:
        self._frame = ColumnDataSource({"image": [], "dw": [], "dh": []})
        self._line = ColumnDataSource({"x": [], "y": []})
        self._heat = ColumnDataSource({"image": [], "dw": [], "dh": []})
        self._shown: Picture | None = None
        self.log = False
        self.figure = empty(HEIGHT_PX)
        self.figure.x_range.range_padding = self.figure.y_range.range_padding = 0
        self._colours = LinearColorMapper(palette=Viridis256, low=0, high=1)
        place: dict[str, Any] = {"x": 0, "y": 0, "dw": "dw", "dh": "dh"}
        image = self.figure.image("image", source=self._frame, color_mapper=self._colours, **place)
        self.figure.line("x", "y", source=self._line, color=theme.BLUE, line_width=1.5)
        mapper = LinearColorMapper(palette=HEAT, low=0, high=1)
        self.figure.image("image", source=self._heat, color_mapper=mapper, **place)
        self._bar: Any = ColorBar(color_mapper=self._colours, width=12)
        self.figure.add_layout(self._bar, "right")
        told = [("slow, fast", "$y{0}, $x{0}"), ("value", "@image{0.[000]}")]
        self.figure.add_tools(HoverTool(renderers=[image], tooltips=told))

    def show(self, picture: Picture) -> None:
        """A frame [slow, fast], modules stacked [modules, slow, fast], or a spectrum [n]."""
        self._shown = _flat(picture)
        self._heat.data = {"image": [], "dw": [], "dh": []}
        self._draw()

    def scale(self, log: bool) -> None:
        self.log = log
        self._draw()

    def attend(self, heat: Picture) -> None:
        """Lay a map 0..1 of the places of the shown picture over it."""
        if self._shown is None:
            return
        if heat.ndim == 1:  # a band behind the line, as high as the spectrum
            high = float(np.nanmax(self._line.data["y"]))
            self._heat.data = {"image": [heat[None].astype(np.float32)], "dw": [len(heat)], "dh": [high]}
            return
        heat = _flat(heat)
        self._heat.data = {"image": [heat.astype(np.float32)], "dw": [heat.shape[1]], "dh": [heat.shape[0]]}

    def _draw(self) -> None:
        if self._shown is None:
            return
        values = np.nan_to_num(self._shown.astype(np.float32))
        if self.log:
            values = np.log10(np.maximum(values, 0) + 1)
        line = values.ndim == 1
        self.figure.y_range.flipped = not line  # the first row of a frame is on top, as in its small picture
        self._bar.visible = not line
        if line:
            self._frame.data = {"image": [], "dw": [], "dh": []}
            self._line.data = {"x": np.arange(len(values), dtype=np.float32), "y": values}
            return
        self._line.data = {"x": [], "y": []}
        self._colours.update(low=float(values.min()), high=max(float(np.quantile(values, BRIGHT)), 1e-6))
        self._frame.data = {"image": [values], "dw": [values.shape[1]], "dh": [values.shape[0]]}


def _flat(picture: Picture) -> Picture:
    """Modules one above the other; thinned to MAX_SIDE_PX."""
    flat = picture.reshape(-1, picture.shape[-1]) if picture.ndim > 2 else picture
    if flat.ndim == 1:
        return flat
    step = max(1, -(-max(flat.shape) // MAX_SIDE_PX))
    return flat[::step, ::step]
