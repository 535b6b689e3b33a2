"""Files that are damaged, or written to deceive: each is one clear error, and nothing is read beside it.

Every event carries its number, so that a wrong row would be seen.
"""

import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from models.data_sets.data_set import DataSet
from models.data_sets.files import FileData, Wanted, load_files
from models.data_sets.found import MAX_EVENTS, Where
from models.manifest import MAX_LABELS, ModelError

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


# --- .npz -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [
        np.array([0.0, 1.0, np.nan]),
        np.array([0, 1, -1]),
        np.array([0, 1]),
        np.array([0, 1, 2**63], np.uint64),
        np.zeros(10**7, np.uint64),  # refused by its header: 80 MB of zeros in 80 kB
    ],
)
def test_ids_of_an_npz(tmp_path: Path, ids: np.ndarray) -> None:
    path = npz(tmp_path, frames=frames(3), train_id=ids, pulse_id=np.arange(3))
    with pytest.raises(ModelError, match=r"array 'train_id' of .*expected (3 whole numbers|ids from 0)"):
        read(path, dataset="frames")


def written(path: Path, member: bytes, method: int = zipfile.ZIP_STORED, name: str = "frames.npy") -> Path:
    with zipfile.ZipFile(path / "events.npz", "w", method) as archive:
        archive.writestr(name, member)
    return path / "events.npz"


def header(text: str, version: int = 1) -> bytes:
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


@pytest.mark.parametrize(
    "member",
    [
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (6, 4, 5), }\n"),  # and no numbers
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (-6, 4, 5), }\n") + bytes(240),
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (6, 4, 5"),
        header("(((("),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (6, 4, 5), }\n") + bytes(240),
        b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{" * 100,
        b"\x93NUMPY\x09\x00",
        b"nothing",
        b"",
    ],
)
def test_headers_of_an_npz(tmp_path: Path, member: bytes) -> None:
    with pytest.raises(ModelError):
        read(written(tmp_path, member))


def test_a_header_of_version_2_is_read(tmp_path: Path) -> None:
    text = "{'descr': '<u2', 'fortran_order': False, 'shape': (6, 4, 5), }\n"
    path = written(tmp_path, header(text, 2) + frames(6).tobytes())
    assert read(path).inputs[:, 0, 0].tolist() == list(range(6))


def test_archives_that_are_damaged_encrypted_or_packed_otherwise(tmp_path: Path) -> None:
    path = npz(tmp_path, frames=np.random.default_rng(0).integers(0, 999, (50, *SHAPE)))
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("frames.npy").header_offset
    central = whole.index(b"PK\x01\x02")

    def changed(**bytes_at: int) -> Path:
        made = bytearray(whole)
        for place, value in bytes_at.items():
            made[int(place[1:])] = value
        path.write_bytes(made)
        return path

    for name, spoilt in (
        ("data", changed(**{f"_{start + 600 + i}": 0xFF for i in range(20)})),
        ("method", changed(**{f"_{start + 8}": 99, f"_{central + 10}": 99})),
        ("encrypted", changed(**{f"_{start + 6}": 1, f"_{central + 8}": 1})),
    ):
        with pytest.raises(ModelError, match=r"events\.npz"):
            read(spoilt)
        assert name
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"expected an \.npz of plain arrays"):
        read(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("frames.npy", zlib.compress(b""))
    with pytest.raises(ModelError, match=r"expected an \.npz of plain arrays"):
        read(path)


# --- sizes, types, numbers --------------------------------------------------------------------------------


def test_declared_sizes_are_refused_at_once(tmp_path: Path) -> None:
    def declared(*shape: int) -> Path:
        chunks = (1000 if len(shape) == 2 else 1, *shape[1:])
        return hdf5(tmp_path, lambda file: file.create_dataset("x", shape, "u1", chunks=chunks))

    with pytest.raises(ModelError, match=f"expected at most {MAX_EVENTS} at once, got 1000000000000"):
        read(declared(10**12, 8, 8))
    with pytest.raises(ModelError, match=f"expected at most {MAX_EVENTS} at once, got 400000000"):
        read(declared(4 * 10**8, 1))
    few = read(declared(4 * 10**8, 1), "index,label\n399999999,b\n0,a\n", labelled_only=True)
    assert few.facts["index"].tolist() == [0, 399999999]
    assert few.targets.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ModelError, match=r"none for 399999998: 1, 2, 3, 4, 5, \.\.\.; label them"):
        read(declared(4 * 10**8, 1), "index,label\n399999999,b\n0,a\n")


