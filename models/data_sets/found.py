"""Events that lie in files, found but not yet read, and the reading of rows from HDF5.

Owns what all layouts share. Which layouts there are: `models.data_sets.layouts`; how a file is opened with
care: `models.data_sets.hdf5`.

N events, L labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from models.data_sets.hdf5 import open_hdf5
from models.manifest import ModelError

Array = NDArray[Any]
Rows = NDArray[np.int64]
Ids = NDArray[np.uint64]

# At once: over an hour of the fastest detector (3520 images a second). Ids and names of them take some GB.
MAX_EVENTS: Final = 1 << 24
ID_LIMIT: Final = 2**63  # ids are kept as int64
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


@dataclass(frozen=True)
class Piece:
    """Events of one dataset: `rows` of its first axis, the first so many (a number), or the whole dataset as
    one event (None)."""

    path: Path
    dataset: str
    rows: Rows | int | None

    def __len__(self) -> int:
        if self.rows is None:
            return 1
        return self.rows if isinstance(self.rows, int) else len(self.rows)

    def at(self, places: Rows) -> Rows:
        """Rows of the dataset."""
        if self.rows is None or isinstance(self.rows, int):
            return places
        rows: Rows = self.rows[places]
        return rows


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
        wanted = piece.at(rows)
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) != 1) + 1):
            out[mine[run[0]] : mine[run[-1]] + 1] = dataset[wanted[run[0]] : wanted[run[-1]] + 1]
    except OSError as error:
        raise ModelError(
            f"events {piece.path}, {piece.dataset}: not readable: {error}; {_UNREADABLE}"
        ) from error


def check_count(count: int, what: str) -> None:
    """Raises ModelError if there are more events than can be named."""
    if count > MAX_EVENTS:
        raise ModelError(
            f"events {what}: expected at most {MAX_EVENTS} at once, got {count}; give fewer files, or name "
            "fewer by a column index in the labels and leave the others out with --labelled-only"
        )


def check_ids_form(shape: tuple[int, ...] | None, dtype: np.dtype[Any], count: int, what: str) -> None:
    """Before ids are read: one whole number an event. Raises ModelError."""
    check_count(count, what)
    size = -1 if shape is None else int(np.prod(shape, dtype=object))
    if dtype.kind not in "iu" or size != count:
        raise ModelError(
            f"{what}: expected {count} whole numbers, one an event, got {dtype} {shape}; write them "
            "again, or take them out of the file"
        )


def as_ids(values: Array, what: str) -> Ids:
    """Raises ModelError for numbers that are no ids."""
    if values.size and (int(values.min()) < 0 or int(values.max()) >= ID_LIMIT):
        raise ModelError(
            f"{what}: expected ids from 0 to {ID_LIMIT - 1}, got {int(values.min())} to {int(values.max())}; "
            "correct them, or take them out of the file"
        )
    return values.ravel().astype(np.uint64)


def may_be(shape: tuple[int, ...], event_shape: tuple[int, ...] | None) -> bool:
    return len(shape) >= 2 if event_shape is None else shape[1:] == tuple(event_shape)


def meant(event_shape: tuple[int, ...] | None) -> str:
    return "[events, ...]" if event_shape is None else f"[events, {', '.join(map(str, event_shape))}]"
