"""The events of one append as buffers to write: views of the caller's memory wherever they are contiguous."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreError
from streamer.store.disk import runs
from streamer.store.spec import SeriesSpec, TableSpec


class Picked(NamedTuple):
    """Rows that are not where the others are: event i of those to store is `rows`[`at`[i]]."""

    rows: NDArray[Any]
    at: NDArray[np.intp]


Rows = Sequence[Sequence[NDArray[Any] | Picked]]

# Events up to a page are gathered into one buffer: copying them costs less than an iovec each.
_GATHER_BYTES = 4096


class Block:
    """For every dataset of a series the rows of one append, checked against the spec.

    `train_ids`, `pulse_ids` u8[n]; `rows[t][k]` [n, *key shape] for table t and key k. `select` are the
    positions of the events to store, increasing; None for all. Raises StoreError.
    """

    def __init__(
        self,
        spec: SeriesSpec,
        ids: tuple[NDArray[np.uint64], NDArray[np.uint64]],
        rows: Rows,
        select: NDArray[np.intp] | None,
    ) -> None:
        _check_tables(spec, rows)
        by_name = dict(zip(("trainId", "pulseId"), ids, strict=True))
        everywhere = 0 if select is None else _places(select)
        self._parts: list[tuple[NDArray[Any], int | NDArray[np.intp]]] = []
        for table, given in zip(spec.tables, rows, strict=True):
            arrays = [*given, *[by_name[name] for name in table.id_names]]
            _check_rows(table, arrays, len(ids[0]))
            self._parts += [
                (array.rows, _places(array.at)) if isinstance(array, Picked) else (array, everywhere)
                for array in arrays
            ]
        self.train_ids = _checked_order(ids[0] if select is None else ids[0][select])

    def buffers(self, start: int, stop: int) -> list[list[NDArray[Any]]]:
        """For each dataset, in the order of `exdf.row_datasets`, the events start..stop of those to store."""
        return [
            _pieces(rows[at + start : at + stop]) if isinstance(at, int) else _gathered(rows, at[start:stop])
            for rows, at in self._parts
        ]


def buffers(rows: NDArray[Any], index: NDArray[np.intp]) -> list[NDArray[Any]]:
    """The rows at positions `index` as few contiguous buffers: views, unless rows are small or scattered."""
    at = _places(index)
    return _pieces(rows[at : at + len(index)]) if isinstance(at, int) else _gathered(rows, at)


def _places(index: NDArray[np.intp]) -> int | NDArray[np.intp]:
    """Positions; of consecutive ones only the first."""
    if len(index) == 1 or (len(index) and np.logical_and.reduce(index[1:] == index[:-1] + 1)):
        return int(index[0])
    return index


def _pieces(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Consecutive rows."""
    if rows.flags.c_contiguous:
        return [rows]
    return _gathered(rows, np.arange(len(rows)))


def _gathered(rows: NDArray[Any], index: NDArray[np.intp]) -> list[NDArray[Any]]:
    """Rows here and there."""
    if not len(index) or rows[0].nbytes <= _GATHER_BYTES or not rows[0].flags.c_contiguous:
        return [np.ascontiguousarray(rows[index])]
    if rows.flags.c_contiguous:
        return [rows[part] for part in runs(index)]
    return [rows[i] for i in index.tolist()]


def _check_tables(spec: SeriesSpec, rows: Rows) -> None:
    expected = [len(table.keys) for table in spec.tables]
    got = [len(arrays) for arrays in rows]
    if expected != got:
        raise StoreError(f"file series {spec.name!r}: expected {expected} arrays per table, got {got}")


def _check_rows(table: TableSpec, arrays: Sequence[NDArray[Any] | Picked], n: int) -> None:
    for key, given in zip((*table.keys, *table.id_keys), arrays, strict=True):
        rows, n_rows = (given.rows, len(given.rows)) if isinstance(given, Picked) else (given, n)
        if rows.dtype != key.dtype or rows.shape != (n_rows, *key.shape):
            raise StoreError(
                f"{table.source} {key.path}: expected {key.dtype} {(n_rows, *key.shape)}, "
                f"got {rows.dtype} {rows.shape}; the stream's configuration and its data disagree"
            )


def _checked_order(train_ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    n = len(train_ids)
    if n > 1 and np.logical_or.reduce(train_ids[1:] < train_ids[:-1]):
        raise StoreError(
            "train ids decrease within one append; append one run of non-decreasing trains at a time"
        )
    if n and not 0 < int(train_ids[0]) <= int(train_ids[-1]) < 1 << 63:
        raise StoreError(
            f"train ids {train_ids[0]} to {train_ids[-1]}: expected 1 to 2**63 - 1; "
            "0 marks an empty index entry"
        )
    return train_ids
