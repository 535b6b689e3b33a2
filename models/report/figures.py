"""Pictures of a report as <svg> elements: one style, and the few forms that all reports draw.

Colours are Okabe and Ito's (jfly.uni-koeln.de/color) and viridis: both are told apart with every common
colour-blindness. Text and axes are drawn in `currentColor`, so that a picture follows the page into the dark.
matplotlib is asked for its SVG backend by figures made without pyplot: no window, no state between pictures.

N events, H height, W width, L labels.
"""

import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Array = NDArray[Any]
Draw = Callable[[Any, int], None]  # draws panel i into the matplotlib Axes

# Okabe and Ito without yellow and black, which vanish on a light and on a dark page.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
GREY: Final = "#868E96"  # contrast above 3:1 on both grounds
WIDTH_IN: Final = 9.6  # 691 points: the width of the page on a narrow laptop
PNG_DPI: Final = 150  # sharp on a projector of 1920 points
THUMBNAIL_PX: Final = 96  # a frame is reduced while it has twice this; shown it is about that wide
GREY_LEVELS: Final = 32  # finer steps are not seen; noise in 256 of them makes the page three times as large
MAX_POINTS: Final = 4000  # of a scatter plot: more only cover each other
_INK: Final = "#010203"  # no picture has this colour; it stands for the colour of the page's text
_STYLE: Final[dict[str, Any]] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "report",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)


@dataclass(frozen=True)
class Grid:
    """How panels stand: `columns` in a row of `width_in` inches, each row `height_in` high."""

    columns: int = 4
    height_in: float = 2.1
    width_in: float = WIDTH_IN


def figure_of(count: int, draw: Draw, grid: Grid) -> Any:
    """A matplotlib Figure of `count` small axes; fewer than a row keep their width. Raises ModelError."""
    matplotlib, figure_class = _matplotlib()
    columns = min(grid.columns, count)
    rows = math.ceil(count / columns)
    size_in = (grid.width_in * columns / grid.columns, rows * grid.height_in)
    with matplotlib.rc_context(_STYLE):
        figure = figure_class(figsize=size_in, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for index, axis in enumerate(axes):
            if index < count:
                draw(axis, index)
            else:
                axis.set_axis_off()
    return figure


def panels(
    count: int, draw: Draw, columns: int = 4, height_in: float = 2.1, width_in: float = WIDTH_IN
) -> str:
    """`count` small axes side by side, `columns` in a row, as one <svg>. Raises ModelError."""
    return svg_of(figure_of(count, draw, Grid(columns, height_in, width_in)))


def one(draw: Callable[[Any], None], width_in: float = 6.4, height_in: float = 4.0) -> str:
    """A single picture as <svg>."""
    return panels(1, lambda axis, _: draw(axis), 1, height_in, width_in)


def _matplotlib() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        remedy = "install it with: pip install -c constraints.txt '.[train]'"
        raise ModelError(f"pictures: expected matplotlib, got {error}; {remedy}") from error
    return matplotlib, Figure


_numbers = itertools.count()


def svg_of(figure: Any) -> str:
    """The <svg> element alone, in the page's ink, with names that no other picture on the page has."""
    buffer = io.StringIO()
    with _matplotlib()[0].rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip().replace(_INK, "currentColor")
    text = text.replace(COLOURS[0].lower(), "var(--blue, #0072b2)")  # a thin dark blue is lost on a dark page
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    own = f"f{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{own}', text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{own}", text)


def png_of(figure: Any) -> bytes:
    """The picture on white, for slides and for who has no browser."""
    buffer = io.BytesIO()
    with _matplotlib()[0].rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white")
    return buffer.getvalue()


def heatmap(axis: Any, values: Array, rows: Sequence[str], columns: Sequence[str], form: str = ".2f") -> None:
    """A table in colours with its numbers, viridis from 0 to the largest; NaN stays empty."""
    image = axis.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, aspect="auto")
    top = image.get_clim()[1] or 1.0
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "#000000" if value > 0.6 * top else "#ffffff"
            axis.text(j, i, format(value, form), ha="center", va="center", color=colour, fontsize=8)
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 3 else {}
    axis.set_xticks(range(len(columns)), columns, **turned)
    axis.set_yticks(range(len(rows)), rows)
    axis.spines[:].set_visible(False)


