"""CXI files: an image per entry_1 .. entry_N, as cxidb.org id-94 has its helium nanodroplets, with labels in
note_1/data; or all events stacked in entry_1. The format: github.com/FilipeMaia/CXI, cxi_file_format.pdf.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from models.data_sets.found import Array, Found, Ids, Piece, contents, open_hdf5, read_pieces, shape_text
from models.manifest import ModelError

# Where CXI files keep an image, in the order in which they are looked for.
_CXI_IMAGES: Final = ("instrument_1/detector_1/data", "data_1/data", "image_1/data")


def find_cxi(path: Path) -> Found:
    """The events of a CXI file. Raises ModelError."""
    with open_hdf5(path) as file:
        entries = sorted((name for name in file if name.startswith("entry_")), key=_entry_number)
        image = next(
            (name for name in _CXI_IMAGES if isinstance(file["entry_1"].get(name), h5py.Dataset)), None
        )
        if image is None:
            raise ModelError(
                f"events {path}: expected CXI images in entry_1/{' or '.join(_CXI_IMAGES)}, got none; "
                f"name them with --dataset; there are: {contents(file)}"
            )
        first = file[f"entry_1/{image}"]
        if len(entries) == 1 and first.ndim >= 3:
            return _stacked(path, image, file["entry_1"])
        return _one_each(path, file, entries, image)


def _entry_number(name: str) -> int:
    number = name.removeprefix("entry_")
    return int(number) if number.isdecimal() else 0


def _stacked(path: Path, image: str, entry: h5py.Group) -> Found:
    dataset = entry[image]
    pieces = [Piece(path, f"entry_1/{image}", np.arange(len(dataset)))]
    return Found(
        what=f"{path}, entry_1/{image}",
        event_shape=dataset.shape[1:],
        dtype=dataset.dtype,
        count=len(dataset),
        read=read_pieces(pieces, dataset.shape[1:], dataset.dtype),
        train_id=_ids(entry, "trainId"),
        pulse_id=_ids(entry, "pulseId"),
        targets=_notes([entry]),
    )


def _ids(entry: h5py.Group, name: str) -> Ids | None:
    """One per event; European XFEL's writers add them."""
    return entry[name][()].ravel().astype(np.uint64) if name in entry else None


def _one_each(path: Path, file: h5py.File, entries: list[str], image: str) -> Found:
    first = file[f"{entries[0]}/{image}"]
    for name in entries:
        dataset = file[name].get(image)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape != first.shape:
            got = shape_text(dataset) if isinstance(dataset, h5py.Dataset) else "none"
            raise ModelError(
                f"{name}/{image} of {path}: expected {shape_text(first)} as in {entries[0]}, got {got}; "
                "take the entry out of the file"
            )
    read = read_pieces([Piece(path, f"{name}/{image}", None) for name in entries], first.shape, first.dtype)
    what = f"{path}, {len(entries)} entries"
    targets = _notes([file[name] for name in entries])
    return Found(what, first.shape, first.dtype, len(entries), read, targets=targets)


def _notes(entries: Sequence[h5py.Group]) -> Array | None:
    """Labels in note_1/data: [L] of each entry, or [N, L] of one. None unless every entry has them."""
    notes = [entry.get("note_1/data") for entry in entries]
    if any(not isinstance(note, h5py.Dataset) or note.dtype.kind not in "biuf" for note in notes):
        return None
    read = [note[()] for note in notes]
    if len({note.shape for note in read}) > 1:
        return None
    return np.asarray(read[0] if len(read) == 1 and read[0].ndim == 2 else np.stack(read), np.float64)
