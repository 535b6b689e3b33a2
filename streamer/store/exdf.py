"""The European XFEL HDF5 format, version 1.2, as a fixed layout: names, metadata, datasets and their file
offsets.

Creates files and tells where their bytes lie; writes no events. Format after EXtra-data
(European-XFEL/EXtra-data @ff368ed: file_access.py, validation.py, tests/mockdata), file positions after the
HDF5 File Format Specification 3.0.

All tables of a series have the same index, so their INDEX/<source>/<group>/{first,count} are hard links to
one pair of datasets: one write of `count` or `trainId` commits an event in every table at once.
"""

import errno
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from streamer import __version__
from streamer.store.spec import KeySpec, RunInfo, SeriesSpec

PREFIX = "CORR"  # data class of files that a pipeline derived from raw ones
PART = ".part"  # what is being built; readers look for names that end in .h5

U8 = np.dtype("<u8")
I4 = np.dtype("<i4")
# INDEX datasets with one entry per train, beside first and count of the tables.
INDEX_KEYS: Mapping[str, np.dtype] = {"trainId": U8, "timestamp": U8, "flag": I4, "origin": I4}

# Frames begin on a page, so that writes of whole frames touch no page twice.
_ALIGN_FROM_BYTES, _ALIGN_BYTES = 64 << 10, 4 << 10
# Object headers in few places instead of between the data.
_META_BLOCK_BYTES = 64 << 10

_LINKS = h5py.h5p.create(h5py.h5p.LINK_CREATE)
_LINKS.set_create_intermediate_group(True)


def results_source(stream: str) -> str:
    """The source under which a stream's results are stored, group 'data'."""
    return f"{stream}/STREAMER/RESULTS:output"


def aggregator(name: str) -> str:
    """A series name as file names carry it: upper case word characters."""
    return re.sub(r"\W", "", name).upper()


def file_name(name: str, run: int, lane: int, sequence: int) -> str:
    """E.g. 'CORR-R0056-STREAKS00-S00000.h5'."""
    return f"{PREFIX}-R{run:04d}-{aggregator(name)}{lane:02d}-S{sequence:05d}.h5"


def config_device(stream: str, series: str) -> str:
    """The device under which a series keeps its run values. Each series needs its own: EXtra-data takes a
    source with the same train in two files for a conflict.
    """
    return f"{stream}/STREAMER/{aggregator(series)}"


def file_pattern(name: str, run: int) -> re.Pattern[str]:
    """Matches every file of a series, groups lane and sequence, and its half-made files."""
    stem = re.escape(f"{PREFIX}-R{run:04d}-{aggregator(name)}")
    return re.compile(rf"{stem}(?P<lane>\d\d)-S(?P<sequence>\d{{5}})\.h5(?P<part>{re.escape(PART)})?")


@dataclass(frozen=True)
class Column:
    """Where one dataset lies in its file: `length` rows of `row_bytes` from `offset` on."""

    dtype: np.dtype
    shape: tuple[int, ...]
    length: int
    offset: int
    header: int  # address of the object header

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape) * self.dtype.itemsize


def key_path(source: str, path: str) -> str:
    """Path of a table's dataset."""
    return f"INSTRUMENT/{source}/{path.replace('.', '/')}"


def row_datasets(spec: SeriesSpec) -> Iterator[tuple[str, KeySpec]]:
    """Every dataset with one row per event: (path, key), table by table, given keys first."""
    for table in spec.tables:
        for key in (*table.keys, *table.id_keys):
            yield key_path(table.source, key.path), key


def segment_bytes(spec: SeriesSpec) -> int:
    """About how many bytes one full segment takes."""
    rows = sum(key.row_bytes for _, key in row_datasets(spec))
    index = sum(dtype.itemsize for dtype in INDEX_KEYS.values()) + 3 * U8.itemsize
    return spec.rows * rows + spec.trains * index + _META_BLOCK_BYTES


def utc_text(unix_s: float) -> str:
    """'YYYYMMDDThhmmssZ', the form of all times in METADATA."""
    return re.sub("[-:]", "", f"{np.datetime64(int(unix_s), 's')}Z")


def create(path: Path, spec: SeriesSpec, info: RunInfo, sequence: int, opened: str) -> None:
    """Build the file of one empty segment at `path`, with all of its datasets at full length, reading as
    zeros.

    `opened` as `utc_text` gives it. Raises OSError.
    """

    def fill(file: Any) -> None:
        _write_metadata(file, spec, info, sequence, opened)
        for name, dtype in INDEX_KEYS.items():
            add_dataset(file, f"INDEX/{name}", (spec.trains,), dtype)
        _write_table_indexes(file, spec)
        _write_devices(file, spec.trains, info.run_values)
        for name, key in row_datasets(spec):
            add_dataset(file, name, (spec.rows, *key.shape), key.dtype)

    build(path, fill)


def build(path: Path, fill: Callable[[Any], None]) -> None:
    """Create an HDF5 file of the oldest object format, which has no checksums and old readers know. Raises
    OSError.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_V18)
    access.set_alignment(_ALIGN_FROM_BYTES, _ALIGN_BYTES)
    access.set_meta_block_size(_META_BLOCK_BYTES)
    try:
        with h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, fapl=access)) as file:
            fill(file)
    except RuntimeError as error:  # what h5py makes of some failed writes
        raise OSError(errno.EIO, str(error)) from error


def add_dataset(file: Any, path: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """A contiguous dataset with its space in the file and nothing written to it."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(
        file.id, path.encode(), h5py.h5t.py_create(dtype, logical=True), space, plist, lcpl=_LINKS
    )


