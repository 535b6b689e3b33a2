"""The events of one append as buffers to write: views of the caller's memory wherever they are contiguous."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import StoreError
from streamer.store.disk import runs
from streamer.store.spec import KeySpec, SeriesSpec, TableSpec

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
        n = len(ids[0])
        self._index = np.arange(n) if select is None else np.asarray(select, np.intp)
        _check_tables(spec, rows)
        self._arrays: list[NDArray[Any]] = []
        for table, arrays in zip(spec.tables, rows, strict=True):
            self._arrays += [_checked(table, *pair, n) for pair in zip(table.keys, arrays, strict=True)]
            own = {"trainId": ids[0], "pulseId": ids[1]}
            self._arrays += [_checked(table, key, own[key.path.split(".")[1]], n) for key in table.id_keys]
        self.train_ids = _checked_order(ids[0][self._index])

    def buffers(self, start: int, stop: int) -> Iterator[list[NDArray[Any]]]:
        """For each dataset, in the order of `exdf.row_datasets`, the selected events start..stop."""
        index = self._index[start:stop]
        for array in self._arrays:
            yield buffers(array, index)


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


def _checked(table: TableSpec, key: KeySpec, rows: NDArray[Any], n: int) -> NDArray[Any]:
    if rows.dtype != key.dtype or rows.shape != (n, *key.shape):
        raise StoreError(
            f"{table.source} {key.path}: expected {key.dtype} {(n, *key.shape)}, "
            f"got {rows.dtype} {rows.shape}; the stream's configuration and its data disagree"
        )
    return rows


def _checked_order(train_ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    if len(train_ids) and (train_ids[0] == 0 or train_ids.max() >= 1 << 63):
        raise StoreError(
            f"train ids {train_ids.min()} to {train_ids.max()}: expected 1 to 2**63 - 1; "
            "0 marks an empty index entry"
        )
    if (train_ids[1:] < train_ids[:-1]).any():
        raise StoreError(
            "train ids decrease within one append; append one run of non-decreasing trains at a time"
        )
    return train_ids
