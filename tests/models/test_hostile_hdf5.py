"""HDF5 files that are damaged, or written to deceive: one clear error, and nothing is read beside the file.

Every event carries its number, so that a wrong row would be seen.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hostile_cases import SHAPE, frames, growing, hdf5, read, virtual

from models.data_sets.found import MAX_EVENTS
from models.manifest import MAX_LABELS, ModelError

# --- European XFEL ----------------------------------------------------------------------------------------

SOURCE = "DET/DET/PNCCD:output"
INDEX = {"trainId": [10, 11, 12, 0], "first": [0, 2, 3, 0], "count": [2, 1, 3, 0]}


def exdf(folder: Path, rows: int = 6, pulses: Any = range(6), image: Any = None, **index: Any) -> Path:
    """Six frames in three trains, unless told otherwise; `None` leaves a part out."""
    path = folder / "run.h5"
    with h5py.File(path, "w") as file:
        for name, values in (INDEX | index).items():
            place = "INDEX/trainId" if name == "trainId" else f"INDEX/{SOURCE}/data/{name}"
            if values is not None:
                file[place] = values if isinstance(values, np.ndarray) else np.asarray(values)
        file[f"INSTRUMENT/{SOURCE}/data/image"] = frames(rows) if image is None else image
        if pulses is not None:
            file[f"INSTRUMENT/{SOURCE}/data/pulseId"] = np.asarray(pulses)
    return path


def test_an_honest_run_is_read(tmp_path: Path) -> None:
    data = read(exdf(tmp_path), source=SOURCE, key="data.image")
    assert data.inputs[:, 0, 0].tolist() == list(range(6))
    assert data.facts["train_id"].tolist() == [10, 10, 11, 12, 12, 12]
    old = read(exdf(tmp_path, count=None, last=[1, 2, 5, 0], status=[1, 1, 1, 0]), key="data.image")
    assert old.facts["train_id"].tolist() == [10, 10, 11, 12, 12, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": [-6, 2, 3, 0]}, "rows from 0 to 6, it points elsewhere"),
        ({"first": [0, 2, 2**63 - 1, 0]}, "it points elsewhere"),
        ({"first": np.array([0, 2, 2**64 - 1, 0], np.uint64)}, "it points elsewhere"),
        ({"count": np.array([2, 1, 2**64 - 1, 0], np.uint64)}, "it points elsewhere"),
        ({"count": [2, 1, -3, 0]}, "it points elsewhere"),
        ({"count": [2, 1, 4, 0]}, "it points elsewhere"),
        ({"first": [0, 1, 3, 0]}, "rows of its own for each train, it has rows of several"),
        ({"first": [0.0, 2.0, np.nan, 0.0]}, "expected a whole number a train, got float64"),
        ({"count": np.int64(6)}, "expected at most .* numbers, got int64"),
        ({"count": [[2, 1, 3, 0]]}, r"expected a whole number a train, got int64 \[1, 4\]"),
        ({"count": [2, 1]}, "a first and a count for each train, got 4 and 2 for 4"),
        ({"trainId": [10, 11]}, "got 4 and 4 for 2"),
        ({"trainId": [-10, 11, 12, 0]}, "expected ids from 0"),
        ({"trainId": None}, "INDEX/trainId of .*expected a dataset, got none"),
        ({"count": None}, r"expected first and count, got \['first'\]"),
        ({"count": None, "last": [1, 2, 5], "status": [1, 1, 1, 0]}, "as many first as last and status"),
        ({"pulses": range(4)}, "pulse ids for 6 rows"),
        ({"pulses": [0, 1, 2, 3, 4, -1]}, "expected ids from 0"),
        ({"pulses": np.full(6, np.nan)}, "pulse ids for 6 rows"),
        ({"image": 3.0}, "expected a row an event, got a single float64"),
    ],
)
def test_an_index_that_points_elsewhere(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = exdf(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        read(path, source=SOURCE, key="data.image")


def test_counts_that_are_too_large_to_hold(tmp_path: Path) -> None:
    path = exdf(tmp_path, first=[0, 2, 3, 0], count=[2, 1, 10**12 - 3, 0])
    with h5py.File(path, "a") as file:
        del file[f"INSTRUMENT/{SOURCE}/data/image"], file[f"INSTRUMENT/{SOURCE}/data/pulseId"]
        huge = file.create_dataset(f"INSTRUMENT/{SOURCE}/data/image", (10**12, 2, 2), "u1", chunks=(1, 2, 2))
        assert huge.size == 4 * 10**12
    with pytest.raises(ModelError, match=f"expected at most {MAX_EVENTS} at once, got 1000000000000"):
        read(path, source=SOURCE, key="data.image")
    with h5py.File(path, "a") as file:
        del file["INDEX/trainId"]
        file.create_dataset("INDEX/trainId", (10**12,), "u8", chunks=(1000,))
    with pytest.raises(ModelError, match=r"INDEX/trainId .* at most \d+ numbers, got uint64"):
        read(path, source=SOURCE, key="data.image")


# --- CXI ----------------------------------------------------------------------------------------------------


def test_entries_of_another_type_or_none(tmp_path: Path) -> None:
    def entries(file: h5py.File, last: Any = None) -> None:
        for i, frame in enumerate(frames(3)):
            file[f"entry_{i + 1}/data_1/data"] = frame
        if last is not None:
            file["entry_5"] = last

    assert read(hdf5(tmp_path, entries)).inputs[:, 0, 0].tolist() == [0, 1, 2]
    path = hdf5(tmp_path, lambda file: entries(file, np.zeros(3)))
    with pytest.raises(ModelError, match=r"entry_5/data_1/data .* as in entry_1, got none; take the entry"):
        read(path)
    path = hdf5(tmp_path, lambda file: entries(file, h5py.SoftLink("/nowhere")))
    with pytest.raises(ModelError, match=r"entry_5/data_1/data .*got none"):
        read(path)

    def mixed(file: h5py.File) -> None:
        entries(file)
        file["entry_4/data_1/data"] = np.full(SHAPE, -1.7)

    with pytest.raises(ModelError, match=r"expected uint16 \[4, 5\] as in entry_1, got float64 \[4, 5\]"):
        read(hdf5(tmp_path, mixed))
    with pytest.raises(ModelError, match="expected CXI images"):
        read(hdf5(tmp_path, lambda file: file.create_dataset("entry_1", data=np.zeros(3))))


def test_notes_and_ids_of_a_size_that_cannot_be(tmp_path: Path) -> None:
    def stacked(file: h5py.File, name: str, size: tuple[int, ...], kind: str = "u8") -> None:
        file["entry_1/data_1/data"] = frames(3)
        file.create_dataset(f"entry_1/{name}", size, kind, chunks=tuple(min(8, n) for n in size))

    path = hdf5(tmp_path, lambda file: stacked(file, "note_1/data", (10**12, 8)))
    with pytest.raises(ModelError, match=f"at most {MAX_LABELS} labels an event"):
        read(path)
    path = hdf5(tmp_path, lambda file: stacked(file, "trainId", (10**12,)))
    with pytest.raises(ModelError, match=r"entry_1/trainId .*expected 3 whole numbers, one an event"):
        read(path)
    path = hdf5(tmp_path, lambda file: stacked(file, "pulseId", (3,), "f8"))
    with pytest.raises(ModelError, match=r"entry_1/pulseId .*expected 3 whole numbers, .*got float64"):
        read(path)


# --- HDF5 that reaches outside itself -----------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no data file may read from: a folder above."""
    return hdf5(tmp_path, lambda file: file.create_dataset("x", data=frames(6)), "secret.h5")