@pytest.mark.parametrize("limit", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_limit_of_memory_that_is_none(tmp_path: Path, limit: float) -> None:
    with pytest.raises(ModelError, match="--memory-gb: expected a number above 0"):
        read(npz(tmp_path, frames=frames(3)), memory_gb=limit)


def test_numbers_that_are_infinite_in_float32(tmp_path: Path) -> None:
    events = frames(6, "float64")
    events[2, 0, 0] = 1e300
    data = read(npz(tmp_path, frames=events))
    assert data.facts["index"].tolist() == [0, 1, 3, 4, 5]
    assert bool(data.inputs.isfinite().all())
    with pytest.raises(ModelError, match=r"line 3, column 'x': expected a finite number, got '1e39'; .*unit"):
        read(npz(tmp_path, frames=frames(2)), "x\n1\n1e39\n")

    def noted(file: h5py.File) -> None:
        file["entry_1/data_1/data"], file["entry_1/note_1/data"] = frames(2), np.array([[1.0], [1e39]])

    with pytest.raises(ModelError, match="expected finite numbers of float32"):
        read(hdf5(tmp_path, noted), wanted=Wanted())


# --- pipes and devices ------------------------------------------------------------------------------------


def in_time(call: Callable[[], object]) -> BaseException | None:
    """What it raised; a call that blocks fails the test instead of stopping it."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it blocks"
    return raised[0] if raised else None


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for path in (run / "a.h5", tmp_path / "a.npz", tmp_path / "a.csv"):
        os.mkfifo(path)
    events = npz(tmp_path, frames=frames(3))
    hdf5(tmp_path, lambda file: virtual(file, "run/a.h5"), "v.h5")
    hdf5(tmp_path, lambda file: growing(file, "run/a.h5"), "g.h5")
    for path, labels in (
        (run, None),
        (run / "a.h5", None),
        (tmp_path / "a.npz", None),
        (tmp_path / "v.h5", None),
        (tmp_path / "g.h5", None),
        (events, tmp_path / "a.csv"),
        (events, Path("/dev/zero")),
    ):
        error = in_time(lambda path=path, labels=labels: read(path, labels))  # type: ignore[misc]
        assert isinstance(error, ModelError), path
        assert "regular file" in str(error) or "no file" in str(error)


# --- labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\n" + "".join(f"c{i}\n" for i in range(MAX_LABELS + 1)), f"at most {MAX_LABELS} classes"),
        (
            ",".join(f"c{i}" for i in range(5000)) + "\n" + "0," * 4999 + "0\n",
            f"at most {MAX_LABELS} classes",
        ),
        ("label\nb\n" + "a" * 65 + "\n", r"line 3, column 'label': expected a printable name of 1 to 64"),
        ('label\nb\n"a\nc"\n', r"line 4, column 'label': expected a printable name"),
        ("label\na b\nx\na_b\n", r"line 4, .*rules tell apart, got 'a_b' and 'a b', both a_b there; rename"),
        ("a b,a_b\n1,0\n0,1\n", r"line 1, column 'a_b': expected names that rules tell apart"),
        ("x\u200b,y\n1,0\n0,1\n", r"line 1, column .*expected a printable name"),
        ("index,label\n" + "9" * 5000 + ",a\n", r"line 2, column 'index': expected a whole number.*9\.\.\."),
        ("index,label\n9223372036854775808,a\n", "expected a whole number"),
        ("label\n" + "a" * 200_000 + "\n", "expected a CSV file"),
        ("label\na\0\n", "line 2|expected a CSV file"),
    ],
)
def test_labels_that_no_bundle_could_hold(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        read(npz(tmp_path, frames=frames(3)), text)
    assert len(str(raised.value)) < 1000


def test_ids_with_many_zeros_before_them(tmp_path: Path) -> None:
    data = read(npz(tmp_path, frames=frames(2)), "index,label\n" + "0" * 5000 + "1,a\n0,b\n")
    assert data.targets.tolist() == [[0, 1], [1, 0]]


def test_labels_of_too_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    with path.open("wb") as file:
        file.truncate(10**10)  # a hole: it takes no space
    with pytest.raises(ModelError, match="expected at most 67108864 bytes, got 10000000000"):
        read(npz(tmp_path, frames=frames(3)), path)
