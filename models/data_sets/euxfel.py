"""European XFEL files, one or a run folder of them; the files that the stream writes have this form too.

The format: extra-data.readthedocs.io/en/latest/data_format.html. Trains are found by INDEX/trainId and the
`first` and `count` of the source; rows that no train points to are not events.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from models.data_sets.found import (
    Found,
    Ids,
    Piece,
    Rows,
    Where,
    as_ids,
    check_count,
    may_be,
    meant,
    read_pieces,
)
from models.data_sets.hdf5 import SHOWN, dataset, datasets, item, numbers, open_hdf5, readable, shape_text
from models.manifest import ModelError

_MAX_TRAINS: Final = 1 << 22  # of one file: four days of ten trains a second
_PAST: Final = 1 << 61  # larger row numbers are past any file; the sum of two is still an int64


def find_euxfel(paths: Sequence[Path], where: Where, event_shape: tuple[int, ...] | None) -> Found:
    source, key = _source_and_key(paths, where, event_shape)
    pieces, ids = [], []
    form: tuple[tuple[int, ...], np.dtype[np.generic]] | None = None
    for path in paths:
        with readable(path), open_hdf5(path) as file:
            images = _images(file, source, key)
            if images is None:
                continue
            form = form or (images.shape[1:], images.dtype)
            if form != (images.shape[1:], images.dtype):
                raise ModelError(
                    f"{source} {key} of {path}: expected {form[1]} {list(form[0])} as in the first file, got "
                    f"{shape_text(images)}; read the files one by one"
                )
            rows, *named = _indexed(file, f"{source}/{key.partition('.')[0]}", images.shape[0])
            pieces.append(Piece(path, images.name, rows))
            ids.append(named)
            check_count(sum(map(len, pieces)), str(where.path))
    if form is None:
        raise ModelError(f"events {where.path}: no file holds {source} {key}; {_sources_text(paths)}")
    train_id, pulse_id = (np.concatenate(parts) for parts in zip(*ids, strict=True))
    what = f"{where.path}, {source} {key}"
    return Found(what, form[0], form[1], len(train_id), read_pieces(pieces, *form), train_id, pulse_id)


def _images(file: h5py.File, source: str, key: str) -> h5py.Dataset | None:
    """None if the file has no such key, or no index of it."""
    group, _, rest = key.partition(".")
    images = dataset(file, f"INSTRUMENT/{source}/{group}/{rest.replace('.', '/')}")
    if images is None or item(file, f"INDEX/{source}/{group}") is None:
        return None
    if images.ndim < 1:
        raise ModelError(
            f"{source} {key} of {file.filename}: expected a row an event, got a single {images.dtype}; name "
            "another key"
        )
    return images


def _indexed(file: h5py.File, name: str, stored: int) -> tuple[Rows, Ids, Ids]:
    """Rows of a file's dataset in the order of the trains, with the ids of each."""
    what = f"INDEX/trainId of {file.filename}"
    trains = as_ids(_whole(file, "INDEX/trainId"), what)
    first, count = _first_and_count(file, name)
    if not len(first) == len(count) <= len(trains):
        raise _damaged(
            file,
            name,
            f"a first and a count for each train, got {len(first)} and {len(count)} for {len(trains)}",
        )
    used = (trains[: len(count)] > 0) & (count != 0)  # trains are padded with zeros
    _check_rows(file, name, (first[used], count[used]), stored)
    train_id = np.repeat(trains[: len(count)][used], count[used])
    within = np.arange(len(train_id)) - np.repeat(np.cumsum(count[used]) - count[used], count[used])
    rows = np.repeat(first[used], count[used]) + within
    return rows, train_id, _pulses(file, name, rows, within)


def _check_rows(file: h5py.File, name: str, index: tuple[Rows, Rows], stored: int) -> None:
    """Every train has rows of its own, all within the dataset. Raises ModelError."""
    first, count = index
    if (first < 0).any() or (count < 0).any() or (first + count > stored).any():
        raise _damaged(file, name, f"rows from 0 to {stored}, it points elsewhere")
    order = np.argsort(first, kind="stable")
    if ((first + count)[order][:-1] > first[order][1:]).any():
        raise _damaged(file, name, "rows of its own for each train, it has rows of several")
    check_count(int(count.sum()), file.filename)


