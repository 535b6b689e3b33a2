"""Words and bars for a terminal: what `watch` and `status` share.

Owns how numbers are written for people, how columns stand under one another, and how text from elsewhere is
made harmless. Does no output.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size

LONGEST: Final = 80  # characters of one piece of text from elsewhere: the width of a common terminal
_UNITS: Final = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (1e-6, "us", 1e6))


def clean(text: str, longest: int = LONGEST) -> str:
    """Text from elsewhere, with '?' for what a terminal would obey, shortened."""
    return "".join(c if c.isprintable() else "?" for c in text[:longest])


def bar(parts: Mapping[str, int], width: int) -> str:
    """Shares as a bar of letters, `[####------!]`: a letter each, no colour to be told apart.

    `parts` are counts by letter. What is not 0 has at least one letter; without counts the bar is empty.
    """
    total, inner = sum(parts.values()), max(0, width - 2)
    if not total:
        return "[" + " " * inner + "]"
    lengths = {letter: max(1, round(inner * n / total)) for letter, n in parts.items() if n}
    largest = max(lengths, key=lambda letter: lengths[letter])
    lengths[largest] = max(1, lengths[largest] + inner - sum(lengths.values()))  # what rounding left over
    return "[" + "".join(letter * length for letter, length in lengths.items())[:inner] + "]"


def count(number: float) -> str:
    return f"{number:,.0f}"


def rate(per_s: float) -> str:
    """Events per second: one digit after the point only where it says something."""
    return f"{per_s:.1f}" if 0 < per_s < 10 else count(per_s)


def percent(part: float, whole: float) -> str:
    """A share; '-' of nothing, and never 0.0 % for something."""
    if not whole:
        return "-"
    share = 100 * part / whole
    return "<0.1 %" if 0 < share < 0.05 else f"{share:.1f} %"


def duration(seconds: float | None) -> str:
    """A short time with its unit, three digits; '-' for None."""
    if seconds is None:
        return "-"
    unit, factor = next(((u, f) for limit, u, f in _UNITS if abs(seconds) >= limit), ("us", 1e6))
    return f"{seconds * factor:.3g} {unit}" if abs(seconds) < 1e3 else f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """A long time as hours, minutes, seconds: 0:12:33."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def counted(groups: Mapping[str, int]) -> str:
    """`timeout 12, overload 3`: the largest first, zeros left out."""
    ordered: Sequence[tuple[str, int]] = sorted(groups.items(), key=lambda item: -item[1])
    return ", ".join(f"{clean(name)} {count(number)}" for name, number in ordered if number)


def plural(number: int, word: str) -> str:
    return f"{count(number)} {word}" + ("" if number == 1 else "s")


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows of equal length as lines, each column as wide as its longest cell; `right` are flush right.

    Widths are those of a terminal, where some letters take two places. The last column is not filled up.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [" ".join(_cells(row, widths, right)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> list[str]:
    return [
        " " * (width - cell_len(cell)) + cell if index in right else set_cell_size(cell, width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
