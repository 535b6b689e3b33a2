"""The files of one stream: which series there are, and which events go where.

Owns the shape of a run's folder; the files themselves are `store`'s.

    <directory>/r0007/                    results of every event, kept or not
    <directory>/r0007/<stream>/<route>/   kept events: frames under their own source name, and results
    <directory>/r0007/<stream>/failopen/  the same for events kept because no model answered

Every folder opens with EXtra-data's RunDirectory. A file holds the results of one version of the stream:
its bundles, its rules and the whole configuration, stand in its RUN section.
"""

import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

import streamer
from streamer.errors import ConfigError, DiskFullError, StoreError
from streamer.log import Repeated
from streamer.plan import (
    FIXED_COLUMNS,
    StageSpec,
    Version,
    attached_names,
    columns_of,
    make_router,
    route_names,
)
from streamer.store.exdf import results_source
from streamer.store.rows import Picked, Rows
from streamer.store.series import Series
from streamer.store.spec import KeySpec, RunInfo, SeriesSpec, TableSpec

Array = npt.NDArray[Any]

FAILOPEN = "failopen"
# Making and closing a file costs as much as storing tens of thousands of events: one should hold many more.
# Results take some 100 bytes an event: as many as fit into a segment, within these bounds.
MIN_RESULT_ROWS, MAX_RESULT_ROWS = 1 << 17, 1 << 20
# Index entries of a file of results, one per train of 48 bytes: so many that unused ones are no waste.
ROWS_A_TRAIN = 8
# Of a file of frames, which has fewer rows if they are large.
MAX_TRAINS = 1 << 17


@dataclass(frozen=True)
class StoredBlock:
    """Events as the files take them: ids u8 [n], result columns [n] or [n, width] by name, and frames
    [m, *event] with the position of each event's in them (None: n frames, in order).
    """

    train_id: npt.NDArray[np.uint64]
    pulse_id: npt.NDArray[np.uint64]
    frames: Array
    columns: Mapping[str, Array]
    now_s: float
    frame_at: npt.NDArray[np.intp] | None = None


