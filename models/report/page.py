"""One self-contained page of HTML out of sections of text, tables and pictures; every text is escaped here.

No script, no font, no file from elsewhere: the page can be mailed, archived and printed. Owns the form alone;
what is said comes from `models.report.classifier`, `phases`, `clusters`, `structure` and `models.explain`.
Colours follow the reader's setting for light or dark (W3C media queries 5, prefers-color-scheme).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of cells below a head; the first cell of a row names it. None is shown as a dash."""

    caption: str
    head: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """An <svg> element of `models.report.figures`, what is seen in it, and the same for who cannot see it.

    `file`: instead of the element the name of an image beside the page, which is on white.
    """

    svg: str
    caption: str
    alt: str
    file: str = ""


Part = str | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a string is a paragraph."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chapter:
    """Sections under one heading, for instance all that was measured on one data set."""

    title: str
    sections: tuple[Section, ...]


def render(title: str, lead: str, chapters: Sequence[Chapter]) -> str:
    """The whole document."""
    body = "\n".join(_chapter(index, chapter) for index, chapter in enumerate(chapters))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{_contents(chapters)}\n{body}\n'
        f"</main>\n</body>\n</html>\n"
    )


def show(value: Cell) -> str:
    """A cell as people read it: three decimals where that says enough, a dash for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str | int):
        return str(value)
    if value.is_integer() and 2 <= abs(value) < 1e6:
        return f"{value:.0f}"  # a count that was averaged or stored as float
    plain = value == 0 or 0.01 <= abs(value) < 1000
    return f"{value:.3f}" if plain else f"{value:.3g}"


def _contents(chapters: Sequence[Chapter]) -> str:
    if len(chapters) < 2:
        return ""
    items = "".join(
        f'<li><a href="#c{index}">{escape(chapter.title)}</a></li>' for index, chapter in enumerate(chapters)
    )
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _chapter(index: int, chapter: Chapter) -> str:
    sections = "\n".join(_section(section) for section in chapter.sections)
    return f'<section id="c{index}">\n<h2>{escape(chapter.title)}</h2>\n{sections}\n</section>'


def _section(section: Section) -> str:
    parts = "\n".join(_part(part) for part in section.parts)
    return f"<h3>{escape(section.title)}</h3>\n{parts}"


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        return f"<figure>{_image(part)}<figcaption>{escape(part.caption)}</figcaption></figure>"
    return f"<p>{escape(part)}</p>"


def _image(picture: Picture) -> str:
    label = escape(picture.alt, quote=True)
    if picture.file:
        return f'<img class="paper" src="{escape(picture.file, quote=True)}" alt="{label}">'
    return f'<div class="picture" role="img" aria-label="{label}">{picture.svg}</div>'


def _table(table: Table) -> str:
    caption = f"<figcaption>{escape(table.caption)}</figcaption>\n" if table.caption else ""
    rows = "\n".join(_row(row) for row in table.rows)
    return f'<figure class="wide">{caption}<table>\n{_head(table)}<tbody>\n{rows}\n</tbody></table></figure>'


def _head(table: Table) -> str:
    """Names stand over their numbers; a table of facts may have none."""
    if not table.head:
        return ""
    text = [any(isinstance(row[i], str) for row in table.rows) for i in range(len(table.head))]
    kinds = ["" if is_text else ' class="number"' for is_text in text]
    cells = [
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, table.head, strict=True)
    ]
    return f"<thead><tr>{''.join(cells)}</tr></thead>\n"


def _row(cells: Sequence[Cell]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{escape(show(first))}</th>{"".join(_cell(cell) for cell in others)}</tr>'


def _cell(cell: Cell) -> str:
    kind = "" if isinstance(cell, str) else ' class="number"'
    return f"<td{kind}>{escape(show(cell))}</td>"


# 70rem: two figures of a narrow laptop beside each other are too small to read, one line of text of more than
# that too long. Contrast of all pairs of text and ground is above 7:1.
_STYLE: Final = """\
:root { color-scheme: light dark; --ink: #1a1a1a; --ground: #ffffff; --soft: #f1f3f5; --line: #b8bfc6;
  --quiet: #444c54; --link: #004a80; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --ground: #15181b; --soft: #22272c;
  --line: #525b64; --quiet: #bcc4cc; --link: #8ecbff; --blue: #3d9be0; } }
html { font: 100%/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
body { margin: 0; color: var(--ink); background: var(--ground); }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem clamp(0.75rem, 3vw, 2.5rem) 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.45rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; }
.lead { font-size: 1.1rem; color: var(--quiet); }
a { color: var(--link); }
nav ol { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 1rem 0; padding: 0; list-style: none; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .95rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem .4rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { background: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 3.5rem; }
thead + tbody td { overflow-wrap: break-word; }
th.number { text-align: right; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.25rem 0 1.75rem; }
figcaption { color: var(--quiet); max-width: 46rem; margin: .4rem 0; }
.paper { display: block; max-width: 100%; height: auto; background: #fff; padding: .5rem;
  box-sizing: border-box; }
.picture svg { display: block; max-width: 100%; height: auto; color: var(--ink); }
@media print { :root { color-scheme: light; --ink: #000; --ground: #fff; --soft: #eee; --line: #999;
  --quiet: #222; --link: #000; --blue: #0072b2; }
  html { font-size: 85%; } main { max-width: none; padding: 0; }
  nav { display: none; } figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
