"""Files of events and labels that are damaged, too large, no files, or that no bundle could hold: one clear
error, at once. HDF5 alone: test_hostile_hdf5.py.
"""

import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile_cases import SHAPE, frames, growing, hdf5, npz, read, virtual

from models.data_sets.files import Wanted
from models.data_sets.found import MAX_EVENTS
from models.manifest import MAX_LABELS, ModelError

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