def _pulses(file: h5py.File, name: str, rows: Rows, within: Rows) -> Ids:
    """The pulse id of each row; its number in the train where the file has none."""
    place = f"INSTRUMENT/{name}/pulseId"
    if (pulses := dataset(file, place)) is None:
        return within.astype(np.uint64)
    needed = int(rows.max()) + 1 if len(rows) else 0
    if pulses.dtype.kind not in "iu" or pulses.ndim < 1 or pulses.size != len(pulses) or len(pulses) < needed:
        raise _damaged(file, name, f"pulse ids for {needed} rows, {place} is {shape_text(pulses)}")
    lowest = int(rows.min()) if len(rows) else 0
    check_count(needed - lowest, f"{place} of {file.filename}")
    return as_ids(pulses[lowest:needed].ravel()[rows - lowest], f"{place} of {file.filename}")


def _first_and_count(file: h5py.File, name: str) -> tuple[Rows, Rows]:
    """Of each train; files before format 1.0 have the last row and a status instead of the count."""
    group = item(file, f"INDEX/{name}")
    there = sorted(group) if isinstance(group, h5py.Group) else []
    place = f"INDEX/{name}"
    if {"first", "last", "status"} <= set(there):
        first, last, status = (_whole(file, f"{place}/{part}") for part in ("first", "last", "status"))
        if not len(first) == len(last) == len(status):
            raise _damaged(file, name, "as many first as last and status, it has not")
        return _rows(first), np.where(status > 0, _rows(last) - _rows(first) + 1, 0)
    if not {"first", "count"} <= set(there):
        raise _damaged(file, name, f"first and count, got {there[:SHOWN]}")
    return _rows(_whole(file, f"{place}/first")), _rows(_whole(file, f"{place}/count"))


def _whole(file: h5py.File, place: str) -> NDArray[np.integer]:
    """Whole numbers of one axis, a number a train. Raises ModelError."""
    what = f"{place} of {file.filename}"
    read = numbers(dataset(file, place), what, _MAX_TRAINS)
    if read.ndim != 1 or read.dtype.kind not in "iu":
        raise ModelError(
            f"{what}: expected a whole number a train, got {read.dtype} {list(read.shape)}; copy it again"
        )
    return read


def _rows(values: NDArray[np.integer]) -> Rows:
    """As int64, in which no sum of two overflows."""
    kept = values if values.dtype.itemsize < 8 else values.clip(max=_PAST)
    return kept.astype(np.int64).clip(min=-_PAST)


def _damaged(file: h5py.File, name: str, expected: str) -> ModelError:
    return ModelError(f"INDEX/{name} of {file.filename}: expected {expected}; copy the file again")


def _source_and_key(
    paths: Sequence[Path], where: Where, event_shape: tuple[int, ...] | None
) -> tuple[str, str]:
    if where.source and where.key:
        return where.source, where.key
    fitting = {
        (source, key)
        for source, key, shape in _sources(paths)
        if may_be(shape, event_shape) and where.source in ("", source) and where.key in ("", key)
    }
    if len(fitting) != 1:
        raise ModelError(
            f"events {where.path}: expected one source and key {meant(event_shape)}, got {len(fitting)}; "
            f"name them with --source and --key; {_sources_text(paths)}"
        )
    return fitting.pop()


def _sources(paths: Sequence[Path]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(source, key, shape) of the instrument data of all files."""
    for path in paths:
        with readable(path), open_hdf5(path) as file:
            group = item(file, "INSTRUMENT")
            if not isinstance(group, h5py.Group):
                continue
            for name, found in datasets(group):
                device, _, inner = name.partition(":")
                channel, _, key = inner.partition("/")
                yield f"{device}:{channel}", key.replace("/", "."), found.shape


def _sources_text(paths: Sequence[Path]) -> str:
    known = sorted({f"{source} {key} {list(shape[1:])}" for source, key, shape in _sources(paths)})
    return f"{len(paths)} files hold: " + (", ".join(known[:SHOWN]) or "no instrument data")
