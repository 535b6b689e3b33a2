"""Events from files of every layout, their labels, their split, and every bad input with its remedy."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from models.data_sets.data_set import DataSet
from models.data_sets.files import (
    FileData,
    Wanted,
    add_data_arguments,
    data_from,
    load_files,
    wanted_by,
)
from models.data_sets.found import Where
from models.data_sets.hash_split import SHARES, SPLIT_KEY, keys_sha256, named_by, split, unseen
from models.manifest import Column, Manifest, ModelError

SHAPE = (4, 5)
CLASSES = ("Streak", "Empty")
Write = Callable[[str], Path]


def frames(n: int, dtype: str = "uint16") -> np.ndarray:
    """Frame i begins with the number i."""
    made = np.random.default_rng(0).integers(0, 1000, (n, *SHAPE)).astype(dtype)
    made[:, 0, 0] = np.arange(n)
    return made


@pytest.fixture
def csv(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return path

    return write


def plain(folder: Path, events: np.ndarray, name: str = "entry/frames") -> Path:
    path = folder / "events.h5"
    with h5py.File(path, "w") as file:
        file[name] = events
        file["entry/energy"] = np.arange(len(events))
    return path


def labelled(n: int) -> str:
    """Every third event is a streak; the others are empty."""
    return "label\n" + "".join("Streak\n" if i % 3 == 0 else "Empty\n" for i in range(n))


def read(path: Path, labels: Path | None = None, wanted: Wanted | None = None, **more: Any) -> DataSet:
    where = Where(path, **{k: more.pop(k) for k in ("dataset", "source", "key") if k in more})
    return load_files(FileData(where, labels, **more), wanted or Wanted())


# --- layouts --------------------------------------------------------------------------------------------


def test_plain_hdf5_by_name_and_by_the_shape_of_the_bundle(tmp_path: Path, csv: Write) -> None:
    path, labels = plain(tmp_path, frames(6)), csv(labelled(6))
    with h5py.File(path, "a") as file:
        file["entry/other"] = np.zeros((6, 9), np.float32)
    named = read(path, labels, dataset="entry/frames")
    found = read(path, labels, Wanted(shape=SHAPE, dtype="uint16", target_names=CLASSES))
    for data, names in ((named, ("Empty", "Streak")), (found, CLASSES)):
        assert data.inputs.dtype == torch.uint16
        assert np.array_equal(data.inputs.numpy(), frames(6))
        assert data.target_names == names
        assert data.targets[:, names.index("Streak")].tolist() == [1, 0, 0, 1, 0, 0]
        assert data.facts["index"].tolist() == list(range(6))
    with pytest.raises(
        ModelError, match=r"expected one dataset \[events, ...\], got 2; name it with --dataset.*"
    ):
        read(path, labels)


def test_npz_with_ids(tmp_path: Path, csv: Write) -> None:
    path = tmp_path / "events.npz"
    np.savez(path, frames=frames(4), train_id=np.array([7, 7, 8, 8]), pulse_id=np.array([0, 1, 0, 1]))
    labels = csv("train_id,pulse_id,Streak,Empty\n8,1,1,0\n7,0,0,1\n7,1,0,0\n8,0,1,1\n")
    data = read(path, labels)
    assert data.targets.tolist() == [[0, 1], [0, 0], [1, 1], [1, 0]]
    assert data.facts["train_id"].tolist() == [7, 7, 8, 8]
    assert data.facts["pulse_id"].tolist() == [0, 1, 0, 1]
    np.savez(path, a=frames(4), b=frames(4))
    with pytest.raises(ModelError, match=r"got \['a', 'b'\]; name it with --dataset.*a uint16 \[4, 4, 5\]"):
        read(path, labels)
    assert np.array_equal(read(path, csv(labelled(4)), dataset="b").inputs.numpy(), frames(4))


def test_an_npz_with_objects_or_none_at_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.npz"
    np.savez(path, events=np.array([{"a": 1}, None], object))
    with pytest.raises(ModelError, match="there are: no arrays"):
        read(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(ModelError, match=r"expected an \.npz of plain arrays"):
        read(path)


def test_cxi_with_an_image_per_entry_and_labels_in_the_notes(tmp_path: Path) -> None:
    """As cxidb.org id-94: entries in the order of their numbers, not of their names."""
    path, truth = tmp_path / "helium.cxi", np.array([[i % 2, i % 3 == 0] for i in range(12)], float)
    with h5py.File(path, "w") as file:
        for i, frame in enumerate(frames(12)):
            file[f"entry_{i + 1}/instrument_1/detector_1/data"] = frame
            file[f"entry_{i + 1}/note_1/data"] = truth[i]
    data = read(path, wanted=Wanted(shape=SHAPE, target_names=CLASSES, classes=True))
    assert data.inputs[:, 0, 0].tolist() == list(range(12))
    assert np.array_equal(data.targets.numpy(), truth)
    assert read(path).target_names == ("class_0", "class_1")
    with pytest.raises(ModelError, match=r"expected 1 numbers an event for \['Streak'\], got 2"):
        read(path, wanted=Wanted(target_names=("Streak",)))
    with h5py.File(path, "a") as file:
        file["entry_13/instrument_1/detector_1/data"] = np.zeros((2, 2), np.uint16)
    with pytest.raises(
        ModelError, match=r"entry_13.*expected uint16 \[4, 5\] as in entry_1, got uint16 \[2, 2\]"
    ):
        read(path)


def test_cxi_with_stacked_events(tmp_path: Path, csv: Write) -> None:
    path = tmp_path / "run.cxi"
    with h5py.File(path, "w") as file:
        file["entry_1/instrument_1/detector_1/data"] = frames(5, "float32")
        file["entry_1/data_1"] = h5py.SoftLink("/entry_1/instrument_1/detector_1")
        file["entry_1/trainId"], file["entry_1/pulseId"] = np.full(5, 9), np.arange(5)
    data = read(path, csv("train_id,pulse_id,label\n" + "".join(f"9,{i},c{i % 2}\n" for i in range(5))))
    assert data.inputs.dtype == torch.float32
    assert data.facts["pulse_id"].tolist() == list(range(5))
    with h5py.File(tmp_path / "empty.cxi", "w") as file:
        file["entry_1/other"] = np.zeros(3)
    with pytest.raises(ModelError, match=r"expected CXI images.*there are: entry_1/other float64 \[3\]"):
        read(tmp_path / "empty.cxi")


SOURCE, KEY = "DET/DET/PNCCD:output", "data.image"


def exdf(path: Path, trains: list[int], counts: list[int], first_number: int, spare: int = 0) -> None:
    """A European XFEL file: `counts` frames in each train, and `spare` rows that no train points to."""
    n = sum(counts)
    events = np.zeros((n + spare, *SHAPE), np.uint16)
    events[:n] = first_number
    events[:n, 0, 0] = np.arange(first_number, first_number + n)
    with h5py.File(path, "w") as file:
        file["INDEX/trainId"] = np.array([*trains, 0], np.uint64)
        file[f"INDEX/{SOURCE}/data/first"] = np.array([*np.cumsum([0, *counts])[:-1], 0], np.uint64)
        file[f"INDEX/{SOURCE}/data/count"] = np.array([*counts, 0], np.uint64)
        file[f"INSTRUMENT/{SOURCE}/data/image"] = events
        pulses = np.concatenate([2 * np.arange(count) for count in counts])
        file[f"INSTRUMENT/{SOURCE}/data/pulseId"] = np.append(pulses, np.zeros(spare)).astype(np.uint64)
        file["INSTRUMENT/XGM:output/data/intensity"] = np.ones((n, 9), np.float32)


def test_european_xfel_run_folder(tmp_path: Path, csv: Write) -> None:
    exdf(tmp_path / "CORR-R0001-PNCCD-S00000.h5", [10, 11, 12], [2, 0, 1], 0, spare=4)
    exdf(tmp_path / "CORR-R0001-PNCCD-S00001.h5", [13], [3], 3)
    ids = [(10, 0), (10, 2), (12, 0), (13, 0), (13, 2), (13, 4)]
    lines = [f"{train},{pulse},c{i % 2}" for i, (train, pulse) in enumerate(ids)]
    labels = csv("train_id,pulse_id,label\n" + "\n".join(reversed(lines)))
    for more in ({"source": SOURCE, "key": KEY}, {"key": KEY}):
        data = read(tmp_path, labels, **more)
        assert data.inputs[:, 0, 0].tolist() == list(range(6))
        assert list(zip(*(data.facts[n].tolist() for n in ("train_id", "pulse_id")), strict=True)) == ids
        assert data.targets[:, 1].tolist() == [0, 1] * 3
    assert len(read(tmp_path, labels, Wanted(shape=SHAPE))) == 6, "the shape says which key is meant"
    with pytest.raises(
        ModelError, match=r"name them with --source and --key; 2 files hold: DET/DET/PNCCD:outp.*"
    ):
        read(tmp_path, labels)
    with pytest.raises(ModelError, match=r"no file holds DET nothing.a; 2 files hold"):
        read(tmp_path, labels, source="DET", key="nothing.a")


def test_some_rows_of_several_files_are_read_as_they_lie(tmp_path: Path, csv: Write) -> None:
    exdf(tmp_path / "a.h5", [10, 11], [4, 4], 0)
    exdf(tmp_path / "b.h5", [12], [5], 8)
    labels = csv("index,label\n" + "".join(f"{i},c{i % 2}\n" for i in (12, 1, 2, 7, 9, 5)))
    data = read(tmp_path, labels, key=KEY, labelled_only=True)
    assert data.inputs[:, 0, 0].tolist() == [1, 2, 5, 7, 9, 12]
    assert data.targets[:, 1].tolist() == [1, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("version", ["0.5", "1.2"])
def test_european_xfels_own_examples_are_read_as_extra_data_reads_them(
    tmp_path: Path, csv: Write, version: str
) -> None:
    from extra_data import H5File
    from extra_data.tests.make_examples import make_fxe_da_file

    path, source, key = (
        tmp_path / "RAW-R0450-DA01-S00001.h5",
        "FXE_XAD_GEC/CAM/CAMERA:daqOutput",
        "data.image.pixels",
    )
    make_fxe_da_file(str(path), format_version=version)
    with h5py.File(path, "a") as file:
        pixels = file[f"INSTRUMENT/{source}/data/image/pixels"]
        pixels[:, 0, 0] = np.arange(len(pixels))
    with H5File(path) as run:
        known = run[source, key]
        expected, trains = known.ndarray()[:20, :4, :4], known.train_id_coordinates()[:20].tolist()
    labels = csv("train_id,pulse_id,label\n" + "".join(f"{t},0,c{t % 2}\n" for t in trains))
    data = read(path, labels, source=source, key=key, labelled_only=True)
    assert np.array_equal(data.inputs[:, :4, :4].numpy(), expected)
    assert data.facts["train_id"].tolist() == trains


def test_a_folder_with_every_event_twice_is_refused(tmp_path: Path, csv: Write) -> None:
    exdf(tmp_path / "a.h5", [10], [3], 0)
    exdf(tmp_path / "b.h5", [10], [3], 0)
    labels = csv("train_id,pulse_id,label\n10,0,a\n10,2,b\n10,4,a\n")
    with pytest.raises(ModelError, match=r"expected each event once, got 3 again: 10/0, 10/2, 10/4"):
        read(tmp_path, labels, key=KEY)


def test_the_streams_own_files_are_read_back(tmp_path: Path, csv: Write) -> None:
    from streamer.store.series import Series
    from streamer.store.spec import KeySpec, RunInfo, SeriesSpec, TableSpec

    table = TableSpec(SOURCE, (KeySpec(KEY, np.dtype("uint16"), SHAPE),))
    series = Series(SeriesSpec("s_all", tmp_path, (table,), 8, 8), RunInfo(1, 1, "20261120T000000Z", {}), 0)
    series.prepare()
    cursor = np.zeros(Series.CURSOR_INTS, np.int64)
    series.resume(cursor)
    ids = np.full(5, 77, np.uint64), np.arange(5, dtype=np.uint64)
    series.append(cursor, *ids, [[frames(5)]], 1.0, None)
    series.close(cursor)
    data = read(tmp_path, csv("train_id,pulse_id,label\n" + "".join(f"77,{i},c{i % 2}\n" for i in range(5))))
    assert np.array_equal(data.inputs.numpy(), frames(5))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a file or a folder, there is none"):
        read(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("x")
    with pytest.raises(ModelError, match=r"text.h5: expected an HDF5 or .npz file"):
        read(tmp_path / "text.h5")
    with pytest.raises(
        ModelError, match=r"'entry/none'.*got none; there are: entry/frames uint16 \[3, 4, 5\]"
    ):
        read(plain(tmp_path, frames(3)), dataset="entry/none")


# --- events that do not fit -------------------------------------------------------------------------------


def test_the_shape_and_kind_of_the_bundle(tmp_path: Path, csv: Write) -> None:
    path, labels = plain(tmp_path, frames(6)), csv(labelled(6))
    with pytest.raises(ModelError, match=r"expected \[8, 8\], got \[4, 5\]; crop or bin"):
        read(path, labels, Wanted(shape=(8, 8)), dataset="entry/frames")
    with pytest.raises(ModelError, match=r"expected float32, got uint16; raw counts are integers"):
        read(path, labels, Wanted(shape=SHAPE, dtype="float32"))
    with pytest.raises(ModelError, match="expected at least one event, got none"):
        read(plain(tmp_path, frames(0)), labels, dataset="entry/frames")


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        ("int64", "uint16", torch.uint16),
        (">u2", None, torch.uint16),
        ("int64", None, torch.uint16),
        ("uint8", None, torch.uint8),
        ("float64", None, torch.float32),
        ("float16", "float32", torch.float32),
    ],
)
def test_numbers_come_in_a_type_of_the_stream(
    tmp_path: Path, csv: Write, stored: str, wanted: str | None, expected: torch.dtype
) -> None:
    events = (frames(6) % 200).astype(stored)
    data = read(plain(tmp_path, events), csv(labelled(6)), Wanted(shape=SHAPE, dtype=wanted))
    assert data.inputs.dtype == expected
    assert np.array_equal(data.inputs.double().numpy(), events.astype(float))


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, csv: Write) -> None:
    events = frames(6).astype(np.int32)
    events[3, 2, 2] = -70_000
    with pytest.raises(ModelError, match="expected numbers that fit uint16, got -70000 to"):
        read(plain(tmp_path, events), csv(labelled(6)), Wanted(shape=SHAPE, dtype="uint16"))


def test_events_with_nan_are_left_out_and_all_of_them_an_error(
    tmp_path: Path, csv: Write, caplog: pytest.LogCaptureFixture
) -> None:
    events = frames(6, "float32")
    events[2, 1, 1], events[4, 0, 3] = np.nan, np.inf
    with caplog.at_level(logging.WARNING):
        data = read(plain(tmp_path, events), csv(labelled(6)), Wanted(shape=SHAPE))
    assert "2 of 6 hold NaN or infinity and are left out" in caplog.text
    assert data.inputs[:, 0, 0].tolist() == [0, 1, 3, 5]
    assert data.targets[:, 1].tolist() == [1, 0, 1, 0]
    assert data.facts["index"].tolist() == [0, 1, 3, 5]
    with pytest.raises(ModelError, match="got NaN or infinity in each of 6 events; mask dead pixels"):
        read(plain(tmp_path, np.full((6, *SHAPE), np.nan)), csv(labelled(6)), Wanted(shape=SHAPE))


def test_too_many_bytes_are_refused_before_one_is_read(tmp_path: Path, csv: Write) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", (10**5, 1000, 1000), "uint16", chunks=(1, 1000, 1000))
    with pytest.raises(ModelError, match=r"100000 of \[1000, 1000\] uint16 take 200.00 GB.*--memory-gb"):
        read(path, wanted=Wanted(labelled=False))
    labels = csv("index,label\n3,a\n99999,b\n")
    np.savez(tmp_path / "whole.npz", x=np.zeros((10**5, 2), np.uint8))
    with pytest.raises(ModelError, match=r"100000 of .* take 0.00 GB of memory, the limit is 0.0001 GB"):
        read(tmp_path / "whole.npz", labels, labelled_only=True, memory_gb=0.0001)
    data = read(path, labels, labelled_only=True)
    assert data.inputs.shape == (2, 1000, 1000)


# --- labels -----------------------------------------------------------------------------------------------


def test_without_labels_only_where_none_are_needed(tmp_path: Path) -> None:
    path = plain(tmp_path, frames(6))
    with pytest.raises(
        ModelError, match="expected labels, got a file without any; name a CSV file with --labels"
    ):
        read(path, wanted=Wanted(shape=SHAPE))
    data = read(path, wanted=Wanted(shape=SHAPE, labelled=False))
    assert data.targets.shape == (6, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header and a line per event, got 0 lines"),
        ("label\n", "got 1 lines"),
        ("label;group\nStreak;1\n", "commas between the columns"),
        ("label,label\na,b\n", "a name for each column, each once"),
        ("index,label\n0,Streak,x\n", r"line 2: expected 2 cells, got 3"),
        ("index\n0\n1\n", "expected a column 'label', or one per class, got only ids"),
        ("label\n" + "Streak\n" * 5 + "Blob\n", r"line 7: expected one of \['Streak', 'Empty'\], got 'Blob'"),
        ("index,label\n0,Streak\n1,\n", r"line 3: .* got ''; label it"),
        ("Streak,Blob\n1,0\n", r"expected columns of \['Streak', 'Empty'\], got unknown \['Blob'\]"),
        ("Streak\n1\n", r"expected a column for each of .* got none for \['Empty'\]"),
        ("Streak,Empty\n1,0\n1,nan\n", r"line 3, column 'Empty': expected a finite number, got 'nan'"),
        ("Streak,Empty\n1,0\n1,yes\n", "line 3, column 'Empty'.*got 'yes'; correct it"),
        ("Streak,Empty\n1,0\n,1\n", "line 3, column 'Streak'.*got ''"),
        ("Streak,Empty\n" + "1,0\n0,1\n" * 2 + "0,2\n1,0\n", "expected 0 or 1 for each class, got 2"),
        (labelled(5), "expected 6 lines, one per event of .*, got 5; add columns train_id"),
        ("label\n" + "Streak\n" * 6, r"expected at least two classes, got \['Streak'\] for all 6 events"),
        ("Streak,Empty\n" + "0,0\n" * 6, "got no class for all 6 events"),
        (
            "index,label\n" + "".join(f"{i},Empty\n" for i in (0, 1, 2, 2, 3, 3)),
            "got 2 again: 2, 3; keep one",
        ),
        ("index,label\n0,Streak\n9,Empty\n", r"1 of others: 9; take these lines out"),
        ("index,label\n0,Streak\n5,Empty\n", r"none for 4: 1, 2, 3, 4; label them.*--labelled-only"),
        ("index,label\n-1,Streak\n", "line 2, column 'index': expected a whole number, 0 or more, got '-1'"),
        ("train_id,label\n1,Streak\n", r"expected both .*, got no \['pulse_id'\]"),
        ("train_id,pulse_id,label\n1,2,Streak\n", "which .* does not have; number the events from 0"),
    ],
)
def test_labels_that_do_not_fit_say_where_and_what_to_do(
    tmp_path: Path, csv: Write, text: str, message: str
) -> None:
    wanted = Wanted(shape=SHAPE, target_names=CLASSES, classes=True)
    with pytest.raises(ModelError, match=message):
        read(plain(tmp_path, frames(6)), csv(text), wanted)


def test_exclusive_classes_are_one_each(tmp_path: Path, csv: Write) -> None:
    path, wanted = plain(tmp_path, frames(4)), Wanted(shape=SHAPE, classes=True, exclusive=True)
    with pytest.raises(ModelError, match="expected one class an event, got none or several for 2 events"):
        read(path, csv("a,b\n1,0\n1,1\n0,0\n0,1\n"), wanted)
    assert read(path, csv("a,b\n1,0\n1,0\n0,1\n0,1\n"), wanted).targets.sum().item() == 4


def test_labels_that_are_no_csv_file(tmp_path: Path) -> None:
    path = plain(tmp_path, frames(4))
    with pytest.raises(ModelError, match=r"expected a CSV file in UTF-8, got .*No such file"):
        read(path, tmp_path / "none.csv", Wanted(shape=SHAPE))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="expected a CSV file in UTF-8"):
        read(path, tmp_path / "binary.csv", Wanted(shape=SHAPE))


def test_numbers_are_targets_and_a_class_that_never_occurs_is_said(
    tmp_path: Path, csv: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = plain(tmp_path, frames(3))
    data = read(path, csv("spacing,ramp\n1.5,0\n2.5,0.5\n3.5,1\n"), Wanted(shape=SHAPE))
    assert data.targets.tolist() == [[1.5, 0.0], [2.5, 0.5], [3.5, 1.0]]
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        read(path, csv("a,b\n1,0\n0,0\n1,0\n"), Wanted(shape=SHAPE))
    assert "no event is of class b" in caplog.text


def manifest(kind: str, **changes: Any) -> Manifest:
    columns = (Column("p", "float32", CLASSES), Column("labels", "uint32"))
    if kind == "encoder_decoder":
        columns = (Column("latent", "float32", ("t0",)), Column("target", "float32", ("x", "y")))
    given: dict[str, Any] = {
        "name": "b", "kind": kind, "architecture": "a", "options": {}, "input_shape": SHAPE,
        "input_dtype": "uint16", "preprocess": {}, "columns": columns, "scores": {},
        "training": {"seed": 3, "data": {}}, "weights_sha256": "", "golden_sha256": "", "created": "",
    }  # fmt: skip
    return Manifest(**(given | changes))


def test_what_each_kind_of_bundle_wants() -> None:
    assert wanted_by(manifest("classifier")) == Wanted(SHAPE, "uint16", CLASSES, True, classes=True)
    assert wanted_by(manifest("phases")).exclusive
    assert wanted_by(manifest("encoder_decoder")).target_names == ("x", "y")
    assert not wanted_by(manifest("encoder_decoder")).classes
    assert wanted_by(manifest("vae_mixture")).target_names == ()


# --- the split --------------------------------------------------------------------------------------------


def many(tmp_path: Path, csv: Write, n: int = 2000, groups: int = 0) -> DataSet:
    path = tmp_path / "many.npz"
    np.savez(path, x=np.arange(n * 2).reshape(n, 2))
    group = [f"ramp {i % groups}" if groups else "" for i in range(n)]
    head = "label,group\n" if groups else "label\n"
    lines = [f"c{i % 2},{group[i]}" if groups else f"c{i % 2}" for i in range(n)]
    return read(path, csv(head + "\n".join(lines)), group="group" if groups else "")


def test_the_split_has_its_shares_and_stays_when_events_are_added(tmp_path: Path, csv: Write) -> None:
    parts = split(many(tmp_path, csv), seed=1)
    sizes = {name: len(part) for name, part in parts.items()}
    assert sum(sizes.values()) == 2000
    for name, share in SHARES.items():
        assert abs(sizes[name] / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)
    fewer = split(many(tmp_path, csv, 1000), seed=1)
    for name, part in fewer.items():
        assert set(part.facts["index"].tolist()) == {
            i for i in parts[name].facts["index"].tolist() if i < 1000
        }
    other = split(many(tmp_path, csv), seed=2)
    assert other["test"].facts["index"].tolist() != parts["test"].facts["index"].tolist()


def test_a_group_stays_in_one_part(tmp_path: Path, csv: Write) -> None:
    data = many(tmp_path, csv, groups=40)
    assert len(data.facts[SPLIT_KEY].unique()) == 40
    parts = split(data, seed=1)
    found = [set((part.facts["index"] % 40).tolist()) for part in parts.values()]
    assert sum(map(len, found)) == 40


def test_too_few_groups_leave_a_part_empty(tmp_path: Path, csv: Write) -> None:
    with pytest.raises(ModelError, match=r"with 2 groups or ids: expected some in each part.*label more"):
        split(many(tmp_path, csv, groups=2), seed=1)
    with pytest.raises(ModelError, match=r"expected a column 'ramp' with the group.*correct --group"):
        read(plain(tmp_path, frames(4)), csv(labelled(4)), Wanted(shape=SHAPE), group="ramp")


def test_a_bundle_trained_on_files_is_judged_by_what_it_did_not_see(
    tmp_path: Path, csv: Write, caplog: pytest.LogCaptureFixture
) -> None:
    data = many(tmp_path, csv)
    own = trained_on(data)
    with caplog.at_level(logging.WARNING):
        held_out = unseen(data, own)
    assert held_out.facts["index"].tolist() == split(data, 3)["test"].facts["index"].tolist()
    assert f"trained on run.h5: only the {len(held_out)} of 2000 events are used" in caplog.text
    with pytest.raises(
        ModelError, match=r"--all-events: expected events that it never saw, got those of run"
    ):
        unseen(data, own, everything=True)
    seen = data.take(split(data, 3)["train"].facts["index"])
    with pytest.raises(ModelError, match=r"held out, got none among \d+; --all-events takes all"):
        unseen(seen, own)
    later = data.take(torch.arange(100))
    assert len(unseen(later, own, everything=True)) == 100
    assert len(unseen(data, manifest("classifier"))) == 2000, "trained on simulated events"


def trained_on(data: DataSet) -> Manifest:
    files = {"data": "run.h5", "group": "run", "named_by": named_by(data), "ids_sha256": keys_sha256(data)}
    return manifest("classifier", training={"seed": 3, "files": files})


def test_a_bundle_that_does_not_say_what_it_was_trained_on(tmp_path: Path, csv: Write) -> None:
    data, nameless = many(tmp_path, csv, 50), manifest("classifier", training={"seed": 3})
    with pytest.raises(ModelError, match="its manifest names no data; give --all-events"):
        unseen(data, nameless)
    assert len(unseen(data, nameless, everything=True)) == 50


def test_events_without_ids_are_known_again_when_the_file_is_cut_sorted_and_stored_anew(
    tmp_path: Path, csv: Write
) -> None:
    """Named by their place, two thirds of these would pass for held out though they were trained on."""
    data = many(tmp_path, csv)
    trained = set(split(data, 3)["train"].facts["index"].tolist())
    rows = np.random.default_rng(4).permutation(2000)[:500]
    np.savez(tmp_path / "cut.npz", x=np.arange(4000, dtype=np.int32).reshape(2000, 2)[rows])
    wanted = Wanted(shape=(2,), dtype="uint16")
    cut = read(tmp_path / "cut.npz", csv("label\n" + "".join(f"c{i % 2}\n" for i in rows)), wanted)
    held_out = rows[unseen(cut, trained_on(data)).facts["index"].numpy()]
    assert 30 < len(held_out) < 130
    assert not trained & set(held_out.tolist())


def test_events_under_another_name_are_refused(tmp_path: Path, csv: Write) -> None:
    """A group or id hashes into another part than the same event's bytes."""
    by_group, by_content = many(tmp_path, csv, 200, groups=40), many(tmp_path, csv, 200)
    np.savez(
        tmp_path / "ids.npz", x=np.arange(400).reshape(200, 2), train_id=np.arange(200), pulse_id=[0] * 200
    )
    by_ids = read(tmp_path / "ids.npz", csv(labelled(200)))
    assert [named_by(data) for data in (by_group, by_ids, by_content)] == ["group", "ids", "content"]
    with pytest.raises(
        ModelError, match=r"named by group .* named by content; give --labels with the column 'run'"
    ):
        unseen(by_content, trained_on(by_group))
    with pytest.raises(ModelError, match=r"named by ids .* named by group; give the file with train_id"):
        unseen(by_group, trained_on(by_ids))
    with pytest.raises(ModelError, match=r"named by content .* named by ids; give the events without ids"):
        unseen(by_ids, trained_on(by_content))
    assert len(unseen(by_ids, trained_on(by_content), everything=True)) == 200


def test_the_options_of_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_data_arguments(parser, judging=True)
    given = ["--labels", "l.csv", "--source", SOURCE, "--key", KEY, "--group", "run", "--labelled-only"]
    data = data_from("run", parser.parse_args(given))
    expected = FileData(Where(Path("run"), "", SOURCE, KEY), Path("l.csv"), "run", labelled_only=True)
    assert data == expected
