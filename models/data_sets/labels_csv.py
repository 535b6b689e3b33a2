"""Labels of events in a CSV file: read and checked.

Owns the file's form. Which line is of which event: `models.data_sets.labels_match`. The first line
names the columns; each further line is one event:

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
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data_sets.found import ID_LIMIT, Ids
from models.data_sets.hdf5 import check_regular
from models.manifest import MAX_LABELS, ModelError
from models.names import identifier

IDS: Final = ("train_id", "pulse_id")
INDEX: Final = "index"
GROUP: Final = "group"
LABEL: Final = "label"
_MAX_BYTES: Final = 1 << 26  # 4 million lines of 16 characters
_MAX_LINES: Final = 1 << 22  # each takes some 500 bytes while it is read
_SHOWN: Final = 20  # names in a message
_MAX_CELL: Final = 64  # characters of a cell in a message
_MAX_DIGITS: Final = 19  # of 2**63
_MAX_NAME: Final = 64  # characters of a class, as in the manifest of a bundle
_MAX_TARGETS: Final = 1 << 27  # lines times classes: half a gigabyte
_MAX_TARGET: Final = float(np.finfo(np.float32).max)  # targets are kept as float32

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
        raise fault(
            path, f"a column {group!r} with the group", f"the columns {_some(header)}", "correct --group"
        )
    columns = dict(zip(header, zip(*(cells for _, cells in lines), strict=True), strict=True))
    numbers = [number for number, _ in lines]
    given = [name for name in (*IDS, INDEX) if name in columns]
    ids: dict[str, Ids] = {name: _whole(path, name, columns[name], numbers) for name in given}
    rest = [name for name in header if name not in (*IDS, INDEX, group)]
    _check_amount(path, len(lines), len(names) or len(rest))
    if LABEL in rest:
        chosen, targets = _one_hot(path, columns[LABEL], numbers, names)
    else:
        chosen = _chosen(path, rest, names)
        each = [_real(path, name, columns[name], numbers) for name in chosen]
        targets = np.stack(each, axis=1).astype(np.float32)
    return Labels(path, chosen, targets, ids, tuple(columns[group]) if group else None)


# --- the file -------------------------------------------------------------------------------------------


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each line with its number in the file."""
    rows = _lines(path)
    if len(rows) < 2:
        raise fault(path, "a header and a line per event", f"{len(rows)} lines", "write the labels into it")
    (_, header), *lines = rows
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise fault(path, "commas between the columns", _cell(header[0]), "save it with commas")
    if len(set(header)) != len(header) or not all(header):
        raise fault(path, "a name for each column, each once", _some(header), "rename a column")
    for number, cells in lines:
        if len(cells) != len(header):
            raise fault(f"{path}, line {number}", f"{len(header)} cells", len(cells), "correct the line")
    return header, lines


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        if path.exists():
            check_regular(path)  # a pipe would block, a device never end
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise fault(path, f"at most {_MAX_BYTES} bytes", size, "label fewer events, or shorten the names")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row])
                    for row in islice(reader, _MAX_LINES + 1) if any(row)]  # fmt: skip
    except (OSError, ValueError, csv.Error) as error:
        raise fault(
            path, "a CSV file in UTF-8", error, "correct --labels, or save it as CSV again"
        ) from error
    if len(rows) > _MAX_LINES:
        raise fault(path, f"at most {_MAX_LINES} lines", "more", "label fewer events")
    return rows


def fault(where: object, expected: object, got: object, remedy: str) -> ModelError:
    """The one shape of every message about labels."""
    return ModelError(f"labels {where}: expected {expected}, got {got}; {remedy}")


def _some(names: Sequence[str]) -> str:
    """A list for a message, however long it and its names are."""
    shown = ", ".join(_cell(name) for name in names[:_SHOWN])
    return f"[{shown}{', ...' if len(names) > _SHOWN else ''}]"


def _cell(text: str) -> str:
    return repr(text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}...")


