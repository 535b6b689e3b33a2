"""Packed results to named columns.

A network gives one float32 matrix [n, R]: all columns of all bundles side by side, so that one download
brings everything. Integer columns hold small integers exactly; they get their own dtype where they leave us.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import Column

Array = npt.NDArray[Any]

# Fail-open events have no result; an integer column says so with the value of its dtype in NO_INTEGER.
NO_INTEGER = {"uint32": np.uint32(2**32 - 1), "int32": np.int32(-(2**31))}


def split(packed: npt.NDArray[np.float32], columns: Sequence[Column]) -> dict[str, Array]:
    """Views of `packed` [n, R] by name: [n] for a scalar column, [n, width] for a vector; all float32."""
    views: dict[str, Array] = {}
    start = 0
    for column in columns:
        stop = start + column.width
        views[column.name] = packed[:, start:stop] if column.labels else packed[:, start]
        start = stop
    return views


def typed(views: dict[str, Array], columns: Sequence[Column]) -> dict[str, Array]:
    """The same with each column's own dtype, contiguous. A missing integer (NaN) becomes its NO_INTEGER."""
    return {column.name: _as(views[column.name], column.dtype) for column in columns}


def _as(values: Array, dtype: str) -> Array:
    if dtype == "float32":
        return np.ascontiguousarray(values)
    known = np.isfinite(values)
    if np.logical_and.reduce(known):
        return values.astype(dtype)
    return np.where(known, np.where(known, values, 0).astype(dtype), NO_INTEGER[dtype])
