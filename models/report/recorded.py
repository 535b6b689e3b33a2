"""The scores that a manifest recorded at training, as tables: whatever a task chose to record.

Entries of equal form become one table, so that methods stand below each other: {"ours": {"homogeneity": ..},
"spectral clustering": {"homogeneity": ..}} is a table of two rows.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from models.report.page import Cell, Part, Section, Table, show

MAX_ROWS: Final = 64  # of a list of numbers more are a curve, and belong into report.json
MAX_LIST: Final = 8  # numbers of a list that stand in one cell
THIS: Final = "this bundle"
METHODS: Final = ("baseline", "published", "supervised")  # first words of what others scored
# What `baseline_` alone is, by kind of bundle, and what short names stand for; the tasks say more of each.
NAMELESS: Final = {"vae_mixture": "spectral clustering", "encoder_decoder": "principal components"}
SPELLED: Final = {"pls": "partial least squares", "pca": "principal components"}
_NO_CELL: Final = object()
_NONE: Final = "The manifest records no scores."


def recorded(scores: Mapping[str, Any]) -> Section:
    """One section with all of it."""
    parts: list[Part] = list(_tables(scores, "")) or [_NONE]
    return Section("As the manifest has them", tuple(parts))


def _tables(table: Mapping[str, Any], path: str) -> Iterator[Table]:
    plain = {key: cell for key, value in table.items() if (cell := _cell(value)) is not _NO_CELL}
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    compared = _compared(plain)
    if compared:
        methods = list(dict.fromkeys(method for method, _ in compared.values()))
        scores = list(dict.fromkeys(score for _, score in compared.values()))
        values = {place: plain[key] for key, place in compared.items()}
        yield _methods(methods, scores, values, f"{path}: this bundle and other methods")
        plain = {key: value for key, value in plain.items() if key not in compared}
    if plain:
        rows: list[list[Cell]] = [[key, value] for key, value in plain.items()]
        yield Table(path or "Scores", ("score", "value"), rows[:MAX_ROWS])
    if _columns(nested):
        yield _matrix(nested, path)
        return
    for key, value in nested.items():
        yield from _tables(value, f"{path}, {key}" if path else key)


def _compared(plain: Mapping[str, Cell]) -> dict[str, tuple[str, str]]:
    """Keys like `baseline_linear_accuracy` beside `accuracy`: of each its method and its score."""
    others = [key for key in plain if key.split("_")[0] in METHODS]
    found: dict[str, tuple[str, str]] = {}
    for score in plain:
        own = [key for key in others if key.endswith(f"_{score}") and score not in others]
        for key in own:
            found[key] = (key.removesuffix(f"_{score}").removeprefix("baseline_").replace("_", " "), score)
        if own:
            found[score] = (THIS, score)
    return dict(sorted(found.items(), key=lambda item: item[1][0] != THIS))


def _methods(
    methods: list[str], scores: list[str], values: Mapping[tuple[str, str], Cell], caption: str
) -> Table:
    """The longer of the two lists goes down the page."""
    if len(scores) > len(methods):
        rows = [[score, *[values.get((method, score)) for method in methods]] for score in scores]
        return Table(caption, ("", *methods), rows)
    rows = [[method, *[values.get((method, score)) for score in scores]] for method in methods]
    return Table(caption, ("", *scores), rows)


def _matrix(nested: Mapping[str, Mapping[str, Any]], path: str) -> Table:
    """Rows and columns the other way round where that makes the table narrower."""
    columns = _columns(nested)
    if len(columns) > len(nested):
        rows: list[list[Cell]] = [[name, *[nested[key].get(name) for key in nested]] for name in columns]
        return Table(path or "Scores", ("", *nested), rows[:MAX_ROWS])
    rows = [[key, *[entry.get(name) for name in columns]] for key, entry in nested.items()]
    return Table(path or "Scores", ("", *columns), rows[:MAX_ROWS])


def _columns(nested: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The names that entries share, if all hold plain values and enough is shared to be one table."""
    if len(nested) < 2 or not all(_is_cell(v) for entry in nested.values() for v in entry.values()):
        return ()
    names = dict.fromkeys(name for entry in nested.values() for name in entry)
    filled = sum(len(entry) for entry in nested.values())
    return tuple(names) if names and filled > 0.5 * len(names) * len(nested) else ()


def baselines(recorded_here: Mapping[str, Any], kind: str, key: str, shown: str = "") -> str:
    """What is recorded for the score `key` of other methods on these events, but for the name `shown`, which
    stands elsewhere: "linear 0.989"."""
    names = [name for name in recorded_here if re.fullmatch(rf"baseline_(.+_)?{key}", name) and name != shown]
    found = {name: recorded_here[name] for name in names}
    named = {
        name.removeprefix("baseline_").removesuffix(key).strip("_"): value for name, value in found.items()
    }
    return ", ".join(
        f"{SPELLED.get(name, name).replace('_', ' ') or NAMELESS.get(kind, 'baseline')} {show(value)}"
        for name, value in named.items()
        if _is_cell(value)
    )


def _cell(value: Any) -> Any:
    """Short lists stand in one cell; what fits in none is `_NO_CELL`."""
    if isinstance(value, list) and 0 < len(value) <= MAX_LIST and all(_is_cell(entry) for entry in value):
        return ", ".join(show(entry) for entry in value)
    return value if _is_cell(value) else _NO_CELL


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
