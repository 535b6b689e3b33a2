"""Events that lie in files, found but not yet read, and the reading of rows from HDF5.

Owns what all layouts share. Which layouts there are: `models.data_sets.layouts`.

N events, L labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Array = NDArray[Any]
Rows = NDArray[np.int64]
Ids = NDArray[np.uint64]

SHOWN: Final = 20  # datasets in a message: what a terminal shows at a glance
_UNREADABLE: Final = (
    "if the file is whole, a compression filter is missing: `pip install hdf5plugin` and import it, "
    "or write the file again with `h5repack -f NONE`"
)


@dataclass(frozen=True)
class Where:
    """What the user said: a path, and by need a dataset (or array) of it, or an instrument source and key."""

    path: Path
    dataset: str = ""
    source: str = ""
    key: str = ""


@dataclass(frozen=True)
class Found:
    """N events that can be read.

    train_id, pulse_id: uint64 [N], or None where the file has none. targets: [N, L] if the file holds labels.
    """

    what: str
    event_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    count: int
    read: Callable[[Rows], Array]
    train_id: Ids | None = None
    pulse_id: Ids | None = None
    targets: Array | None = None
    partly: bool = True  # `read` takes no more memory than what it gives


def open_hdf5(path: Path) -> h5py.File:
    """Raises ModelError if it is no readable HDF5 file."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ModelError(
            f"events {path}: expected an HDF5 or .npz file, got: {error}; give one, or copy it again"
        ) from error


@dataclass(frozen=True)
class Piece:
    """Events of one dataset: `rows` of its first axis, or the whole dataset as one event (None)."""

    path: Path
    dataset: str
    rows: Rows | None

    def __len__(self) -> int:
        return 1 if self.rows is None else len(self.rows)


def read_pieces(
    pieces: Sequence[Piece], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[Rows], Array]:
    """A reader of ascending rows, counted through all pieces."""
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])

    def read(rows: Rows) -> Array:
        out = np.empty((len(rows), *shape), dtype)
        of_piece = np.searchsorted(starts, rows, side="right") - 1
        file: h5py.File | None = None
        try:
            for index in np.unique(of_piece):
                piece, mine = pieces[index], np.flatnonzero(of_piece == index)
                if file is None or Path(file.filename) != piece.path:
                    if file is not None:
                        file.close()
                    file = open_hdf5(piece.path)
                _fill(out, mine, file[piece.dataset], piece, rows[mine] - starts[index])
        finally:
            if file is not None:
                file.close()
        return out

    return read


def _fill(out: Array, mine: Rows, dataset: h5py.Dataset, piece: Piece, rows: Rows) -> None:
    """Read into the rows `mine` of `out`, a run of neighbours at a time: HDF5 is slow with lists of rows."""
    try:
        if piece.rows is None:
            out[mine[0]] = dataset[()]
            return
        wanted = piece.rows[rows]
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) != 1) + 1):
            out[mine[run[0]] : mine[run[-1]] + 1] = dataset[wanted[run[0]] : wanted[run[-1]] + 1]
    except OSError as error:
        raise ModelError(
            f"events {piece.path}, {piece.dataset}: not readable: {error}; {_UNREADABLE}"
        ) from error


def may_be(shape: tuple[int, ...], event_shape: tuple[int, ...] | None) -> bool:
    return len(shape) >= 2 if event_shape is None else shape[1:] == tuple(event_shape)


def meant(event_shape: tuple[int, ...] | None) -> str:
    return "[events, ...]" if event_shape is None else f"[events, {', '.join(map(str, event_shape))}]"


def datasets(group: h5py.Group) -> list[tuple[str, h5py.Dataset]]:
    """Every dataset of numbers below a group, by its path from there."""
    found: list[tuple[str, h5py.Dataset]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and item.ndim >= 1:
            found.append((name, item))

    group.visititems(visit)
    return found


def contents(group: h5py.Group) -> str:
    """The largest datasets with shape and type, for a message."""
    largest = sorted(datasets(group), key=lambda pair: -pair[1].size)
    return ", ".join(f"{name} {shape_text(dataset)}" for name, dataset in largest[:SHOWN]) or "no datasets"


def shape_text(dataset: h5py.Dataset) -> str:
    return f"{dataset.dtype} {list(dataset.shape)}"
