"""What the tests of hostile files share: events that carry their number, and ways to write and read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from models.data_sets.data_set import DataSet
from models.data_sets.files import FileData, Wanted, load_files
from models.data_sets.found import Where

SHAPE = (4, 5)
UNLABELLED = Wanted(labelled=False)
Make = Callable[[h5py.File], None]


def frames(n: int, dtype: str = "uint16") -> np.ndarray:
    """Frame i holds the number i."""
    return np.broadcast_to(np.arange(n)[:, None, None], (n, *SHAPE)).astype(dtype)


def read(path: Path, labels: str | Path | None = None, **more: Any) -> DataSet:
    """`labels`: the text of a CSV file, or a path."""
    if isinstance(labels, str):
        text, labels = labels, path.parent / "labels.csv"
        labels.write_text(text)
    where = Where(path, **{k: more.pop(k) for k in ("dataset", "source", "key") if k in more})
    wanted = more.pop("wanted", Wanted() if labels else UNLABELLED)
    return load_files(FileData(where, labels, **more), wanted)


def hdf5(folder: Path, make: Make, name: str = "events.h5") -> Path:
    with h5py.File(folder / name, "w") as file:
        make(file)
    return folder / name


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez_compressed(folder / "events.npz", **arrays)
    return folder / "events.npz"


def virtual(file: h5py.File, *sources: str, name: str = "frames", dataset: str = "x", rows: int = 6) -> None:
    layout = h5py.VirtualLayout((rows * len(sources), *SHAPE), "u2")
    for index, source in enumerate(sources):
        part = h5py.VirtualSource(source, dataset, (rows, *SHAPE))
        layout[index * rows : (index + 1) * rows] = part
    file.create_virtual_dataset(name, layout)


def growing(file: h5py.File, source: str) -> None:
    """A virtual dataset as long as its source is, or as there are files: to ask its shape opens sources."""
    end, blocks = h5py.h5s.UNLIMITED, h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    whole = h5py.h5s.create_simple((6, *SHAPE), (end, *SHAPE))
    whole.select_hyperslab((0, 0, 0), (end, 1, 1), (6, 1, 1), (6, *SHAPE))
    taken = h5py.h5s.create_simple((6, *SHAPE)) if "%" in source else whole
    blocks.set_virtual(whole, source.encode(), b"x", taken)
    h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT16, whole, blocks)