def data_links(file: Any) -> Iterator[tuple[str, Any]]:
    """Every name of a dataset below INDEX and INSTRUMENT; one with several names comes as often."""
    groups = [section for section in ("INDEX", "INSTRUMENT") if section in file]
    while groups:
        group = groups.pop()
        for name in file[group]:
            item = file[f"{group}/{name}"]
            if isinstance(item, h5py.Dataset):
                yield f"{group}/{name}", item
            else:
                groups.append(f"{group}/{name}")


def columns(path: Path) -> dict[str, Column]:
    """Where every dataset of events and index lies in a file, by each of its names. Raises OSError."""
    with h5py.File(path, "r") as file:
        return {
            name: Column(
                dtype=item.dtype,
                shape=item.shape[1:],
                length=item.shape[0],
                offset=item.id.get_offset() or 0,
                header=h5py.h5o.get_info(item.id).addr,
            )
            for name, item in data_links(file)
        }


def table_index(columns: Mapping[str, Column]) -> tuple[Column, Column]:
    """The datasets first and count that all tables of a file share. Sources have a colon, devices do not."""
    first = next(name for name in columns if re.fullmatch("INDEX/[^:]+:.+/first", name))
    return columns[first], columns[first.removesuffix("first") + "count"]


def dimension_address(fd: int, column: Column) -> int:
    """File position of the first dimension (u8, little-endian) of a dataset; its maximum is 8 * rank behind.

    The header is of version 1: 16 bytes, then messages {type u2, size u2, flags u1, 3 bytes, body}, each
    8-aligned; the dataspace message has type 1 and, in version 1, its dimensions 8 bytes into the body.
    Raises OSError.
    """
    version, _, _, _, size = struct.unpack("<BBHII", os.pread(fd, 12, column.header))
    block = os.pread(fd, size, column.header + 16)
    position = 0
    while version == 1 and position + 8 <= len(block):
        message, length = struct.unpack_from("<HH", block, position)
        if message == 1 and block[position + 8 : position + 10] == bytes([1, len(column.shape) + 1]):
            return column.header + 16 + position + 16
        position += 8 + length
    raise OSError(errno.EIO, f"no dataspace of version 1 in the object header at {column.header}")


def created(path: Path) -> str:
    """METADATA/creationDate of a file: which start of a run wrote it. Raises OSError, KeyError."""
    with h5py.File(path, "r") as file:
        return str(file["METADATA/creationDate"].asstr()[0])


def _write_metadata(file: Any, spec: SeriesSpec, info: RunInfo, sequence: int, opened: str) -> None:
    texts = {
        "dataFormatVersion": "1.2",
        "creationDate": info.created,
        "updateDate": opened,
        "daqLibrary": f"xfel-streamer {__version__}",
        "karaboFramework": "",
        "runType": "streamer",
        "sample": info.sample,
    }
    for name, text in texts.items():
        _write_text(file, f"METADATA/{name}", text)
    for name, number in (
        ("proposalNumber", info.proposal),
        ("runNumber", info.run),
        ("sequenceNumber", sequence),
    ):
        file.create_dataset(f"METADATA/{name}", data=[number], dtype="<u4")
    _write_sources(file, spec, info)


def _write_sources(file: Any, spec: SeriesSpec, info: RunInfo) -> None:
    tables = [f"INSTRUMENT/{table.source}/{group}" for table in spec.tables for group in table.groups]
    sources = sorted({*tables, *(f"CONTROL/{device}" for device in info.run_values)})
    split = [source.partition("/") for source in sources]
    lists = {"dataSourceId": sources, "root": [s[0] for s in split], "deviceId": [s[2] for s in split]}
    for name, values in lists.items():
        file.create_dataset(f"METADATA/dataSources/{name}", data=values, dtype=h5py.string_dtype("ascii"))


def _write_table_indexes(file: Any, spec: SeriesSpec) -> None:
    names = dict.fromkeys((table.source, group) for table in spec.tables for group in table.groups)
    first_name, *others = names
    for what in ("first", "count"):
        add_dataset(file, "/".join(("INDEX", *first_name, what)), (spec.trains,), U8)
        for name in others:
            file["/".join(("INDEX", *name, what))] = file["/".join(("INDEX", *first_name, what))]


def _write_devices(file: Any, trains: int, run_values: Mapping[str, Mapping[str, str | int | float]]) -> None:
    """RUN values of control devices; CONTROL holds nothing per train, so their index is zeros for ever."""
    zeros = ""
    for device, values in run_values.items():
        file.create_group(f"CONTROL/{device}")
        for what in ("first", "count"):
            path = f"INDEX/{device}/{what}"
            if zeros:
                file[path] = file[zeros]
            else:
                zeros = path
                add_dataset(file, path, (trains,), U8)
        for name, value in values.items():
            _write_run_value(file, f"RUN/{device}/{name.replace('.', '/')}", value)


def _write_run_value(file: Any, path: str, value: str | int | float) -> None:
    file.create_dataset(f"{path}/timestamp", data=[0], dtype="<u8")
    if isinstance(value, str):
        _write_text(file, f"{path}/value", value)
    else:
        dtype = "<f8" if isinstance(value, float) else "<i8"
        file.create_dataset(f"{path}/value", data=[value], dtype=dtype)


def _write_text(file: Any, path: str, text: str) -> None:
    file.create_dataset(path, data=[text], dtype=h5py.string_dtype("utf-8"))
