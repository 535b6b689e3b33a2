"""Colours, markers and dashes of the plots, light and dark.

Owns what a plot looks like; page.css owns the texts around it. The data colours are those of Okabe and Ito
(jfly.uni-koeln.de/color), distinct for every common colour blindness; no two series differ by colour alone:
each has a dash, a marker or a hatch of its own. The order puts first what stands out on white and on dark.
"""

from typing import Any, Final

from bokeh.themes import Theme

BLUE: Final = "#0072b2"
VERMILLION: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"
ORANGE: Final = "#e69f00"
SKY: Final = "#56b4e9"
GREY: Final = "#7f8a96"
YELLOW: Final = "#c9b800"  # Okabe and Ito's #f0e442, darkened: on white nobody sees that

SERIES: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW, GREY)
DASHES: Final = ("solid", "dashed", "dotdash", "dotted", "dashdot", "solid", "dashed", "dotted")
MARKERS: Final = ("circle", "triangle", "square", "diamond", "inverted_triangle", "hex", "plus", "star")
HATCHES: Final = (" ", "/", ".", "\\", "x", "-", "|", "o")
FONT: Final = "system-ui, DejaVu Sans, sans-serif"
TEXT_SIZE: Final = "14px"  # ticks; legible beside 16 px of text at 1280 x 720


def series(index: int) -> tuple[str, str, str, str]:
    """Colour, dash, marker and hatch of the series of this number; no two of 24 have both the same."""
    at = index % len(SERIES)
    other = (at + 3 * (index // len(SERIES))) % len(SERIES)
    return SERIES[at], DASHES[other], MARKERS[other], HATCHES[other]


def _theme(ground: str, ink: str, quiet: str, line: str) -> Theme:
    text = {"text_color": ink, "text_font": FONT, "text_font_size": TEXT_SIZE}
    attributes: dict[str, dict[str, Any]] = {
        "Plot": {"background_fill_color": ground, "border_fill_color": ground, "outline_line_color": line},
        "Axis": {
            "axis_line_color": quiet,
            "major_tick_line_color": quiet,
            "minor_tick_line_color": None,
            **{f"axis_label_{key}": value for key, value in text.items()},
            "axis_label_text_font_style": "normal",
            **{f"major_label_{key}": value for key, value in text.items()},
        },
        "Grid": {"grid_line_color": line, "grid_line_alpha": 0.6},
        "Legend": {
            "background_fill_color": ground,
            "background_fill_alpha": 0.85,
            "border_line_color": None,
            **{f"label_{key}": value for key, value in text.items()},
        },
        "ColorBar": {
            "background_fill_color": ground,
            **{f"major_label_{key}": value for key, value in text.items()},
        },
        "Title": text,
        "Label": text,
    }
    return Theme(json={"attrs": attributes})


THEMES: Final = {
    "light": _theme("#ffffff", "#14191f", "#4a5562", "#d5dbe1"),
    "dark": _theme("#161c24", "#eef2f6", "#b3bfcc", "#36414d"),
}
