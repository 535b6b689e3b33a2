"""Plain recordings as trains: datasets of HDF5 files, arrays of npz archives.

Owns the cutting of rows into trains. A row is one event or one train; the user names the datasets and the
source and key that each becomes. The files are not trusted, see `recordings`.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np

from streamer.errors import ConfigError
from streamer.facility.recordings import (
    MAX_TRAIN_BYTES,
    Array,
    RecordedTrain,
    Values,
    check_dataset,
    open_file,
    row_bytes,
)

# One array of an npz archive is unpacked as a whole.
MAX_NPZ_ARRAY_BYTES: Final = 8 * 1024**3


@dataclass(frozen=True)
class Column:
    """A dataset of a file and the source and key that it becomes."""

    dataset: str
    source: str
    key: str


def parse_column(text: str) -> Column:
    """`dataset=SOURCE[key]`. Raises ConfigError."""
    dataset, equals, target = text.partition("=")
    source, bracket, key = target.removesuffix("]").partition("[")
    if not (dataset and equals and source and bracket and key and target.endswith("]")):
        raise ConfigError(
            f"dataset {text!r}: expected DATASET=SOURCE[key], as in data=CAM:output[image.data]"
        )
    return Column(dataset, source, key)


@dataclass(frozen=True)
class TableOptions:
    """How rows of plain arrays become trains."""

    columns: tuple[Column, ...]
    # What a row is: one event, or all events of one train.
    axis: Literal["event", "train"] = "event"
    # Events in a train; the last train may have fewer. Without meaning where there are train ids.
    pulses: int = 1
    # Dataset with the train id of each row; empty: trains are numbered.
    train_ids: str = ""


class TableRecording:
    """Datasets of one HDF5 file or npz archive, with one row per event or per train."""

    def __init__(self, path: Path, options: TableOptions) -> None:
        """Raises ConfigError: file or dataset missing, lengths that differ, ids that go back."""
        if not options.columns:
            raise ConfigError(
                f"{path}: say what its datasets become, DATASET=SOURCE[key]; it has {_list(path)}"
            )
        self._options = options
        self._file = None if path.suffix == ".npz" else open_file(path)
        names = [column.dataset for column in options.columns]
        wanted = {*names, options.train_ids} - {""}
        if self._file is None:
            arrays = _load_npz(path, wanted)
        else:
            arrays = {name: _find_dataset(self._file, name) for name in wanted}
        self._rows = _common_length(path, arrays)
        ids = np.asarray(arrays[options.train_ids][:]) if options.train_ids else None
        self._bounds = self._find_bounds(path, ids)
        self._ids = None if ids is None else [int(ids[start]) for start in self._bounds[:-1]]
        self._columns = [(column, arrays[column.dataset]) for column in options.columns]
        longest = int(np.diff(self._bounds).max(initial=0))
        self.train_bytes = longest * sum(row_bytes(array) for _, array in self._columns)
        if self.train_bytes > MAX_TRAIN_BYTES:
            raise ConfigError(f"{path}: {self.train_bytes} bytes in a train, the limit is {MAX_TRAIN_BYTES}")

    def _find_bounds(self, path: Path, ids: Array | None) -> Array:
        """Rows at which trains begin, and the end."""
        if ids is None:
            pulses = 1 if self._options.axis == "train" else self._options.pulses
            return np.append(np.arange(0, self._rows, pulses), self._rows)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or np.any(ids[1:] < ids[:-1]) or np.any(ids < 0):
            raise ConfigError(f"{path}: {self._options.train_ids}: expected one growing integer per row")
        return np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1, [self._rows]])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def train(self, place: int) -> RecordedTrain:
        start, end = int(self._bounds[place]), int(self._bounds[place + 1])
        values: Values = {}
        for column, array in self._columns:
            data = array[start] if self._options.axis == "train" else array[start:end]
            keys = values.setdefault(column.source, {})
            keys[column.key] = data
            if self._options.axis == "event":
                keys.setdefault(_beside(column.key, "pulseId"), np.arange(end - start, dtype=np.uint64))
        return RecordedTrain(None if self._ids is None else self._ids[place], 0, values)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _beside(key: str, name: str) -> str:
    return ".".join([*key.split(".")[:-1], name])


def _common_length(path: Path, arrays: dict[str, Any]) -> int:
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        told = ", ".join(f"{name} {arrays[name].shape}" for name in lengths)
        raise ConfigError(f"{path}: datasets must have the same number of rows, at least one; got {told}")
    return next(iter(lengths.values()))


def _find_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    item = file.get(name)
    if not isinstance(item, h5py.Dataset):
        raise ConfigError(f"{file.filename}: no dataset {name!r}; it has {_list(Path(file.filename))}")
    check_dataset(item, file)
    return item


def _load_npz(path: Path, names: set[str]) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _load_array(path, archive, name) for name in sorted(names)}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _load_array(path: Path, archive: Any, name: str) -> Array:
    if name not in archive.files:
        raise ConfigError(f"{path}: no dataset {name!r}; it has {', '.join(archive.files)}")
    size_bytes = archive.zip.getinfo(f"{name}.npy").file_size
    if size_bytes > MAX_NPZ_ARRAY_BYTES:
        raise ConfigError(f"{path}: {name} has {size_bytes} bytes, the limit is {MAX_NPZ_ARRAY_BYTES}")
    array: Array = archive[name]
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{path}: {name}: expected numbers, got {array.dtype}")
    return np.ascontiguousarray(array)


def _list(path: Path) -> str:
    """The datasets of a file, for messages."""
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
        except (OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
    else:
        names = []
        with open_file(path) as file:
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "") or "none"
