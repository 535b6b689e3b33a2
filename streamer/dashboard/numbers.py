"""Numbers in words that fit a tile: counts, rates, times."""

import math

_STEPS = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


def count(value: float) -> str:
    """`9,876`, `12.3 k`, `4.56 M`."""
    for size, letter in _STEPS:
        if abs(value) >= size:
            shown = value / (1e3 if letter == "k" else size)
            digits = 2 if abs(shown) < 10 else 1 if abs(shown) < 100 else 0
            return f"{shown:,.{digits}f} {letter}"
    return f"{value:,.0f}"


def rate(value: float) -> str:
    """Events a second; one digit behind the point below ten."""
    return count(value) if value >= 10 or value == 0 else f"{value:.1f}"


def share(value: float | None) -> str:
    """Per cent; a dash where there is nothing to divide by."""
    if value is None or not math.isfinite(value):
        return "–"
    per_cent = 100 * value
    return f"{per_cent:.0f} %" if per_cent >= 99.95 or per_cent == 0 else f"{per_cent:.1f} %"


def seconds(value: float | None) -> str:
    """A latency: `850 µs`, `12 ms`, `1.3 s`."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def duration(value: float) -> str:
    """A time since: `42 s`, `12 min`, `3 h 05 min`."""
    if value < 120:
        return f"{max(0, value):.0f} s"
    minutes = int(value // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: float | None) -> str:
    """A measured value, four digits; in words what is no number."""
    if value is None or math.isnan(value):
        return "no number"
    return f"{value:.4g}"