def test_links_and_external_storage_are_refused(tmp_path: Path, secret: Path) -> None:
    inner = tmp_path / "data"
    inner.mkdir()
    path = hdf5(inner, lambda file: file.__setitem__("frames", h5py.ExternalLink("../secret.h5", "x")))
    with pytest.raises(ModelError, match=r"frames of .*within this file, got a link 'frames' to another"):
        read(path, dataset="frames")
    path = hdf5(inner, lambda file: file.__setitem__("entry_1", h5py.ExternalLink("../secret.h5", "/")))
    with pytest.raises(ModelError, match="got a link 'entry_1' to another file"):
        read(path)
    raw = [(str(secret), 0, 240)]
    path = hdf5(inner, lambda file: file.create_dataset("frames", (6, *SHAPE), "u2", external=raw))
    for more in ({"dataset": "frames"}, {}):
        with pytest.raises(ModelError, match="got numbers in an external file"):
            read(path, **more)


def test_virtual_datasets_take_only_from_beside_or_below(tmp_path: Path, secret: Path) -> None:
    inner = tmp_path / "data"
    (inner / "raw").mkdir(parents=True)
    hdf5(inner / "raw", lambda file: file.create_dataset("x", data=frames(6)), "a.h5")
    good = hdf5(inner, lambda file: virtual(file, "raw/a.h5", str(inner / "raw" / "a.h5")))
    assert read(good).inputs[:, 0, 0].tolist() == [*range(6), *range(6)]

    def own(file: h5py.File) -> None:
        file["x"] = frames(6)
        virtual(file, ".")

    assert read(hdf5(inner, own), dataset="frames").inputs[:, 0, 0].tolist() == list(range(6))
    os.symlink(secret, inner / "link.h5")
    for sources, message in (
        (("../secret.h5",), "which is not below"),
        ((str(secret),), "which is not below"),
        (("link.h5",), "which is not below"),
        (("raw/a.h5", "raw/b.h5"), r"raw/b\.h5, which is no file"),
    ):
        path = hdf5(inner, lambda file, sources=sources: virtual(file, *sources))  # type: ignore[misc]
        for more in ({"dataset": "frames"}, {}):
            with pytest.raises(ModelError, match=message):
                read(path, **more)
    for source in ("raw/%b.h5", "../secret.h5"):
        with pytest.raises(ModelError, match="which is not below"):
            read(hdf5(inner, lambda file, source=source: growing(file, source)))  # type: ignore[misc]
    with pytest.raises(ModelError, match=r"takes y from raw/a\.h5, where it is not"):
        read(hdf5(inner, lambda file: virtual(file, "raw/a.h5", dataset="y")))
    with pytest.raises(ModelError, match=r"which has only the shape \(6, 4, 5\)"):
        read(hdf5(inner, lambda file: virtual(file, "raw/a.h5", rows=7)))