class Archive:
    """All file series of one stream, from `version` on (None: the first). `cursor` is int64 [series,
    CURSOR_INTS] in the sink's page.
    """

    def __init__(
        self, spec: StageSpec, cursor: npt.NDArray[np.int64], version: Version | None = None
    ) -> None:
        self.names = ["results", *route_names(spec.settings), FAILOPEN]
        self._spec, self._version = spec, version or spec.first_version
        self._rules_sha256 = make_router(spec, self._version).rules_sha256
        self._cursor = cursor.reshape(len(self.names), Series.CURSOR_INTS)
        self._results = _results_table(spec)
        self._columns = [name for name, _, _ in result_columns(spec)]
        self._modules = len(spec.settings.source.sources) > 1
        self._repeated = Repeated(logging.getLogger(__name__))
        reserve_bytes = spec.config.output.reserve_bytes
        self._series = [Series(self._series_spec(name), self._info(), reserve_bytes) for name in self.names]

    # --- what there is ------------------------------------------------------------------------------

    def _series_spec(self, name: str) -> SeriesSpec:
        output, stream = self._spec.config.output, self._spec.stream
        folder = output.directory / f"r{self._spec.config.run:04d}"
        if name == "results":
            fitting = output.segment_bytes // _row_bytes(self._results)
            rows = min(max(fitting, MIN_RESULT_ROWS), MAX_RESULT_ROWS)
            return SeriesSpec(f"{stream}_results", folder, (self._results,), rows, rows // ROWS_A_TRAIN)
        tables = (*_frame_tables(self._spec), self._results)
        row_bytes = sum(_row_bytes(table) for table in tables)
        # A segment holds at least one block, so that a block is spread over two files at most.
        rows = max(1, output.segment_bytes // row_bytes)
        return SeriesSpec(f"{stream}_{name}", folder / stream / name, tables, rows, min(rows, MAX_TRAINS))

    def _info(self) -> RunInfo:
        spec = self._spec
        return RunInfo(
            proposal=spec.config.proposal,
            run=spec.config.run,
            created=spec.created,
            run_values={f"{spec.stream}/STREAMER/RULES": self._run_values()},
        )

    def _run_values(self) -> dict[str, str | int | float]:
        spec, version = self._spec, self._version
        return {
            "softwareVersion": streamer.__version__,
            "bundleNames": " ".join(ref.name for ref in version.bundles),
            "bundleSha256": " ".join(ref.sha256 for ref in version.bundles),
            "rules": json.dumps([route.model_dump() for route in version.routes]),
            "rulesSha256": self._rules_sha256,
            "clusters": json.dumps(version.clusters),
            "configuration": spec.config.model_dump_json(),
        }

    # --- life ---------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Check before a run that its folders can be written and hold no other run. Raises ConfigError."""
        for series in self._series:
            series.prepare()

    def claim(self) -> None:
        """Make this run the only one of its number in this folder. Raises ConfigError if another has been.

        The mark stays: two runs at once, on whatever hosts, would write over each other's files.
        """
        output, stream = self._spec.config.output, self._spec.stream
        mark = output.directory / f"r{self._spec.config.run:04d}" / f".{stream}.run"
        try:
            with mark.open("x") as file:
                file.write(f"{platform.node()} {os.getpid()} {self._spec.created}\n")
        except FileExistsError as error:
            raise ConfigError(
                f"run {self._spec.config.run} in {output.directory} is another start's of stream {stream} "
                f"({mark.read_text().strip()}); choose another run number or directory"
            ) from error
        except OSError as error:
            raise ConfigError(f"output directory {mark.parent} cannot be used: {error.strerror}") from error

    def resume(self) -> None:
        """Bring the files to where the cursor says: at every start. Raises StoreError."""
        for series, cursor in zip(self._series, self._cursor, strict=True):
            series.resume(cursor)

    def set_version(self, version: Version) -> None:
        """From now on this version answers: other files, if bundles or rules are others."""
        old = self._version.bundles, self._rules_sha256
        self._version, self._rules_sha256 = version, make_router(self._spec, version).rules_sha256
        if old == (version.bundles, self._rules_sha256):
            return
        for name, series, cursor in zip(self.names, self._series, self._cursor, strict=True):
            try:
                series.roll(cursor, self._info())
            except StoreError as error:
                self._repeated.warn(name, f"files of the old model version are not closed: {error}")

    def close(self) -> None:
        """Bring every file to its final size. Raises StoreError, after trying them all."""
        errors = []
        for series, cursor in zip(self._series, self._cursor, strict=True):
            try:
                series.close(cursor)
            except StoreError as error:
                errors.append(str(error))
        if errors:
            raise StoreError("; ".join(errors))

    # --- events -------------------------------------------------------------------------------------

    def append(self, block: StoredBlock, where: npt.NDArray[np.int64]) -> dict[str, str]:
        """Store a block; `where` [n] is each event's series (index into `names`), 0 for none but the results.

        Gives {series name: reason of SHED_REASONS} for the series that could not take their events.
        """
        results = [block.columns[name] for name in self._columns]
        failed: dict[str, str] = {}
        self._append(0, block, [results], None, failed)
        counts = np.bincount(where, minlength=1).tolist()
        for index in [index for index, count in enumerate(counts) if index and count]:
            chosen = np.flatnonzero(where == index)
            self._append(index, block, [*self._frame_rows(block, chosen), results], chosen, failed)
        return failed

    def _append(
        self,
        index: int,
        block: StoredBlock,
        rows: Rows,
        select: npt.NDArray[np.intp] | None,
        failed: dict[str, str],
    ) -> None:
        try:
            self._series[index].append(
                self._cursor[index], block.train_id, block.pulse_id, rows, block.now_s, select
            )
        except StoreError as error:
            name = self.names[index]
            failed[name] = "disk_full" if isinstance(error, DiskFullError) else "store_error"
            self._repeated.warn(name, f"events of {name} are not stored: {error}")

    def _frame_rows(self, block: StoredBlock, chosen: npt.NDArray[np.intp]) -> list[list[Picked]]:
        """The frames of the chosen events, for each source."""
        at = chosen if block.frame_at is None else block.frame_at[chosen]
        if not self._modules:
            return [[Picked(block.frames, at)]]
        return [[Picked(block.frames[:, module], at)] for module in range(block.frames.shape[1])]


def result_columns(spec: StageSpec) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape per event) of everything that is known of an event, in the order of the files."""
    fixed = [(name, dtype, ()) for name, dtype in FIXED_COLUMNS]
    attached = [(name, "f8", ()) for name in attached_names(spec)]
    own = [(c.name, c.dtype, (c.width,) if c.labels else ()) for c in columns_of(spec)]
    return [*fixed, *attached, *own]


def _results_table(spec: StageSpec) -> TableSpec:
    keys = tuple(
        KeySpec(f"data.{name}", np.dtype(dtype), shape) for name, dtype, shape in result_columns(spec)
    )
    return TableSpec(results_source(spec.stream), keys)


def _frame_tables(spec: StageSpec) -> list[TableSpec]:
    """One table per source: modules that came as separate sources go out as separate sources."""
    source = spec.settings.source
    shape = tuple(source.shape)
    modules = len(source.sources) > 1
    key = KeySpec(_grouped(source.key), np.dtype(source.dtype), shape[1:] if modules else shape)
    return [TableSpec(_with_channel(name), (key,)) for name in source.sources]


def _with_channel(source: str) -> str:
    """EuXFEL files know per-pulse data only of pipeline sources, `device:channel`."""
    return source if ":" in source else f"{source}:output"


def _grouped(key: str) -> str:
    """The first part of a key is its index group; a key without one goes to `data`."""
    return key if "." in key else f"data.{key}"


def _row_bytes(table: TableSpec) -> int:
    return sum(prod(key.shape) * key.dtype.itemsize for key in table.keys) + 16  # train and pulse id
