"""What all plots of the page share: an empty figure in our manner, and data that fit it.

Owns tools and ranges of figures; the plots themselves are in history_plots, scatter, histograms and detail.
"""

from typing import Any, Final, Protocol

from bokeh.plotting import figure

from streamer.dashboard.board import View

HEIGHT_PX: Final = 270  # three rows of plots on a screen of 1080 lines
_PRECISIONS: Final = ("milliseconds", "seconds", "minsec", "minutes", "hourmin", "hours", "days")


class Plot(Protocol):
    """One plot of one page."""

    figure: Any

    def update(self, view: View) -> None:
        """Take up what is new in the stream."""


def empty(height_px: int = HEIGHT_PX, **more: Any) -> Any:
    """A figure without data, as wide as its card. Its tools are off until one is chosen: a wheel scrolls.

    Typed Any: Bokeh's own types refuse what its documentation shows.
    """
    made = figure(
        height=height_px,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset",
        toolbar_location="right",
        active_drag=None,
        active_scroll=None,
        min_border_left=50,
        **more,
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    return made


def over_time(height_px: int = HEIGHT_PX, **more: Any) -> Any:
    """A figure with the time of day below, as the server's clock has it."""
    made = empty(height_px, x_axis_type="datetime", **more)
    made.xaxis.formatter.update(**dict.fromkeys(_PRECISIONS, "%H:%M:%S"))
    made.xaxis.formatter.context = None  # the date in a second line: everybody knows it
    made.xaxis.ticker.desired_num_ticks = 4
    made.y_range.start = 0
    return made


def legend_below(made: Any, columns: int) -> None:
    """The legend out of the data's way."""
    made.add_layout(made.legend[0], "below")
    made.legend.ncols = columns
    made.legend.margin, made.legend.padding, made.legend.spacing = 0, 2, 4
