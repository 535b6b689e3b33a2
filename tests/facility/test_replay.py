"""Replay: runs as EXtra-data reads them, plain HDF5 and npz as their rows, clear errors for the rest."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from extra_data import RunDirectory
from extra_data.tests import make_examples
from karabo_bridge import Client

from streamer.errors import ConfigError
from streamer.facility.replay import ReplayOptions, open_recordings, recorded_trains, replay
from streamer.facility.serve import ServerOptions
from streamer.wire.karabo_bridge import Train, decode

TIMEOUT_S = 10


def read_all(options: ReplayOptions) -> list[Train]:
    """Every train as the wire has it."""
    recordings = open_recordings(options)
    try:
        return [
            decode([memoryview(part) for part in message.parts])
            for message in recorded_trains(recordings, options)
        ]
    finally:
        for recording in recordings:
            recording.close()


@pytest.fixture(scope="module", params=["0.5", "1.2"])
def run_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two modules with frames that vary in number, two monitors of pulse energy, a camera."""
    folder = tmp_path_factory.mktemp("run")
    generator = np.random.RandomState(1)
    make_examples.make_reduced_spb_run(folder, raw=False, rng=generator, format_version=request.param)
    for path in folder.glob("CORR-R0238-AGIPD*.h5"):
        if int(path.name[16:18]) > 1:  # two modules tell as much as sixteen
            path.unlink()
    return folder


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "curves.npz"
    intensity = np.arange(50, dtype=np.float32).reshape(5, 10)
    np.savez(path, intensity=intensity, label=np.arange(5), shot=np.array([7, 7, 9, 9, 9]))
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as file:
        file["entry/frames"] = np.arange(4 * 3 * 2 * 2, dtype=np.uint16).reshape(4, 3, 2, 2)
        file["entry/ids"] = np.arange(100, 104)
        file["entry/name"] = "no numbers"
    return path


def test_a_run_equals_what_extra_data_reads(run_directory: Path) -> None:
    modules = "SPB_DET_AGIPD1M-1/DET/*CH0:xtdf"
    select = (f"{modules}[image.*]", "SA1_XTD2_XGM/DOOCS/MAIN:output")
    trains = read_all(ReplayOptions((run_directory,), trains=20, select=select))
    run = RunDirectory(run_directory).select([(modules, "image.*"), ("SA1_XTD2_XGM/DOOCS/MAIN:output", "*")])
    counts = set()
    for train, train_id in zip(trains, run.train_ids, strict=False):
        _, wanted = run.train_from_id(train_id, keep_dims=True)
        assert set(train.sources) == set(wanted)
        for source, values in wanted.items():
            data = train.sources[source]
            assert data.metadata["timestamp.tid"] == train_id == train.train_id(source)
            assert set(data.arrays | data.values) == set(values) - {"metadata"}
            for key, value in data.values.items():
                assert values[key].tolist() == [value]
            for key, array in data.arrays.items():
                expected = values[key] if source.endswith("xtdf") else values[key][0]
                assert array.dtype == values[key].dtype
                assert np.array_equal(array, expected, equal_nan=True)
        counts.add(len(train.sources["SPB_DET_AGIPD1M-1/DET/0CH0:xtdf"].arrays.get("image.data", ())))
    assert len(trains) == 20
    assert 0 in counts  # trains without frames came too
    assert len(counts) > 5


def test_all_instrument_sources_and_no_others_by_default(run_directory: Path) -> None:
    (train,) = read_all(ReplayOptions((run_directory,), trains=1))
    assert set(train.sources) == RunDirectory(run_directory).instrument_sources


def test_control_values_on_request(run_directory: Path) -> None:
    xgm = "SA1_XTD2_XGM/DOOCS/MAIN"
    options = ReplayOptions((run_directory,), trains=2, select=(f"{xgm}[beamPosition.ixPos.value]",))
    wanted = RunDirectory(run_directory)[xgm, "beamPosition.ixPos"].ndarray()
    values = [train.sources[xgm].values["beamPosition.ixPos.value"] for train in read_all(options)]
    assert values == wanted[:2].tolist()


def test_first_axis_can_be_kept(run_directory: Path) -> None:
    camera = "SPB_IRU_CAM/CAM/SIDEMIC:daqOutput[data.image.pixels]"
    options = ReplayOptions((run_directory,), trains=1, select=(camera,))
    for keep, shape in ((False, (1024, 768)), (True, (1, 1024, 768))):
        (train,) = read_all(replace(options, keep_first_axis=keep))
        assert train.sources[camera.partition("[")[0]].arrays["data.image.pixels"].shape == shape


