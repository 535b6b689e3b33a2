"""What a file series holds: its tables, its segment size and what is known of the run.

Plain data; the format they become is in `exdf`, the writing in `series`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np

from streamer.errors import ConfigError

# The run number has four digits in a file name (EXtra-data, FileAccess.euxfel_filename_pattern).
_MAX_RUN = 9999
_U8 = np.dtype("<u8")


@dataclass(frozen=True)
class KeySpec:
    """One dataset with one entry per event: `path` like 'image.data', `shape` of one event."""

    path: str
    dtype: np.dtype
    shape: tuple[int, ...] = ()

    @property
    def group(self) -> str:
        """The index group: the first part of the path."""
        return self.path.split(".", 1)[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one event."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class TableSpec:
    """The keys of one instrument source, e.g. 'SPB_DET_AGIPD1M-1/CORR/0CH0:output'."""

    source: str
    keys: tuple[KeySpec, ...]

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Index groups in order of first appearance."""
        return tuple(dict.fromkeys(key.group for key in self.keys))

    @cached_property
    def id_keys(self) -> tuple[KeySpec, ...]:
        """The keys <group>.trainId and <group>.pulseId that are not given."""
        given = {key.path for key in self.keys}
        ids = [KeySpec(f"{group}.{name}", _U8) for group in self.groups for name in ("trainId", "pulseId")]
        return tuple(key for key in ids if key.path not in given)

    @cached_property
    def id_names(self) -> tuple[str, ...]:
        """Of each of `id_keys`: trainId or pulseId."""
        return tuple(key.path.rpartition(".")[2] for key in self.id_keys)


@dataclass(frozen=True)
class SeriesSpec:
    """One file series. Every table has one row per event and the same index.

    `rows` is the number of events, `trains` the number of index entries that one segment file holds.
    Raises ConfigError if this cannot be written.
    """

    name: str
    directory: Path
    tables: tuple[TableSpec, ...]
    rows: int
    trains: int

    def __post_init__(self) -> None:
        """Refuse what HDF5 or EXtra-data could not hold, all problems in one message."""
        problems = [*_size_problems(self), *_table_problems(self.tables)]
        if problems:
            raise ConfigError(f"file series {self.name!r}: " + "; ".join(problems))


@dataclass(frozen=True)
class RunInfo:
    """What METADATA and RUN say. `created` ('YYYYMMDDThhmmssZ', UTC) names the start of the run: it stays the
    same over restarts of a process and tells the files of this start from those of an earlier one.

    `run_values`: device -> property -> value, read back by EXtra-data's `get_run_values(device)`.
    Each series of a run needs devices of its own (`exdf.config_device`).
    """

    proposal: int
    run: int
    created: str
    run_values: Mapping[str, Mapping[str, str | int | float]]
    sample: str = ""

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit the format. Raises ConfigError."""
        if not 0 <= self.run <= _MAX_RUN:
            raise ConfigError(f"run number {self.run}: expected 0 to {_MAX_RUN}, file names have four digits")
        if not 0 <= self.proposal < 2**32:
            raise ConfigError(f"proposal number {self.proposal}: expected 0 to {2**32 - 1}")
        if not re.fullmatch(r"\d{8}T\d{6}Z", self.created):
            raise ConfigError(f"created {self.created!r}: expected UTC as 'YYYYMMDDThhmmssZ'")


def _size_problems(spec: SeriesSpec) -> list[str]:
    problems = []
    if spec.rows < 1 or spec.trains < 1:
        problems.append(f"a segment needs at least 1 row and 1 train, got {spec.rows} and {spec.trains}")
    if not re.search(r"\w", spec.name):
        problems.append("the name needs at least one letter or digit, it becomes part of the file names")
    if not spec.tables:
        problems.append("no tables")
    return problems


def _table_problems(tables: tuple[TableSpec, ...]) -> list[str]:
    problems = []
    paths = [(table.source, key.path) for table in tables for key in table.keys]
    if len(set(paths)) != len(paths):
        problems.append(f"a key is given twice among {paths}")
    for table in tables:
        if ":" not in table.source:
            problems.append(f"source {table.source!r}: expected '<device>:<channel>'")
        if not table.keys:
            problems.append(f"source {table.source!r} has no keys")
        problems += [
            f"{table.source} {key.path!r}: expected '<group>.<key>'"
            for key in table.keys
            if not re.fullmatch(r"\w+(\.\w+)+", key.path)
        ]
        problems += [
            f"{table.source} {key.path}: dtype {key.dtype} cannot be stored as raw bytes; use numbers"
            for key in table.keys
            if key.dtype.kind not in "biuf" or key.row_bytes == 0
        ]
    return problems