def frame(axis: Any, event: Array, title: str = "") -> None:
    """One raw event: a frame in the logarithm of its counts, a spectrum as a line."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=8)
    if event.ndim == 1:
        axis.plot(event, color=COLOURS[0], linewidth=0.7)
        return
    axis.imshow(brightness(event), cmap="viridis", interpolation="nearest")
    axis.spines[:].set_visible(False)


def overlay(axis: Any, event: Array, importance: Array, title: str) -> None:
    """A frame in grey under a map of importance 0..1, which is opaque where it is largest."""
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=8)
    axis.spines[:].set_visible(False)
    image = brightness(event)
    extent = (0.0, 1.0, 1.0, 0.0)  # both over the same square, as the map may be of a smaller frame
    axis.imshow(image, cmap="gray", extent=extent)
    axis.imshow(importance, cmap="inferno", vmin=0, vmax=1, alpha=0.8 * importance.clip(0, 1), extent=extent)


def shades(count: int) -> list[Any]:
    """`count` colours of viridis from dark to bright, without the palest tenth."""
    scale = _matplotlib()[0].colormaps["viridis"]
    return [scale(place) for place in np.linspace(0.0, 0.9, count)]


def how_shown(event_shape: Sequence[int]) -> str:
    """The last sentence of a caption of examples."""
    return (
        "Frames in the logarithm of the counts." if len(event_shape) > 1 else "Each curve has its own scale."
    )


def row_name(axis: Any, name: str) -> None:
    """The name of a row of pictures, upright beside its first."""
    axis.text(-0.08, 0.5, name, transform=axis.transAxes, rotation=90, ha="right", va="center", fontsize=9)


def brightness(event: Array) -> Array:
    """What a picture of a frame shows: log(1 + counts above its 1st percentile), 32 steps, modules summed."""
    image = event.astype(np.float64)
    image = image.reshape(-1, *image.shape[-2:]).sum(0) if image.ndim > 2 else image
    image = _block_means(image, max(1, max(image.shape) // THUMBNAIL_PX))
    decades = np.log1p(np.clip(image - np.nanpercentile(image, 1), 0, None))
    top = float(np.nanmax(decades)) or 1.0
    shown: Array = np.round(decades / top * (GREY_LEVELS - 1))
    return shown


def _block_means(image_HW: Array, side: int) -> Array:
    height, width = (size // side * side for size in image_HW.shape)
    blocks = image_HW[:height, :width].reshape(height // side, side, width // side, side)
    means: Array = blocks.mean((1, 3))
    return means


def scatter(axis: Any, x: Array, y: Array, group: Array, names: Sequence[str]) -> None:
    """Points by group, each with a colour and a mark of its own; rare groups are drawn last, on top."""
    keep = thinned(len(x))
    order = sorted(range(len(names)), key=lambda index: -int((group == index).sum()))
    for index in order:
        mine = keep[group[keep] == index]
        colour, mark = COLOURS[index % len(COLOURS)], "o^sDvP"[index // len(COLOURS) % 6]
        axis.scatter(
            x[mine], y[mine], s=9, c=colour, marker=mark, linewidths=0, rasterized=True, label=names[index]
        )
    handles, labels = axis.get_legend_handles_labels()
    pairs = sorted(zip(labels, handles, strict=True), key=lambda pair: names.index(pair[0]))
    axis.legend(
        [handle for _, handle in pairs],
        [label for label, _ in pairs],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=8,
        markerscale=1.8,
        handletextpad=0.2,
    )


def coloured(axis: Any, x: Array, y: Array, value: Array, title: str) -> None:
    """Points in the colours of a number, with the scale beside."""
    keep = thinned(len(x))
    points = axis.scatter(x[keep], y[keep], s=6, c=value[keep], cmap="viridis", linewidths=0, rasterized=True)
    axis.figure.colorbar(points, ax=axis).outline.set_visible(False)
    axis.set_title(title, fontsize=9)


def thinned(count: int) -> Array:
    """Indices of at most MAX_POINTS of `count` events, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(np.int64))


def unit_axes(axis: Any, x: str, y: str) -> None:
    """Both axes from 0 to 1, with their names."""
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05), xlabel=x, ylabel=y)
    axis.set_xticks([0, 0.5, 1])
    axis.set_yticks([0, 0.5, 1])