def test_recorded_times_are_sent(tmp_path: Path) -> None:
    make_examples.make_modern_spb_proc_run(tmp_path)
    path = sorted(tmp_path.glob("*.h5"))[0]
    with h5py.File(path, "a") as file:
        file["INDEX/timestamp"][0] = 1_600_000_000_500_000_000
    (train,) = read_all(ReplayOptions((path,), trains=1))
    metadata = next(iter(train.sources.values())).metadata
    assert metadata["timestamp"] == 1_600_000_000.5
    assert metadata["timestamp.frac"] == "5" + "0" * 17


def test_events_of_an_npz_become_trains(npz: Path) -> None:
    datasets = ("intensity=LAB:output[data.intensity]", "label=LAB:output[data.label]")
    trains = read_all(ReplayOptions((npz,), datasets=datasets, pulses=2, first_train_id=50))
    assert [train.train_id("LAB:output") for train in trains] == [50, 51, 52]
    arrays = [train.sources["LAB:output"].arrays for train in trains]
    assert np.concatenate([array["data.intensity"] for array in arrays]).tolist() == (
        np.arange(50.0).reshape(5, 10).tolist()
    )
    assert [array["data.pulseId"].tolist() for array in arrays] == [
        [0, 1],
        [0, 1],
        [0],
    ]  # the rest is sent too
    assert [array["data.label"].tolist() for array in arrays] == [[0, 1], [2, 3], [4]]


def test_train_ids_of_the_file_cut_the_trains(npz: Path) -> None:
    options = ReplayOptions((npz,), datasets=("intensity=LAB[data.intensity]",), train_ids="shot")
    trains = read_all(options)
    assert [train.train_id("LAB") for train in trains] == [7, 9]
    assert [len(train.sources["LAB"].arrays["data.intensity"]) for train in trains] == [2, 3]


def test_rows_can_be_trains(plain: Path) -> None:
    datasets = ("entry/frames=CAM[image.data]",)
    options = ReplayOptions((plain,), datasets=datasets, axis="train", train_ids="entry/ids")
    trains = read_all(options)
    assert [train.train_id("CAM") for train in trains] == [100, 101, 102, 103]
    assert trains[1].sources["CAM"].arrays["image.data"].tolist() == (
        np.arange(12, 24).reshape(3, 2, 2).tolist()
    )


def test_a_loop_goes_on_with_new_ids(npz: Path, plain: Path) -> None:
    options = ReplayOptions((npz,), datasets=("intensity=LAB[data.x]",), pulses=2, loop=True, trains=8)
    assert [train.train_id("LAB") for train in read_all(options)] == list(range(10_000, 10_008))
    options = ReplayOptions(
        (plain, plain),
        datasets=("entry/ids=LAB[data.x]",),
        axis="train",
        loop=True,
        trains=10,
        first_train_id=0,
    )
    assert [train.train_id("LAB") for train in read_all(options)] == list(range(10))


@pytest.mark.parametrize("version", ["1.0", "2.2"])
@pytest.mark.parametrize(("socket", "peer"), [("REP", "REQ"), ("PUB", "SUB"), ("PUSH", "PULL")])
def test_the_official_client_reads_a_replay(
    npz: Path, tmp_path: Path, socket: str, peer: str, version: Any
) -> None:
    options = ReplayOptions(
        (npz,),
        ServerOptions(f"ipc://{tmp_path}/replay.sock", socket),  # type: ignore[arg-type]
        version,
        rate_hz=0,
        datasets=("intensity=LAB[data.intensity]",),
    )
    reports = []
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    thread = threading.Thread(target=lambda: reports.append(replay(options)))
    with Client(f"ipc://{tmp_path}/replay.sock", peer, timeout=TIMEOUT_S) as client:
        thread.start()
        rows = [client.next()[0]["LAB"]["data.intensity"] for _ in range(5)]
    thread.join(TIMEOUT_S)
    assert np.concatenate(rows).tolist() == np.arange(50.0).reshape(5, 10).tolist()
    assert [(report.messages_sent, report.trains_recorded) for report in reports] == [(5, 5)]
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_a_stop_ends_an_endless_replay(npz: Path) -> None:
    stopped = threading.Event()
    options = ReplayOptions((npz,), loop=True, datasets=("intensity=LAB[data.x]",))
    report = replay(options, stopped.is_set, on_ready=lambda _: stopped.set())
    assert report.messages_sent == 0


