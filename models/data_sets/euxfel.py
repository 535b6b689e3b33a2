"""European XFEL files, one or a run folder of them; the files that the stream writes have this form too.

The format: extra-data.readthedocs.io/en/latest/data_format.html. Trains are found by INDEX/trainId and the
`first` and `count` of the source; rows that no train points to are not events.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from models.data_sets.found import (
    SHOWN,
    Found,
    Ids,
    Piece,
    Rows,
    Where,
    datasets,
    may_be,
    meant,
    open_hdf5,
    read_pieces,
    shape_text,
)
from models.manifest import ModelError


def find_euxfel(paths: Sequence[Path], where: Where, event_shape: tuple[int, ...] | None) -> Found:
    source, key = _source_and_key(paths, where, event_shape)
    group, _, rest = key.partition(".")
    place = f"INSTRUMENT/{source}/{group}"
    pieces, ids, form = [], [], None
    for path in paths:
        with open_hdf5(path) as file:
            dataset = file.get(f"{place}/{rest.replace('.', '/')}")
            if not isinstance(dataset, h5py.Dataset) or f"INDEX/{source}/{group}" not in file:
                continue
            form = form or (dataset.shape[1:], dataset.dtype)
            if form != (dataset.shape[1:], dataset.dtype):
                raise ModelError(
                    f"{source} {key} of {path}: expected {form[1]} {list(form[0])} as in the first file, got "
                    f"{shape_text(dataset)}; read the files one by one"
                )
            rows, train_id, pulse_id = _indexed(file, f"{source}/{group}", dataset.shape[0])
            pieces.append(Piece(path, dataset.name, rows))
            ids.append((train_id, pulse_id))
    if form is None:
        raise ModelError(f"events {where.path}: no file holds {source} {key}; {_sources_text(paths)}")
    train_id, pulse_id = (np.concatenate(parts) for parts in zip(*ids, strict=True))
    what = f"{where.path}, {source} {key}"
    return Found(what, form[0], form[1], len(train_id), read_pieces(pieces, *form), train_id, pulse_id)


def _indexed(file: h5py.File, name: str, stored: int) -> tuple[Rows, Ids, Ids]:
    """Rows of a file's dataset in the order of the trains, with the ids of each."""
    trains = file["INDEX/trainId"][()].astype(np.uint64)
    first, count = _first_and_count(file, name)
    count = np.where(trains[: len(count)] > 0, count, 0)  # trains are padded with zeros
    if (count < 0).any() or (count.any() and (first + count)[count > 0].max() > stored):
        raise ModelError(
            f"INDEX/{name} of {file.filename}: it points past the {stored} rows; copy the file again"
        )
    train_id = np.repeat(trains[: len(count)], count)
    within = np.arange(len(train_id)) - np.repeat(np.cumsum(count) - count, count)
    rows = np.repeat(first, count) + within
    pulses = file.get(f"INSTRUMENT/{name}/pulseId")
    pulse_id = within if pulses is None else pulses[()].ravel()[rows]
    return rows, train_id, pulse_id.astype(np.uint64)


def _first_and_count(file: h5py.File, name: str) -> tuple[Rows, Rows]:
    """Of each train; files before format 1.0 have the last row and a status instead of the count."""
    index = {part: data[()].astype(np.int64) for part, data in file[f"INDEX/{name}"].items()}
    if {"first", "last", "status"} <= set(index):
        return index["first"], np.where(index["status"] > 0, index["last"] - index["first"] + 1, 0)
    if not {"first", "count"} <= set(index):
        raise ModelError(
            f"INDEX/{name} of {file.filename}: expected first and count, got {sorted(index)}; "
            "copy the file again"
        )
    return index["first"], index["count"]


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
        with open_hdf5(path) as file:
            if "INSTRUMENT" not in file:
                continue
            for name, dataset in datasets(file["INSTRUMENT"]):
                device, _, inner = name.partition(":")
                channel, _, key = inner.partition("/")
                yield f"{device}:{channel}", key.replace("/", "."), dataset.shape


def _sources_text(paths: Sequence[Path]) -> str:
    known = sorted({f"{source} {key} {list(shape[1:])}" for source, key, shape in _sources(paths)})
    return f"{len(paths)} files hold: " + (", ".join(known[:SHOWN]) or "no instrument data")
