"""Where the events of a file are, found without reading them.

Owns the layouts that are understood. Not labels, not checks against a bundle (`models.data_sets.files`).

    plain    one dataset [N, *event] of an HDF5 file, or one array of an .npz
    cxi      `models.data_sets.cxi`
    euxfel   `models.data_sets.euxfel`; every folder is one
"""

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from models.data_sets.cxi import find_cxi
from models.data_sets.euxfel import find_euxfel
from models.data_sets.found import (
    Array,
    Found,
    Ids,
    Piece,
    Rows,
    Where,
    contents,
    datasets,
    may_be,
    meant,
    open_hdf5,
    read_pieces,
    shape_text,
)
from models.manifest import ModelError


def look(where: Where, event_shape: tuple[int, ...] | None = None) -> Found:
    """Find the events. `event_shape`, if known, decides where several datasets might be meant.

    Raises ModelError that lists what there is.
    """
    if not where.path.exists():
        raise ModelError(f"events {where.path}: expected a file or a folder, there is none; correct the path")
    if where.path.is_dir():
        return find_euxfel(sorted(where.path.rglob("*.h5")), where, event_shape)
    if where.path.suffix == ".npz":
        return _npz(where, event_shape)
    with open_hdf5(where.path) as file:
        exdf, cxi = "INDEX/trainId" in file, "entry_1" in file
    if where.dataset:
        return _plain(where.path, where.dataset)
    if exdf or where.source:
        return find_euxfel([where.path], where, event_shape)
    return find_cxi(where.path) if cxi else _only(where, event_shape)


def _plain(path: Path, name: str) -> Found:
    with open_hdf5(path) as file:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim < 2:
            raise ModelError(
                f"dataset {name!r} of {path}: expected one of shape [events, ...], got "
                f"{shape_text(dataset) if isinstance(dataset, h5py.Dataset) else 'none'}; "
                f"there are: {contents(file)}"
            )
        shape, dtype = dataset.shape, dataset.dtype
    read = read_pieces([Piece(path, name, np.arange(shape[0]))], shape[1:], dtype)
    return Found(f"{path}, dataset {name}", shape[1:], dtype, shape[0], read)


def _only(where: Where, event_shape: tuple[int, ...] | None) -> Found:
    """The one dataset that can be meant."""
    with open_hdf5(where.path) as file:
        fitting = [name for name, dataset in datasets(file) if may_be(dataset.shape, event_shape)]
        if len(fitting) != 1:
            raise ModelError(
                f"events {where.path}: expected one dataset {meant(event_shape)}, got {len(fitting)}; "
                f"name it with --dataset; there are: {contents(file)}"
            )
    return _plain(where.path, fitting[0])


def _npz(where: Where, event_shape: tuple[int, ...] | None) -> Found:
    headers = _npz_headers(where.path)
    listed = ", ".join(f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in headers.items())
    fitting = [where.dataset] if where.dataset else [n for n in headers if may_be(headers[n][0], event_shape)]
    if len(fitting) != 1 or fitting[0] not in headers or len(headers[fitting[0]][0]) < 2:
        raise ModelError(
            f"events {where.path}: expected one array {meant(event_shape)}, got {fitting}; "
            f"name it with --dataset; there are: {listed or 'no arrays'}"
        )
    name = fitting[0]
    (count, *shape), dtype = headers[name]

    def ids(part: str) -> Ids | None:
        return _npz_array(where.path, part).ravel().astype(np.uint64) if part in headers else None

    def read(rows: Rows) -> Array:
        return _npz_array(where.path, name)[rows]

    return Found(
        f"{where.path}, array {name}",
        tuple(shape),
        dtype,
        count,
        read,
        ids("train_id"),
        ids("pulse_id"),
        partly=False,
    )


def _npz_array(path: Path, name: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as file:
            array: Array = file[name]
            return array
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"array {name!r} of {path}: not readable: {error}; write it again") from error


def _npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array of numbers, from their headers alone."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
                if dtype.kind in "biuf":
                    found[member.removesuffix(".npy")] = (shape, dtype)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"events {path}: expected an .npz of plain arrays, got: {error!r}; write it again"
        ) from error
    return found
