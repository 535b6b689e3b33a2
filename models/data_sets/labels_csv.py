"""Labels of events in a CSV file: read, checked, and matched with the events.

Owns the file's form. The first line names the columns; each further line is one event:

    train_id, pulse_id   which event it is; or
    index                its number in the file, from 0; or neither: the lines are in the order of the events
    group                events that must stay in one split: a run, a ramp, a sample (any text)
    label                the name of the event's one class; or
    <class>              0 or 1, a column per class; or a number in its own unit

R rows, T targets.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data_sets.found import Found, Ids, Rows
from models.manifest import ModelError

IDS: Final = ("train_id", "pulse_id")
INDEX: Final = "index"
GROUP: Final = "group"
LABEL: Final = "label"
_FIRST: Final = 5  # ids in a message: enough to find them all
_MAX_ID: Final = 2**63  # ids are kept as int64

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """The lines of a file. targets: float32 [R, T]; ids: by name of IDS or INDEX, uint64 [R]; groups: [R]."""

    path: Path
    names: tuple[str, ...]
    targets: Floats
    ids: Mapping[str, Ids]
    groups: tuple[str, ...] | None

    @property
    def are_classes(self) -> bool:
        """Nothing but 0 and 1."""
        return bool(np.isin(self.targets, (0, 1)).all())


def read_labels(path: Path, names: Sequence[str] = (), group: str = "") -> Labels:
    """Read a CSV file. `names`: the classes or targets wanted, in this order (none: those of the file);
    `group`: the column that holds the group, if it is not called so.

    Raises ModelError that names the line.
    """
    header, lines = _table(path)
    group = group or (GROUP if GROUP in header else "")
    if group and group not in header:
        raise _fault(path, f"a column {group!r} with the group", f"the columns {header}", "correct --group")
    columns = dict(zip(header, zip(*(cells for _, cells in lines), strict=True), strict=True))
    numbers = [number for number, _ in lines]
    given = [name for name in (*IDS, INDEX) if name in columns]
    ids: dict[str, Ids] = {name: _whole(path, name, columns[name], numbers) for name in given}
    rest = [name for name in header if name not in (*IDS, INDEX, group)]
    if LABEL in rest:
        chosen, targets = _one_hot(path, columns[LABEL], numbers, names)
    else:
        chosen = _chosen(path, rest, names)
        each = [_real(path, name, columns[name], numbers) for name in chosen]
        targets = np.stack(each, axis=1).astype(np.float32)
    return Labels(path, chosen, targets, ids, tuple(columns[group]) if group else None)


def match(labels: Labels, found: Found, labelled_only: bool) -> tuple[Rows, Rows]:
    """(events, lines) [n] each, by rising event: which line is of which event.

    Events without a line are an error, or left out if `labelled_only`. Raises ModelError.
    """
    lines = _keys_of_lines(labels)
    if lines is None:
        if len(labels.targets) != found.count:
            raise _fault(
                labels.path,
                f"{found.count} lines, one per event of {found.what}",
                f"{len(labels.targets)}",
                "add columns train_id and pulse_id, or index, to say which events they are of",
            )
        rows = np.arange(found.count)
        return rows, rows
    events = _keys_of_events(labels, found)
    _refuse_twice(lines, f"labels {labels.path}", "keep one line per event")
    _refuse_twice(events, found.what, "choose files that hold each event once, or label by index")
    return _joined(lines, events, labels, found, labelled_only)


# --- the file -------------------------------------------------------------------------------------------


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each line with its number in the file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _fault(
            path, "a CSV file in UTF-8", error, "correct --labels, or save it as CSV again"
        ) from error
    if len(rows) < 2:
        raise _fault(path, "a header and a line per event", f"{len(rows)} lines", "write the labels into it")
    (_, header), *lines = rows
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise _fault(path, "commas between the columns", repr(header[0]), "save it with commas")
    if len(set(header)) != len(header) or not all(header):
        raise _fault(path, "a name for each column, each once", header, "rename a column")
    for number, cells in lines:
        if len(cells) != len(header):
            raise _fault(f"{path}, line {number}", f"{len(header)} cells", len(cells), "correct the line")
    return header, lines


def _fault(where: object, expected: object, got: object, remedy: str) -> ModelError:
    return ModelError(f"labels {where}: expected {expected}, got {got}; {remedy}")


def _chosen(path: Path, rest: list[str], names: Sequence[str]) -> tuple[str, ...]:
    if not rest:
        raise _fault(path, f"a column {LABEL!r}, or one per class", "only ids", "add the labels")
    if not names:
        return tuple(rest)
    if unknown := sorted(set(rest) - set(names)):
        raise _fault(path, f"columns of {list(names)}", f"unknown {unknown}", "remove or rename them")
    if missing := [name for name in names if name not in rest]:
        raise _fault(path, f"a column for each of {list(names)}", f"none for {missing}", "add them")
    return tuple(names)


def _one_hot(
    path: Path, cells: Sequence[str], numbers: list[int], names: Sequence[str]
) -> tuple[tuple[str, ...], Floats]:
    chosen = tuple(names) or tuple(sorted(set(cells)))
    place = {name: index for index, name in enumerate(chosen)}
    for number, cell in zip(numbers, cells, strict=True):
        if cell not in place or not cell:
            remedy = (
                "correct it, or train a bundle that knows it" if cell else "label it, or take the line out"
            )
            raise _fault(f"{path}, line {number}", f"one of {list(chosen)}", repr(cell), remedy)
    one_hot: Floats = np.eye(len(chosen), dtype=np.float32)[[place[cell] for cell in cells]]
    return chosen, one_hot


def _real(path: Path, name: str, cells: Sequence[str], numbers: list[int]) -> NDArray[np.float64]:
    values = np.empty(len(cells))
    for index, cell in enumerate(cells):
        try:
            values[index] = float(cell)
        except ValueError:
            values[index] = math.nan
        if not math.isfinite(values[index]):
            raise _fault(
                f"{path}, line {numbers[index]}, column {name!r}", "a finite number", repr(cell), "correct it"
            )
    return values


def _whole(path: Path, name: str, cells: Sequence[str], numbers: list[int]) -> Ids:
    for number, cell in zip(numbers, cells, strict=True):
        if not (cell.isdecimal() and int(cell) < _MAX_ID):
            where = f"{path}, line {number}, column {name!r}"
            raise _fault(where, "a whole number, 0 or more", repr(cell), "correct it")
    return np.array([int(cell) for cell in cells], np.uint64)


# --- lines and events -----------------------------------------------------------------------------------


def _keys_of_lines(labels: Labels) -> list[tuple[int, ...]] | None:
    """What says which event a line is of: (train, pulse), (index,), or nothing."""
    ids = labels.ids
    if INDEX in ids:
        return [(index,) for index in ids[INDEX].tolist()]
    if not ids:
        return None
    if missing := [name for name in IDS if name not in ids]:
        raise _fault(labels.path, f"both {IDS}", f"no {missing}", "add the column, or use index")
    return list(zip(ids["train_id"].tolist(), ids["pulse_id"].tolist(), strict=True))


def _keys_of_events(labels: Labels, found: Found) -> list[tuple[int, ...]]:
    if INDEX in labels.ids:
        return [(index,) for index in range(found.count)]
    if found.train_id is None or found.pulse_id is None:
        raise _fault(
            labels.path,
            "a column index, or no ids",
            f"{IDS}, which {found.what} does not have",
            "number the events from 0 in a column index",
        )
    return list(zip(found.train_id.tolist(), found.pulse_id.tolist(), strict=True))


def _refuse_twice(keys: list[tuple[int, ...]], where: str, remedy: str) -> None:
    if len(set(keys)) == len(keys):
        return
    seen: set[tuple[int, ...]] = set()
    twice = [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    raise ModelError(f"{where}: expected each event once, got {len(twice)} again: {_some(twice)}; {remedy}")


def _joined(
    lines: list[tuple[int, ...]],
    events: list[tuple[int, ...]],
    labels: Labels,
    found: Found,
    labelled_only: bool,
) -> tuple[Rows, Rows]:
    line_of = {key: line for line, key in enumerate(lines)}
    known = set(events)
    if strange := [key for key in lines if key not in known]:
        raise _fault(
            labels.path,
            f"labels of events of {found.what}",
            f"{len(strange)} of others: {_some(strange)}",
            "take these lines out, or name the right file of events",
        )
    missing = [key for key in events if key not in line_of]
    if missing and not labelled_only:
        raise _fault(
            labels.path,
            f"a line for each of the {found.count} events of {found.what}",
            f"none for {len(missing)}: {_some(missing)}",
            "label them, or leave them out with --labelled-only",
        )
    rows = np.array([row for row, key in enumerate(events) if key in line_of], np.int64)
    return rows, np.array([line_of[events[row]] for row in rows], np.int64)


def _some(keys: list[tuple[int, ...]]) -> str:
    shown = ", ".join("/".join(map(str, key)) for key in keys[:_FIRST])
    return shown + (", ..." if len(keys) > _FIRST else "")
