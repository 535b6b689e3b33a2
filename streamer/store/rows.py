"""The events of one append as buffers to write: views of the caller's memory wherever they are contiguous."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreError
from streamer.store.disk import runs
from streamer.store.spec import SeriesSpec, TableSpec

Rows = Sequence[Sequence[NDArray[Any]]]

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
        self._arrays: list[NDArray[Any]] = []
        for table, given in zip(spec.tables, rows, strict=True):
            arrays = [*given, *[by_name[name] for name in table.id_names]]
            _check_rows(table, arrays, len(ids[0]))
            self._arrays += arrays
        self._index = None if select is None else np.asarray(select, np.intp)
        self.train_ids = _checked_order(ids[0] if self._index is None else ids[0][self._index])

    def buffers(self, start: int, stop: int) -> list[list[NDArray[Any]]]:
        """For each dataset, in the order of `exdf.row_datasets`, the selected events start..stop."""
        if self._index is None:
            whole = slice(start, stop)
            return [[np.ascontiguousarray(array[whole])] for array in self._arrays]
        index = self._index[start:stop]
        return [buffers(array, index) for array in self._arrays]


def buffers(rows: NDArray[Any], index: NDArray[np.intp]) -> list[NDArray[Any]]:
    """The rows at increasing positions `index` as few contiguous buffers: views, unless rows are small or
    scattered.
    """
    if rows.flags.c_contiguous and index[-1] - index[0] == len(index) - 1:
        return [rows[index[0] : index[-1] + 1]]
    row = rows[0]
    if row.nbytes > _GATHER_BYTES and row.flags.c_contiguous:
        whole = rows.flags.c_contiguous
        return [rows[part] for part in runs(index)] if whole else [rows[i] for i in index.tolist()]
    return [np.ascontiguousarray(rows[index])]


def _check_tables(spec: SeriesSpec, rows: Rows) -> None:
    expected = [len(table.keys) for table in spec.tables]
    got = [len(arrays) for arrays in rows]
    if expected != got:
        raise StoreError(f"file series {spec.name!r}: expected {expected} arrays per table, got {got}")


def _check_rows(table: TableSpec, arrays: list[NDArray[Any]], n: int) -> None:
    for key, rows in zip((*table.keys, *table.id_keys), arrays, strict=True):
        if rows.dtype != key.dtype or rows.shape != (n, *key.shape):
            raise StoreError(
                f"{table.source} {key.path}: expected {key.dtype} {(n, *key.shape)}, "
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
