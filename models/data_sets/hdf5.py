"""HDF5 files that others wrote, opened with care: nothing outside the named file is read unseen.

Owns links, virtual and external storage, declared sizes, and the one shape of messages about damage. Not the
layouts (`models.data_sets.layouts`). Soft links are followed within the file. A virtual dataset may take from
its own file and from files beside or below it: a missing source would read as fill values, without an error.
What no check here can see: a damaged description of a virtual dataset on which the library itself (2.0.0)
never ends while it opens it. The rules of links and sources: support.hdfgroup.org/documentation/hdf5/latest,
H5L and H5Pset_virtual.
"""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Array = NDArray[Any]

NUMBERS: Final = "biuf"  # kinds of numpy types that are numbers
SHOWN: Final = 20  # datasets in a message: what a terminal shows at a glance
_LINKS: Final = 16  # soft links on one way, as HDF5 itself allows by default
_NESTED: Final = 4  # virtual datasets of virtual datasets; European XFEL has two levels
_MAX_CHUNK_BYTES: Final = 1 << 30  # twice the largest event in float64; a chunk is unpacked as a whole
_TEXT: Final = 200  # characters of another's message
# What h5py, zipfile and numpy raise for files that are cut, damaged or written to deceive.
_DAMAGE: Final = (
    OSError, KeyError, ValueError, RuntimeError, IndexError, TypeError, OverflowError, MemoryError, EOFError,
    SyntaxError, zlib.error, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of the libraries, within, become a ModelError that names the file."""
    try:
        yield
    except _DAMAGE as error:
        said = f"{type(error).__name__}: {error}"[:_TEXT]
        raise ModelError(
            f"events {path}: expected a whole, readable file, got {said}; copy it again"
        ) from error


def open_hdf5(path: Path) -> h5py.File:
    """Raises ModelError if it is no readable HDF5 file."""
    check_regular(path)
    try:
        return h5py.File(path, "r")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"events {path}: expected an HDF5 or .npz file, got: {error}; give one, or copy it again"
        ) from error


def check_regular(path: Path) -> None:
    """A pipe or device would block or never end. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"events {path}: expected a regular file, got none; give another, or take it away")


# --- ways through a file --------------------------------------------------------------------------------


def item(file: h5py.File, name: str) -> h5py.Group | h5py.Dataset | None:
    """What lies at `name`, a checked dataset or a group; None if nothing does. Raises ModelError."""
    at: Any = file["/"]
    way, links = name.split("/"), 0
    while way:
        part = way.pop(0)
        if part in ("", "."):
            continue
        if not isinstance(at, h5py.Group) or not _there(at, part):
            return None
        kind = at.id.links.get_info(part.encode()).type
        if kind == h5py.h5l.TYPE_SOFT and links < _LINKS:
            target = at.id.links.get_val(part.encode()).decode()
            at = file["/"] if target.startswith("/") else at
            way, links = [*target.split("/"), *way], links + 1
        elif kind == h5py.h5l.TYPE_HARD:
            at = at[part]
        else:
            raise _outside(file, name, "links that go round" if kind == h5py.h5l.TYPE_SOFT else
                           f"a link {part!r} to another file")  # fmt: skip
    if isinstance(at, h5py.Dataset):
        check_inside(at)
        _check_chunk(at)
    return at


def _there(group: h5py.Group, name: str) -> bool:
    """A link of this name; HDF5 would take a name with a zero byte for its beginning."""
    return "\0" not in name and bool(group.id.links.exists(name.encode()))


def dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset at `name`, None if there is none or it has no shape. Raises ModelError."""
    at = item(file, name)
    return at if isinstance(at, h5py.Dataset) and at.shape is not None else None


def _check_chunk(data: h5py.Dataset) -> None:
    size = prod(data.chunks or ()) * data.dtype.itemsize
    if size > _MAX_CHUNK_BYTES:
        raise ModelError(
            f"{data.name} of {data.file.filename}: expected chunks of at most {_MAX_CHUNK_BYTES} bytes, got "
            f"{size}; write it with a chunk an event: h5repack -l {data.name}:CHUNK=1x.."
        )


def _outside(file: h5py.File, name: str, got: str) -> ModelError:
    return ModelError(
        f"{name} of {file.filename}: expected data within this file, got {got}; name the file that holds the "
        "events, or a copy of this one with all data in it"
    )


def check_inside(data: h5py.Dataset, depth: int = 0) -> None:
    """Raises ModelError if the numbers lie in files that may not be read, or that are not there.

    Asked before the shape is: that of a virtual dataset may depend on its sources.
    """
    if data.id.get_create_plist().get_external_count():
        raise _outside(data.file, data.name, "numbers in an external file")
    if not data.is_virtual:
        return
    if depth >= _NESTED:
        raise _outside(data.file, data.name, f"virtual datasets more than {_NESTED} deep")
    for source in data.virtual_sources():
        _check_source(data, source, depth)


def _check_source(data: h5py.Dataset, source: Any, depth: int) -> None:
    own, text = Path(data.file.filename), f"a virtual dataset that takes from {source.file_name}"
    if source.file_name == ".":
        _check_taken(data, _item_of_source(data.file, source), source, depth)
        return
    path, folder = (own.parent / source.file_name).resolve(), own.parent.resolve()
    if "%" in source.file_name or not path.is_relative_to(folder):
        raise _outside(data.file, data.name, f"{text}, which is not below {folder}")
    if not path.is_file():
        raise _outside(data.file, data.name, f"{text}, which is no file")
    with open_hdf5(path) as file:
        _check_taken(data, _item_of_source(file, source), source, depth)


def _item_of_source(file: h5py.File, source: Any) -> h5py.Dataset | None:
    """As `item`, without the check of a dataset: its depth is not known there."""
    group, _, name = source.dset_name.rpartition("/")
    at = item(file, group)
    if not isinstance(at, h5py.Group) or not _there(at, name):
        return None
    hard = at.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD
    found = at[name] if hard else None
    return found if isinstance(found, h5py.Dataset) else None


def _check_taken(data: h5py.Dataset, taken: h5py.Dataset | None, source: Any, depth: int) -> None:
    text = f"a virtual dataset that takes {source.dset_name} from {source.file_name}"
    if taken is None:
        raise _outside(data.file, data.name, f"{text}, where it is not")
    check_inside(taken, depth + 1)
    if not _holds(taken, source):
        raise _outside(data.file, data.name, f"{text}, which has only the shape {taken.shape}")


def _holds(taken: h5py.Dataset, source: Any) -> bool:
    """Whether all that is taken is there: what is not would read as fill values."""
    try:
        if source.src_space.get_select_type() == h5py.h5s.SEL_ALL:
            return bool(taken.size >= source.vspace.get_select_npoints())
        _, last = source.src_space.get_select_bounds()
    except (RuntimeError, ValueError):
        return True  # without limit: it grows with its source
    return len(last) == taken.ndim and all(end < size for end, size in zip(last, taken.shape, strict=True))


# --- what there is --------------------------------------------------------------------------------------


def numbers(data: h5py.Dataset | None, what: str, at_most: int) -> Array:
    """All of a dataset of one axis or more, at most `at_most` numbers. Raises ModelError."""
    if data is None or data.shape is None:
        raise ModelError(f"{what}: expected a dataset, got none; copy the file again")
    if data.dtype.kind not in NUMBERS or data.ndim < 1 or data.size > at_most:
        raise ModelError(f"{what}: expected at most {at_most} numbers, got {shape_text(data)}; copy it again")
    read: Array = np.asarray(data[()])
    return read


def datasets(group: h5py.Group) -> list[tuple[str, h5py.Dataset]]:
    """Every dataset of numbers below a group that can be read, by its path from there."""
    return [(name, data) for name, data, fault in _below(group) if not fault]


def contents(group: h5py.Group) -> str:
    """The largest datasets with shape and type, and those that cannot be read, for a message."""
    below = _below(group)
    largest = sorted((entry for entry in below if not entry[2]), key=lambda entry: -int(entry[1].size))
    texts = [f"{name} {shape_text(data)}" for name, data, _ in largest[:SHOWN]]
    texts += [fault for *_, fault in below if fault][:SHOWN]
    return ", ".join(texts) or "no datasets"


def _below(group: h5py.Group) -> list[tuple[str, h5py.Dataset, str]]:
    """(path from there, dataset, what is wrong with it). Links are not followed."""
    found: list[tuple[str, h5py.Dataset, str]] = []

    def visit(name: str, data: Any) -> None:
        if not isinstance(data, h5py.Dataset) or data.dtype.kind not in NUMBERS:
            return
        try:
            check_inside(data)
        except ModelError as error:
            found.append((name, data, str(error)))
            return
        if data.shape:  # None: no space at all; (): a single number
            found.append((name, data, ""))

    group.visititems(visit)
    return found


def shape_text(data: h5py.Dataset) -> str:
    return f"{data.dtype} {list(data.shape)}"
