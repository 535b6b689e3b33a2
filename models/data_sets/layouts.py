"""Where the events of a file are, found without reading them.

Owns the layouts that are understood. Not labels, not checks against a bundle (`models.data_sets.files`).

    plain    one dataset [N, *event] of an HDF5 file, or one array of an .npz (`models.data_sets.npz`)
    cxi      `models.data_sets.cxi`
    euxfel   `models.data_sets.euxfel`; every folder is one
"""

from dataclasses import replace
from pathlib import Path

from models.data_sets.cxi import find_cxi
from models.data_sets.euxfel import find_euxfel
from models.data_sets.found import Array, Found, Piece, Rows, Where, may_be, meant, read_pieces
from models.data_sets.hdf5 import (
    check_regular,
    contents,
    dataset,
    datasets,
    item,
    open_hdf5,
    readable,
    shape_text,
)
from models.data_sets.npz import find_npz
from models.manifest import ModelError


def look(where: Where, event_shape: tuple[int, ...] | None = None) -> Found:
    """Find the events. `event_shape`, if known, decides where several datasets might be meant.

    Raises ModelError that lists what there is; reading what was found raises it too.
    """
    with readable(where.path):
        found = _look(where, event_shape)

    def read(rows: Rows) -> Array:
        with readable(where.path):
            return found.read(rows)

    return replace(found, read=read)


def _look(where: Where, event_shape: tuple[int, ...] | None) -> Found:
    if not where.path.exists():
        raise ModelError(f"events {where.path}: expected a file or a folder, there is none; correct the path")
    if where.path.is_dir():
        paths = [path for path in sorted(where.path.rglob("*.h5")) if not path.is_dir()]
        return find_euxfel(paths, where, event_shape)
    check_regular(where.path)
    if where.path.suffix == ".npz":
        return find_npz(where, event_shape)
    if where.dataset:
        return _plain(where.path, where.dataset)
    with open_hdf5(where.path) as file:
        exdf = item(file, "INDEX/trainId") is not None
        cxi = item(file, "entry_1") is not None
    if exdf or where.source:
        return find_euxfel([where.path], where, event_shape)
    return find_cxi(where.path) if cxi else _only(where, event_shape)


def _plain(path: Path, name: str) -> Found:
    with open_hdf5(path) as file:
        events = dataset(file, name)
        if events is None or events.ndim < 2:
            raise ModelError(
                f"dataset {name!r} of {path}: expected one of shape [events, ...], got "
                f"{'none' if events is None else shape_text(events)}; there are: {contents(file)}"
            )
        (count, *shape), dtype = events.shape, events.dtype
    read = read_pieces([Piece(path, name, count)], tuple(shape), dtype)
    return Found(f"{path}, dataset {name}", tuple(shape), dtype, count, read)


def _only(where: Where, event_shape: tuple[int, ...] | None) -> Found:
    """The one dataset that can be meant."""
    with open_hdf5(where.path) as file:
        fitting = [name for name, events in datasets(file) if may_be(events.shape, event_shape)]
        if len(fitting) != 1:
            raise ModelError(
                f"events {where.path}: expected one dataset {meant(event_shape)}, got {len(fitting)}; "
                f"name it with --dataset; there are: {contents(file)}"
            )
    return _plain(where.path, fitting[0])