def test_a_virtual_dataset_of_one_that_reaches_outside(tmp_path: Path, secret: Path) -> None:
    assert secret.is_file()
    inner = tmp_path / "data"
    inner.mkdir()
    hdf5(inner, lambda file: virtual(file, "../secret.h5"), "b.h5")
    with pytest.raises(ModelError, match="which is not below"):
        read(hdf5(inner, lambda file: virtual(file, "b.h5", dataset="frames")))
    hdf5(inner, lambda file: file.__setitem__("x", h5py.ExternalLink("../secret.h5", "x")), "c.h5")
    with pytest.raises(ModelError, match=r"takes x from c\.h5, where it is not"):
        read(hdf5(inner, lambda file: virtual(file, "c.h5")))
    with pytest.raises(ModelError, match="virtual datasets more than 4 deep"):
        read(hdf5(inner, lambda file: virtual(file, ".", dataset="frames")))


def test_links_that_go_round_and_datasets_without_numbers(tmp_path: Path) -> None:
    def made(file: h5py.File) -> None:
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        file["null"], file["number"] = h5py.Empty("f4"), 3.0
        file["thin"] = np.zeros((5, 0, 4))
        file["text"] = np.array([["a", "b"]], "S1")
        file["frames"], file["same"] = frames(6), h5py.SoftLink("frames")

    path = hdf5(tmp_path, made)
    assert len(read(path, dataset="same")) == 6
    for name, message in (
        ("a", "got links that go round"),
        ("null", "got none; there are"),
        ("number", r"got float64 \[\]"),
        ("thin", "expected numbers in an event"),
        ("text", r"type of .*expected numbers, got \|S1"),
        ("frames/x", "got none; there are"),
        ("a\0b", "expected a whole, readable file|got none"),
    ):
        with pytest.raises(ModelError, match=message):
            read(path, dataset=name)


def test_a_chunk_that_would_fill_the_memory(tmp_path: Path) -> None:
    def made(file: h5py.File) -> None:
        chunks, ends = (2**24, *SHAPE), (None, *SHAPE)
        file.create_dataset("x", (3, *SHAPE), "u8", chunks=chunks, maxshape=ends, compression="gzip")

    with pytest.raises(ModelError, match="expected chunks of at most 1073741824 bytes, got 2684354560"):
        read(hdf5(tmp_path, made))


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = hdf5(tmp_path, lambda file: file.create_dataset("frames", data=frames(200), compression="gzip"))
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ModelError):
            read(path)
    for place in range(0, len(whole), 97):  # whatever is hit: the events, or one error
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(ModelError):
            read(path)
