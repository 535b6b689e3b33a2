"""Recorded runs of the European XFEL as trains, and what all recordings have in common.

Owns the reading of the run format; knows no socket and no time. It is the format that EXtra-data reads
(European-XFEL/EXtra-data, `file_access.py`), here with plain h5py: INDEX says which entries of a source
belong to a train. Plain files are read in `tables`.

Files are not trusted: only numbers are read, from datasets that lie in the file itself, without plugins and
without pickle, and sizes are checked before memory is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError

Array = NDArray[Any]
Values = dict[str, dict[str, Any]]

# One train of one source: the full 1 Mpx detector with 352 pulses in float32 is 1.5 GB.
MAX_TRAIN_BYTES: Final = 4 * 1024**3
# One chunk is unpacked as a whole; the largest seen are some frames of a detector.
MAX_CHUNK_BYTES: Final = 1024**3


@dataclass(frozen=True, slots=True)
class RecordedTrain:
    """`train_id` None: the file has none. `time_ns` since 1970, 0 if the file has none."""

    train_id: int | None
    time_ns: int
    values: Values


class Recording(Protocol):
    """Trains of one recording, by their place."""

    # Largest size of a train.
    train_bytes: int

    def __len__(self) -> int: ...

    def train(self, place: int) -> RecordedTrain: ...

    def close(self) -> None: ...


def open_file(path: Path) -> h5py.File:
    """Open HDF5 for reading, with no plugin path left in this process. Raises ConfigError."""
    while h5py.h5pl.size():
        h5py.h5pl.remove(0)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}. Is it a complete HDF5 file?") from error


def is_run_file(file: h5py.File) -> bool:
    return "METADATA" in file and "INDEX/trainId" in file


def check_dataset(dataset: h5py.Dataset, file: h5py.File) -> None:
    """Refuse what reads other files or takes unreasonable memory."""
    where = f"{file.filename}: dataset {dataset.name}"
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise ConfigError(f"{where} lies in another file; copy it into this one")
    if dataset.dtype.kind not in "biuf":
        raise ConfigError(f"{where}: expected numbers, got {dataset.dtype}")
    chunk_bytes = int(np.prod(dataset.chunks or (0,), dtype=object)) * dataset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise ConfigError(f"{where}: chunks of {chunk_bytes} bytes, the limit is {MAX_CHUNK_BYTES}")


def row_bytes(array: h5py.Dataset | Array) -> int:
    return int(np.prod(array.shape[1:], dtype=object)) * array.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Entries:
    """One key group of a source in one file: entries first[k] .. first[k] + count[k] belong to train k."""

    first: Array
    count: Array
    datasets: dict[str, h5py.Dataset]


class _RunFile:
    """One file of a run. `sources[source]` lists its groups; train ids are those of the file's index."""

    def __init__(self, path: Path, select: Sequence[str]) -> None:
        self.file = open_file(path)
        if not is_run_file(self.file):
            raise ConfigError(f"{path} is not a run file: it has no METADATA or no INDEX/trainId")
        ids = self._index("INDEX/trainId")
        self.places = {int(train_id): place for place, train_id in enumerate(ids) if train_id}
        self.trains = len(ids)
        self.times_ns = self._index("INDEX/timestamp") if "INDEX/timestamp" in self.file else None
        self.sources = dict(self._sources(select))

    def _index(self, name: str) -> Array:
        dataset = self.file[name]
        check_dataset(dataset, self.file)
        if dataset.ndim != 1 or dataset.nbytes > MAX_CHUNK_BYTES:
            raise ConfigError(f"{self.file.filename}: {name}: expected one number per train")
        values: Array = dataset[:]
        return values

    def _source_ids(self) -> Iterator[tuple[str, str]]:
        """(category, source) of each entry in the list of sources."""
        for name in ("METADATA/dataSources/dataSourceId", "METADATA/dataSourceId"):  # since 1.0; 0.5
            if name in self.file:
                seen = dict.fromkeys(text.decode() for text in self.file[name][:] if text)
                yield from {_source_of(text): None for text in seen}
                return
        raise ConfigError(f"{self.file.filename}: METADATA has no dataSourceId")

    def _sources(self, select: Sequence[str]) -> Iterator[tuple[str, list[_Entries]]]:
        for category, source in self._source_ids():
            if category not in ("INSTRUMENT", "CONTROL") or (not select and category == "CONTROL"):
                continue
            if not select or any(_matches(pattern, source, None) for pattern in select):
                yield source, list(self._entries(category, source, select))

    def _entries(self, category: str, source: str, select: Sequence[str]) -> Iterator[_Entries]:
        root = self.file.get(f"{category}/{source}")
        if not isinstance(root, h5py.Group):
            return
        groups = [""] if category == "CONTROL" else list(self.file.get(f"INDEX/{source}", ()))
        for group in groups:
            datasets = {
                key: dataset
                for key, dataset in _numbers(self.file, root.get(group) if group else root, group)
                if not select or any(_matches(pattern, source, key) for pattern in select)
            }
            first, count = self._first_count(f"INDEX/{source}/{group}".rstrip("/"))
            self._check(source, first, count, datasets)
            yield _Entries(first, count, datasets)

    def _first_count(self, name: str) -> tuple[Array, Array]:
        first = self._index(f"{name}/first")[: self.trains]
        if f"{name}/count" in self.file:
            return first, self._index(f"{name}/count")[: self.trains]
        # Format 0.5 has the last entry, and a status of 0 where there is none.
        last, status = self._index(f"{name}/last"), self._index(f"{name}/status")
        return first, ((last[: self.trains] - first + 1) * (status[: self.trains] != 0)).astype(np.uint64)

    def _check(self, source: str, first: Array, count: Array, datasets: dict[str, h5py.Dataset]) -> None:
        for key, dataset in datasets.items():
            rows = len(dataset)
            used = count > 0
            if np.any(count > rows) or np.any(first[used] > rows - count[used]):
                raise ConfigError(
                    f"{self.file.filename}: the index of {source} points past the {rows} entries of {key}; "
                    "the file is incomplete"
                )
            train_bytes = int(count.max(initial=0)) * row_bytes(dataset)
            if train_bytes > MAX_TRAIN_BYTES:
                raise ConfigError(f"{source}[{key}]: {train_bytes} bytes in a train, limit {MAX_TRAIN_BYTES}")

    def train_bytes(self) -> int:
        entries = [entry for group in self.sources.values() for entry in group]
        return sum(
            int(entry.count.max(initial=0)) * row_bytes(dataset)
            for entry in entries
            for dataset in entry.datasets.values()
        )