def break_file(path: Path) -> Iterator[tuple[str, str]]:
    """Datasets that must not be read, each with a word of the refusal."""
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(4)
    layout = h5py.VirtualLayout((4,), "i8")
    layout[:] = h5py.VirtualSource(other, "secret", (4,))
    with h5py.File(path, "a") as file:
        file["linked"] = h5py.ExternalLink(other, "secret")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (4,), "u1", external=[(str(other), 0, 4)])
        file["texts"] = ["a", "b", "c", "d"]
        file.create_dataset("huge", (4, 1 << 33), "u1", chunks=(1, 1 << 31))
        file.create_dataset("wide", (4, 1 << 33), "u1", chunks=(1, 1 << 20))
        file["scalar"] = 3
    for name in ("linked", "virtual", "raw"):
        yield name, "another file"
    yield from (("texts", "expected numbers"), ("huge", "chunks"), ("wide", "bytes in a train"))
    yield from (("scalar", "number of rows"), ("nothing", "no dataset"), ("entry", "no dataset"))


def test_datasets_that_are_not_plain_numbers_are_refused(plain: Path) -> None:
    for name, words in break_file(plain):
        with pytest.raises(ConfigError, match=words):
            open_recordings(ReplayOptions((plain,), datasets=(f"{name}=LAB[data.x]",)))


def test_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match="allow_pickle"):
        open_recordings(ReplayOptions((path,), datasets=("x=LAB[data.x]",)))


def test_an_index_past_the_end_is_refused(tmp_path: Path) -> None:
    make_examples.make_modern_spb_proc_run(tmp_path)
    path = sorted(tmp_path.glob("*.h5"))[0]
    with h5py.File(path, "a") as file:
        source = next(iter(file["INDEX/SPB_DET_AGIPD1M-1/CORR"]))
        file[f"INDEX/SPB_DET_AGIPD1M-1/CORR/{source}/image/first"][3] = 2**63
    with pytest.raises(ConfigError, match="points past"):
        open_recordings(ReplayOptions((path,)))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("absent.h5", {}, "does not exist"),
        ("empty", {}, "no .h5 files"),
        ("text.h5", {}, "cannot read"),
        ("text.npz", {"datasets": ("x=LAB[data.x]",)}, "cannot read"),
        ("curves.npz", {}, "intensity, label, shot"),
        ("plain.h5", {}, "entry/frames, entry/ids"),
        ("plain.h5", {"select": ("CAM",)}, "select is for runs"),
        ("curves.npz", {"datasets": ("x=LAB[data.x]",)}, "no dataset 'x'"),
        ("curves.npz", {"datasets": ("x",)}, "expected DATASET=SOURCE"),
        ("curves.npz", {"datasets": ("label=A[b]",), "train_ids": "intensity"}, "one growing integer"),
    ],
)
def test_errors_say_what_is_wrong(
    tmp_path: Path, npz: Path, plain: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    assert npz.parent == plain.parent == tmp_path
    (tmp_path / "empty").mkdir()
    for text in ("text.h5", "text.npz"):
        (tmp_path / text).write_text("not a file of that kind")
    with pytest.raises(ConfigError, match=words):
        open_recordings(ReplayOptions((tmp_path / name,), **changes))


def test_a_run_without_the_wanted_source(run_directory: Path) -> None:
    with pytest.raises(ConfigError, match="no sources that match NOTHING"):
        open_recordings(ReplayOptions((run_directory,), select=("NOTHING",)))


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": ()},
        {"pulses": 0},
        {"version": "3"},
        {"axis": "module"},
        {"trains": -1},
        {"rate_hz": -1.0},
        {"select": ("a",), "datasets": ("b=c[d]",)},
    ],
)
def test_bad_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="replay: "):
        ReplayOptions(**({"paths": (Path("x.h5"),)} | changes))


def test_the_command(npz: Path) -> None:
    words = [
        "--dataset",
        "intensity=LAB[data.x]",
        "--rate",
        "0",
        "--no-wait",
        "--send-timeout",
        "0",
        "--json",
    ]
    command = [sys.executable, "-m", "streamer.facility.replay", str(npz), "--socket", "PUSH", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout)["messages_dropped"] == 5