def _check_amount(path: Path, lines: int, classes: int) -> None:
    if classes > MAX_LABELS:
        raise fault(path, f"at most {MAX_LABELS} classes", classes, "write fewer, or numbers in few columns")
    if lines * classes > _MAX_TARGETS:
        got = f"{lines} lines of {classes}"
        raise fault(path, f"at most {_MAX_TARGETS} lines times classes", got, "label fewer events")


def _check_names(names: Sequence[str], places: Sequence[str]) -> None:
    """A bundle and its rules must be able to write each name; `places`: where each was read first."""
    written: dict[str, str] = {}
    for name, place in zip(names, places, strict=True):
        if not (0 < len(name) <= _MAX_NAME and name.isprintable()):
            raise fault(place, f"a printable name of 1 to {_MAX_NAME} characters", _cell(name), "rename it")
        other = written.setdefault(identifier(name), name)
        if other != name:
            got = f"{name!r} and {other!r}, both {identifier(name)} there"
            raise fault(place, "names that rules tell apart", got, "rename one of them")


def _chosen(path: Path, rest: list[str], names: Sequence[str]) -> tuple[str, ...]:
    if not rest:
        raise fault(path, f"a column {LABEL!r}, or one per class", "only ids", "add the labels")
    if not names:
        _check_names(rest, [f"{path}, line 1, column {_cell(name)}" for name in rest])
        return tuple(rest)
    if unknown := sorted(set(rest) - set(names)):
        raise fault(path, f"columns of {_some(names)}", f"unknown {_some(unknown)}", "remove or rename them")
    if missing := [name for name in names if name not in rest]:
        raise fault(path, f"a column for each of {_some(names)}", f"none for {_some(missing)}", "add them")
    return tuple(names)


def _one_hot(
    path: Path, cells: Sequence[str], numbers: list[int], names: Sequence[str]
) -> tuple[tuple[str, ...], Floats]:
    chosen = tuple(names) or _classes(path, cells, numbers)
    place = {name: index for index, name in enumerate(chosen)}
    for number, cell in zip(numbers, cells, strict=True):
        if cell not in place or not cell:
            remedy = (
                "correct it, or train a bundle that knows it" if cell else "label it, or take the line out"
            )
            raise fault(f"{path}, line {number}", f"one of {_some(chosen)}", _cell(cell), remedy)
    one_hot: Floats = np.zeros((len(cells), len(chosen)), np.float32)
    one_hot[np.arange(len(cells)), [place[cell] for cell in cells]] = 1
    return chosen, one_hot


def _classes(path: Path, cells: Sequence[str], numbers: list[int]) -> tuple[str, ...]:
    """The names in a column, sorted; an empty cell is none."""
    first = dict(zip(reversed(cells), reversed(numbers), strict=True))
    first.pop("", None)
    _check_amount(path, len(cells), len(first))
    names = sorted(first, key=lambda name: first[name])
    _check_names(names, [f"{path}, line {first[name]}, column {LABEL!r}" for name in names])
    return tuple(sorted(names))


def _real(path: Path, name: str, cells: Sequence[str], numbers: list[int]) -> NDArray[np.float64]:
    values = np.empty(len(cells))
    for index, cell in enumerate(cells):
        try:
            values[index] = float(cell)
        except ValueError:
            values[index] = math.nan
        if not abs(values[index]) <= _MAX_TARGET:  # also true for NaN
            where = f"{path}, line {numbers[index]}, column {_cell(name)}"
            remedy = f"correct it, or choose a unit in which it is below {_MAX_TARGET:.2g}"
            raise fault(where, "a finite number", _cell(cell), remedy)
    return values


def _whole(path: Path, name: str, cells: Sequence[str], numbers: list[int]) -> Ids:
    for number, cell in zip(numbers, cells, strict=True):
        short = len(cell.lstrip("0")) <= _MAX_DIGITS
        if not (cell.isdecimal() and short and int(cell[-_MAX_DIGITS:]) < ID_LIMIT):
            where = f"{path}, line {number}, column {name!r}"
            raise fault(where, "a whole number, 0 or more", _cell(cell), "correct it")
    return np.array([int(cell[-_MAX_DIGITS:]) for cell in cells], np.uint64)