def _source_of(source_id: str) -> tuple[str, str]:
    """'INSTRUMENT/<device>:<pipeline>/<group>' or 'CONTROL/<device>' to category and source."""
    category, _, name = source_id.partition("/")
    device, colon, pipeline = name.partition(":")
    return category, device + colon + pipeline.partition("/")[0]


def _matches(pattern: str, source: str, key: str | None) -> bool:
    """Whether `source` or `source[key]`, with * and ?, names this source and key (None: any key)."""
    source_pattern, _, key_pattern = pattern.removesuffix("]").partition("[")
    return fnmatchcase(source, source_pattern) and (
        key is None or not key_pattern or fnmatchcase(key, key_pattern)
    )


def _numbers(file: h5py.File, group: Any, prefix: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Keys and datasets of numbers below a group; texts and links to other files are passed over."""
    if not isinstance(group, h5py.Group):
        return
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            continue
        item, key = group[name], f"{prefix}.{name}".lstrip(".")
        if isinstance(item, h5py.Group):
            yield from _numbers(file, item, key)
        elif item.dtype.kind in "biuf" and item.ndim:
            check_dataset(item, file)
            yield key, item


class RunRecording:
    """A run of the European XFEL: all trains of its files, those without data included."""

    def __init__(
        self, paths: Sequence[Path], select: Sequence[str] = (), keep_first_axis: bool = False
    ) -> None:
        """`select`: 'source' or 'source[key]', * and ? allowed; none: all INSTRUMENT sources.

        Values that come once per train lose their first axis, as they do in a live stream, unless
        `keep_first_axis`; what has pulse ids keeps it. Raises ConfigError.
        """
        self._files = [_RunFile(path, select) for path in paths]
        self._ids = sorted({train_id for file in self._files for train_id in file.places})
        self._names = sorted({source for file in self._files for source in file.sources})
        if not self._names:
            wanted = f"that match {', '.join(select)}" if select else "under INSTRUMENT"
            raise ConfigError(f"{paths[0].parent}: no sources {wanted}")
        self._once = set() if keep_first_axis else self._find_once()
        self.train_bytes = sum(file.train_bytes() for file in self._files)

    def _find_once(self) -> set[tuple[str, str]]:
        """(source, key) of what has at most one entry in every train."""
        once: dict[tuple[str, str], bool] = {}
        for file in self._files:
            for source, groups in file.sources.items():
                for entries in groups:
                    single = entries.count.max(initial=0) <= 1
                    pulses = any(key.endswith("pulseId") for key in entries.datasets)
                    for key in entries.datasets:
                        once[source, key] = once.get((source, key), True) and single and not pulses
        return {name for name, is_once in once.items() if is_once}

    def __len__(self) -> int:
        return len(self._ids)

    def train(self, place: int) -> RecordedTrain:
        train_id, time_ns = self._ids[place], 0
        values: Values = {source: {} for source in self._names}
        for file in self._files:
            row = file.places.get(train_id)
            if row is None:
                continue
            if file.times_ns is not None:
                time_ns = time_ns or int(file.times_ns[row])
            for source, groups in file.sources.items():
                for entries in groups:
                    values[source].update(self._read(source, entries, row))
        return RecordedTrain(train_id, time_ns, values)

    def _read(self, source: str, entries: _Entries, row: int) -> Iterator[tuple[str, Any]]:
        first, count = int(entries.first[row]), int(entries.count[row])
        for key, dataset in entries.datasets.items():
            if count and (source, key) in self._once:
                yield key, dataset[first]
            elif count:
                yield key, dataset[first : first + count]

    def close(self) -> None:
        for file in self._files:
            file.file.close()
