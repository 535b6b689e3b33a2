"""Which line of the labels is of which event.

Owns the joining, by index, by train and pulse, or in order. Not the file (`models.data_sets.labels_csv`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from models.data_sets.found import Found, Rows, check_count
from models.data_sets.labels_csv import IDS, INDEX, Labels, fault
from models.manifest import ModelError

_FIRST: Final = 5  # ids in a message: enough to find them all

Key = tuple[int, ...]  # (train, pulse) or (index,)


def match(labels: Labels, found: Found, labelled_only: bool) -> tuple[Rows, Rows]:
    """(events, lines) int64 [n] each, by rising event: which line is of which event.

    Events without a line are an error, or left out if `labelled_only`. Raises ModelError.
    """
    if INDEX in labels.ids:
        return _by_index(labels, found, labelled_only)
    if labels.ids:
        return _by_ids(labels, found, labelled_only)
    if len(labels.targets) != found.count:
        raise fault(
            labels.path,
            f"{found.count} lines, one per event of {found.what}",
            f"{len(labels.targets)}",
            "add columns train_id and pulse_id, or index, to say which events they are of",
        )
    rows = np.arange(found.count)
    return rows, rows


def _by_index(labels: Labels, found: Found, labelled_only: bool) -> tuple[Rows, Rows]:
    """Without a list of all events: there may be many more than are labelled."""
    index = labels.ids[INDEX].astype(np.int64)
    _refuse_twice(
        [(number,) for number in index.tolist()], f"labels {labels.path}", "keep one line per event"
    )
    _refuse_strange([(number,) for number in index[index >= found.count].tolist()], labels, found)
    lines = np.argsort(index)
    missing = found.count - len(index)
    if missing and not labelled_only:
        first = np.setdiff1d(np.arange(min(found.count, len(index) + _FIRST + 1)), index)
        raise _missing([(number,) for number in first.tolist()], missing, labels, found)
    return index[lines], lines


def _by_ids(labels: Labels, found: Found, labelled_only: bool) -> tuple[Rows, Rows]:
    if missing := [name for name in IDS if name not in labels.ids]:
        raise fault(labels.path, f"both {IDS}", f"no {missing}", "add the column, or use index")
    if found.train_id is None or found.pulse_id is None:
        raise fault(
            labels.path,
            "a column index, or no ids",
            f"{IDS}, which {found.what} does not have",
            "number the events from 0 in a column index",
        )
    check_count(found.count, found.what)
    lines = list(zip(*(labels.ids[name].tolist() for name in IDS), strict=True))
    events = list(zip(found.train_id.tolist(), found.pulse_id.tolist(), strict=True))
    _refuse_twice(lines, f"labels {labels.path}", "keep one line per event")
    _refuse_twice(events, found.what, "choose files that hold each event once, or label by index")
    known = set(events)
    _refuse_strange([key for key in lines if key not in known], labels, found)
    line_of = {key: line for line, key in enumerate(lines)}
    absent = [key for key in events if key not in line_of]
    if absent and not labelled_only:
        raise _missing(absent, len(absent), labels, found)
    rows = np.array([row for row, key in enumerate(events) if key in line_of], np.int64)
    return rows, np.array([line_of[events[row]] for row in rows], np.int64)


def _refuse_twice(keys: Sequence[Key], where: str, remedy: str) -> None:
    if len(set(keys)) == len(keys):
        return
    seen: set[Key] = set()
    twice = [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    got = f"{len(twice)} again: {_some(twice, len(twice))}"
    raise ModelError(f"{where}: expected each event once, got {got}; {remedy}")


def _refuse_strange(strange: Sequence[Key], labels: Labels, found: Found) -> None:
    if strange:
        raise fault(
            labels.path,
            f"labels of events of {found.what}",
            f"{len(strange)} of others: {_some(strange, len(strange))}",
            "take these lines out, or name the right file of events",
        )


def _missing(first: Sequence[Key], count: int, labels: Labels, found: Found) -> ModelError:
    return fault(
        labels.path,
        f"a line for each of the {found.count} events of {found.what}",
        f"none for {count}: {_some(first, count)}",
        "label them, or leave them out with --labelled-only",
    )


def _some(keys: Sequence[Key], count: int) -> str:
    shown = ", ".join("/".join(map(str, key)) for key in keys[:_FIRST])
    return shown + (", ..." if count > _FIRST else "")
