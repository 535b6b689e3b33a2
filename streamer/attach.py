"""Scalars of other sources that go with the events of a train: a pulse energy, a motor position.

A scalar holds for all events of the train, a vector for one event after the other; what did not come is NaN,
and the event says so in its flags. Pure, like `assemble`, which calls it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.errors import FLAG_ATTACH_MISSING
from streamer.wire.types import Array, SourceData, Train


@dataclass(frozen=True, slots=True)
class Attach:
    """A scalar of another source that goes with each event, under `name`."""

    name: str
    source: str
    key: str


def attached(
    train: Train, attach: tuple[Attach, ...], n: int, rows: NDArray[np.intp] | None, flags: NDArray[np.uint32]
) -> NDArray[np.float64]:
    """The attached scalars, [n, len(attach)]; flags the events where one did not come.

    `rows` [n] as in `align.Aligned`: with -1 in it a vector cannot be placed; a scalar still holds.
    """
    if not attach:
        return np.empty((n, 0))
    needed = n if rows is None or not n else int(rows.max()) + 1
    placed = rows is None or not n or int(rows.min()) >= 0
    values_nk = np.full((n, len(attach)), np.nan)
    for column, one in enumerate(attach):
        values = _numbers(train.sources.get(one.source), one.key)
        unfit = values is not None and values.ndim > 0 and not (placed and len(values) >= needed)
        if values is None or values.ndim > 1 or unfit:
            flags |= np.uint32(FLAG_ATTACH_MISSING)
        elif values.ndim == 0:
            values_nk[:, column] = values
        else:
            values_nk[:, column] = values[:n] if rows is None else values[rows]
    return values_nk


def _numbers(data: SourceData | None, key: str) -> Array | None:
    """A scalar (0-d) or a vector of numbers; None if it did not come or is something else."""
    if data is None:
        return None
    if key in data.arrays:
        return data.arrays[key]
    value = data.values.get(key)
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (bool, int, float)) for item in items):
        return None
    numbers = np.array(items, np.float64)
    return numbers if isinstance(value, list) else numbers.reshape(())
