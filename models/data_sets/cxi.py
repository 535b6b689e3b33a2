"""CXI files: an image per entry_1 .. entry_N, as cxidb.org id-94 has its helium nanodroplets, with labels in
note_1/data; or all events stacked in entry_1. The format: github.com/FilipeMaia/CXI, cxi_file_format.pdf.
"""

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from models.data_sets.found import (
    Array,
    Found,
    Ids,
    Piece,
    as_ids,
    check_count,
    check_ids_form,
    read_pieces,
)
from models.data_sets.hdf5 import NUMBERS, contents, dataset, numbers, open_hdf5, shape_text
from models.manifest import MAX_LABELS, ModelError

# Where CXI files keep an image, in the order in which they are looked for.
_CXI_IMAGES: Final = ("instrument_1/detector_1/data", "data_1/data", "image_1/data")
_ENTRY: Final = re.compile(r"entry_([0-9]{1,9})")
_MAX_LABEL_NUMBERS: Final = 1 << 26  # half a gigabyte in float64


def find_cxi(path: Path) -> Found:
    """The events of a CXI file. Raises ModelError."""
    with open_hdf5(path) as file:
        found = {int(match[1]): name for name in file if (match := _ENTRY.fullmatch(name))}
        entries = [found[number] for number in sorted(found)]
        image = next((name for name in _CXI_IMAGES if dataset(file, f"entry_1/{name}") is not None), None)
        if image is None:
            raise ModelError(
                f"events {path}: expected CXI images in entry_1/{' or '.join(_CXI_IMAGES)}, got none; "
                f"name them with --dataset; there are: {contents(file)}"
            )
        check_count(len(entries), str(path))
        first = dataset(file, f"entry_1/{image}")
        if first is not None and len(entries) == 1 and first.ndim >= 3:
            return _stacked(path, f"entry_1/{image}", file, first)
        return _one_each(path, file, entries, image)


def _stacked(path: Path, name: str, file: h5py.File, images: h5py.Dataset) -> Found:
    (count, *shape), dtype = images.shape, images.dtype
    return Found(
        what=f"{path}, {name}",
        event_shape=tuple(shape),
        dtype=dtype,
        count=count,
        read=read_pieces([Piece(path, name, count)], tuple(shape), dtype),
        train_id=_ids(file, "entry_1/trainId", count),
        pulse_id=_ids(file, "entry_1/pulseId", count),
        targets=_notes(file, ["entry_1"]),
    )


def _ids(file: h5py.File, name: str, count: int) -> Ids | None:
    """One per event; European XFEL's writers add them."""
    found, what = dataset(file, name), f"{name} of {file.filename}"
    if found is None:
        return None
    check_ids_form(found.shape, found.dtype, count, what)
    return as_ids(numbers(found, what, count), what)


def _one_each(path: Path, file: h5py.File, entries: list[str], image: str) -> Found:
    form: tuple[tuple[int, ...], np.dtype[np.generic]] | None = None
    for name in entries:
        found = dataset(file, f"{name}/{image}")
        form = (found.shape, found.dtype) if form is None and found is not None else form
        if form is None or found is None or (found.shape, found.dtype) != form:
            expected = f"{form[1]} {list(form[0])} as in {entries[0]}" if form else "an image"
            raise ModelError(
                f"{name}/{image} of {path}: expected {expected}, got "
                f"{'none' if found is None else shape_text(found)}; take the entry out of the file"
            )
    shape, dtype = form or ((), np.dtype(np.float32))
    read = read_pieces([Piece(path, f"{name}/{image}", None) for name in entries], shape, dtype)
    what = f"{path}, {len(entries)} entries"
    return Found(what, shape, dtype, len(entries), read, targets=_notes(file, entries))


def _notes(file: h5py.File, entries: Sequence[str]) -> Array | None:
    """Labels in note_1/data: [L] of each entry, or [N, L] of one. None unless every entry has them."""
    notes = [dataset(file, f"{entry}/note_1/data") for entry in entries]
    known = [note for note in notes if note is not None and note.dtype.kind in NUMBERS]
    if len(known) < len(notes) or len({note.shape for note in known}) > 1:
        return None
    shape = known[0].shape
    if prod(shape[-1:]) > MAX_LABELS or len(known) * prod(shape) > _MAX_LABEL_NUMBERS:
        raise ModelError(
            f"note_1/data of {file.filename}: expected at most {MAX_LABELS} labels an event and "
            f"{_MAX_LABEL_NUMBERS} in all, got {list(shape)} in {len(known)} entries; write the labels again"
        )
    read = [np.asarray(note[()], np.float64) for note in known]
    return read[0] if len(read) == 1 and read[0].ndim == 2 else np.stack(read)
