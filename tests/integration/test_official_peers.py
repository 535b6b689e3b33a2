"""The field's own packages as peers: EXtra-data serves, validates, reads; karabo_bridge serves and reads."""

import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from extra_data import RunDirectory
from extra_data.tests.mockdata import write_file
from extra_data.tests.mockdata.detectors import AGIPDModule
from extra_data.tests.mockdata.xgm import XGM
from extra_data.validation import RunValidator
from karabo_bridge import Client, ServerInThread
from processes import Process, RunningPipeline, free_port, simulator
from stored import ids, results_of

# Pulses of each train: as a veto at the detector leaves them.
PULSES = np.array([4, 2, 3, 5, 3, 2, 2, 4], np.uint64)
FIRST_TRAIN = 10000
MODULE = "SPB_DET_AGIPD1M-1/DET/{}CH0:xtdf"
XGM_DEVICE = "SA1_XTD2_XGM/DOOCS/MAIN"
AGIPD = """
[metrics]
port = 0
[output]
directory = "{directory}"
segment_bytes = 268435456
reserve_bytes = 0
[[stream]]
name = "agipd"
attach = ["pressure = SA1_XTD2_XGM/DOOCS/MAIN pressure.pressureFiltered.value"]
ring_bytes = 134217728
[stream.source]
endpoint = "{endpoint}"
socket = "{socket}"
source = "{source}"
key = "image.data"
pulse_key = "image.pulseId"
axes = "{axes}"
shape = {shape}
dtype = "{dtype}"
[stream.publish]
results = "tcp://127.0.0.1:{results}"
verdicts = "tcp://127.0.0.1:{verdicts}"
"""


def config(folder: Path, endpoint: str, **given: object) -> str:
    values: dict[str, object] = {
        "directory": folder / "out",
        "endpoint": endpoint,
        "socket": "REQ",
        "source": MODULE.format(0),
        "axes": "pulse slow fast",
        "shape": [512, 128],
        "dtype": "float32",
        "results": free_port(),
        "verdicts": free_port(),
    }
    return AGIPD.format_map(values | given)


def make_run(folder: Path, modules: int, pulses: Any = PULSES) -> Path:
    """A corrected run as EXtra-data's own examples have them, with numbers in its frames."""
    run = folder / "r0238"
    run.mkdir()
    generator = np.random.default_rng(0)
    for module in range(modules):
        path = run / f"CORR-R0238-AGIPD{module:02d}-S00000.h5"
        detector = AGIPDModule(MODULE.format(module).partition(":")[0], raw=False, frames_per_train=pulses)
        write_file(path, [detector], ntrains=len(pulses), chunksize=8, format_version="1.2")
        with h5py.File(path, "r+") as file:
            data = file[f"INSTRUMENT/{MODULE.format(module)}/image/data"]
            data[:] = generator.standard_normal(data.shape, np.float32)
    path = run / "CORR-R0238-DA01-S00000.h5"
    write_file(path, [XGM(XGM_DEVICE)], ntrains=len(pulses), chunksize=8, format_version="1.2")
    return run


def serve_run(run: Path, folder: Path, socket: str) -> tuple[Process, str]:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    command = [Path(sys.executable).parent / "karabo-bridge-serve-files", run, endpoint, "-z", socket]
    return Process(command, folder / "serve.log"), endpoint


def assert_valid(directory: Path) -> None:
    gc.collect()  # EXtra-data keeps what it knew of a file while anything refers to it
    assert RunValidator(str(directory)).run_checks() == []


def assert_equal_frames(ours: Path, theirs: Path, source: str) -> None:
    """The same events with the same frames, by EXtra-data's reading of both runs."""
    gc.collect()
    mine, original = RunDirectory(str(ours), parallelize=False), RunDirectory(str(theirs), parallelize=False)
    for key in ("image.trainId", "image.pulseId", "image.data"):
        got, want = mine[source, key].ndarray(), original[source, key].ndarray()
        np.testing.assert_array_equal(got, want.reshape(got.shape), err_msg=f"{source} {key}")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("server", "socket"), [("REP", "REQ"), ("PUSH", "PULL")])
def test_served_run_comes_through(folder: Path, server: str, socket: str) -> None:
    run = make_run(folder, 1)
    served, endpoint = serve_run(run, folder, server)
    with served, RunningPipeline(folder, config(folder, endpoint, socket=socket)) as pipeline:
        pipeline.ready().wait_for("agipd", lambda counts: counts["messages"] == len(PULSES))
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["agipd"]
    assert counts["received"] == PULSES.sum()
    assert counts["kept"] == {"all": PULSES.sum()}
    assert counts["rejected"] == {}
    assert counts["missing_upstream"] == 0
    assert_equal_frames(folder / "out/r0001/agipd/all", run, MODULE.format(0))
    results = results_of(folder / "out/r0001", "agipd")
    assert np.isfinite(results["pressure"]).all()
    for directory in (folder / "out/r0001", folder / "out/r0001/agipd/all"):
        assert_valid(directory)


@pytest.mark.timeout(240)
def test_trains_of_one_pulse_come_through(folder: Path) -> None:
    """EXtra-data's server leaves out a first axis of length 1 (`keep_dims` of `DataCollection.trains`)."""
    run = make_run(folder, 1, np.array([1, 2, 1], np.uint64))
    served, endpoint = serve_run(run, folder, "REP")
    with served, RunningPipeline(folder, config(folder, endpoint)) as pipeline:
        pipeline.ready().wait_for("agipd", lambda counts: counts["messages"] == 3)
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["agipd"]
    assert counts["rejected"] == {}
    assert counts["received"] == 4
    assert_equal_frames(folder / "out/r0001/agipd/all", run, MODULE.format(0))


@pytest.mark.timeout(240)
def test_trains_without_pulses_are_empty(folder: Path) -> None:
    run = make_run(folder, 1, np.array([2, 0, 3], np.uint64))
    served, endpoint = serve_run(run, folder, "REP")
    with served, RunningPipeline(folder, config(folder, endpoint)) as pipeline:
        pipeline.ready().wait_for("agipd", lambda counts: counts["messages"] == 3)
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["agipd"]
    assert counts["rejected"] == {}
    assert counts["received"] == 5
    assert counts["trains_empty"] == 1
    assert_equal_frames(folder / "out/r0001/agipd/all", run, MODULE.format(0))


@pytest.mark.timeout(240)
def test_sixteen_modules_are_stacked(folder: Path) -> None:
    run = make_run(folder, 16)
    served, endpoint = serve_run(run, folder, "REP")
    text = config(folder, endpoint, source=MODULE.format("{0..15}"), shape=[16, 512, 128])
    with served, RunningPipeline(folder, text) as pipeline:
        pipeline.ready().wait_for("agipd", lambda counts: counts["messages"] == len(PULSES))
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["agipd"]
    assert counts["received"] == counts["kept"]["all"] == PULSES.sum()
    kept = folder / "out/r0001/agipd/all"
    for module in range(16):
        assert_equal_frames(kept, run, MODULE.format(module))
    assert_valid(kept)


@pytest.mark.timeout(240)
def test_published_run_comes_through(folder: Path) -> None:
    """PUB has no memory: the run is sent again and again until every event has come, once."""
    run = make_run(folder, 1)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    trains = [data for _, data in RunDirectory(str(run), parallelize=False).trains()]
    with (
        ServerInThread(endpoint, sock="PUB", dummy_timestamps=True) as server,
        RunningPipeline(folder, config(folder, endpoint, socket="SUB")) as pipeline,
    ):
        pipeline.ready()
        end_s = time.monotonic() + 60
        while pipeline.counts("agipd")["received"] < PULSES.sum() and time.monotonic() < end_s:
            for train in trains:
                server.feed(train)
                time.sleep(0.02)  # the rhythm of the source; the server queues one train only
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["agipd"]
    assert counts["received"] == PULSES.sum()
    assert counts["missing_upstream"] == 0
    assert_equal_frames_in_any_order(folder / "out/r0001/agipd/all", run)


def assert_equal_frames_in_any_order(ours: Path, theirs: Path) -> None:
    source = MODULE.format(0)
    got, want = ({}, {})
    for run, frames in ((ours, got), (theirs, want)):
        gc.collect()
        opened = RunDirectory(str(run), parallelize=False)
        columns = [opened[source, f"image.{key}"].ndarray() for key in ("trainId", "pulseId", "data")]
        for train, pulse, frame in zip(*columns, strict=True):
            frames[int(np.squeeze(train)), int(np.squeeze(pulse))] = np.squeeze(frame)
    assert got.keys() == want.keys()
    assert all(np.array_equal(got[name], want[name]) for name in want)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", ["1.0", "2.2"])
def test_official_simulator(folder: Path, version: str) -> None:
    """Online order of axes (fast, slow, pulse); an official client beside us gets the same trains."""
    port = free_port()
    command = [Path(sys.executable).parent / "karabo-bridge-server-sim", str(port), "-z", "PUB"]
    command += ["-d", "AGIPDModule", "--raw", "-p", version]
    text = config(folder, f"tcp://127.0.0.1:{port}", socket="SUB", axes="fast slow pulse", dtype="uint16")
    theirs: dict[int, Any] = {}
    with (
        RunningPipeline(folder, text, "--events", "640") as pipeline,
        Client(f"tcp://127.0.0.1:{port}", sock="SUB", timeout=60) as client,
    ):
        pipeline.ready()
        with Process(command, folder / "sim.log"):
            while pipeline.running:
                data, metadata = client.next()
                train_id = metadata[MODULE.format(0)]["timestamp.tid"]
                if len(theirs) < 12:
                    theirs[train_id] = data[MODULE.format(0)]["image.data"]
            assert pipeline.wait() == 0, pipeline.text
        counts = pipeline.report["streams"]["agipd"]
    assert counts["received"] >= 640
    assert counts["rejected"] == {}
    gc.collect()
    run = RunDirectory(str(folder / "out/r0001/agipd/all"), parallelize=False)
    common = 0
    for train_id, data in run.trains():
        if train_id in theirs:
            common += 1
            np.testing.assert_array_equal(
                data[MODULE.format(0)]["image.data"], theirs[train_id].transpose(2, 1, 0)
            )
    assert common > 0


DIFFRACTION = """
[metrics]
port = 0
[output]
directory = "{directory}"
segment_bytes = 1048576
reserve_bytes = 0
[[stream]]
name = "hed"
[stream.source]
endpoint = "{endpoint}"
source = "HED_DET/DET/LAMBDA:output"
key = "data.intensity"
axes = "pulse bin"
shape = [4023]
dtype = "float64"
[stream.publish]
results = "tcp://127.0.0.1:{results}"
verdicts = "tcp://127.0.0.1:{verdicts}"
"""


@pytest.mark.timeout(240)
def test_measured_spectra_come_through_a_replay(folder: Path) -> None:
    import models

    measured = Path(models.__file__).parent / "data/hed_fe80mg20/curves_0_340.npz"
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "streamer.cli", "replay", measured, "--endpoint", endpoint]
    command += ["--dataset", "intensity=HED_DET/DET/LAMBDA:output[data.intensity]", "--linger", "20"]
    ports = {"results": free_port(), "verdicts": free_port()}
    text = DIFFRACTION.format(directory=folder / "out", endpoint=endpoint, **ports)
    with (
        Process(command, folder / "replay.log"),
        RunningPipeline(folder, text, "--events", "2") as pipeline,
    ):
        assert pipeline.wait(120) == 0, pipeline.text
    run = RunDirectory(str(folder / "out/r0001/hed/all"), parallelize=False)
    stored = run["HED_DET/DET/LAMBDA:output", "data.intensity"].ndarray()
    with np.load(measured, allow_pickle=False) as file:
        np.testing.assert_array_equal(stored.astype(np.float32), file["intensity"].astype(np.float32))
    assert_valid(folder / "out/r0001/hed/all")


def read_results(client: Client, n: int) -> Iterator[dict[str, Any]]:
    for _ in range(n):
        data, metadata = client.next()
        [(source, columns)] = data.items()
        assert source == "noise/STREAMER/RESULTS:output"
        assert metadata[source]["timestamp.tid"] > 0
        yield columns


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("server", "socket"), [("REP", "REQ"), ("PUB", "SUB")])
def test_official_client_reads_our_results(folder: Path, noise: Any, server: str, socket: str) -> None:
    bridge = f"tcp://127.0.0.1:{free_port()}"
    load = simulator(folder, "--kind", "noise", "--shape", "64x64", "--rate", "20", "--pulses", "16")
    publish = f'karabo_bridge = "{bridge}"\nkarabo_bridge_socket = "{server}"'
    text = noise(load.endpoint, publish=publish, routes='[[stream.route]]\nname = "some"\none_in = 3')
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready()
        with Client(bridge, sock=socket, timeout=60) as client:
            seen = list(read_results(client, 10))
        assert pipeline.stop() == 0, pipeline.text
    results = results_of(folder / "out/r0001", "noise")
    rows = {name: row for row, name in enumerate(ids(results))}
    for columns in seen:
        names = [key.removeprefix("data.") for key in columns if key.startswith("data.")]
        assert {"train_id", "pulse_id", "verdict", "route", "reason", "flags"} <= set(names)
        chosen = [
            rows[name]
            for name in zip(*(columns[f"data.{k}"].tolist() for k in ("train_id", "pulse_id")), strict=True)
        ]
        for name in set(names) & results.keys():
            np.testing.assert_array_equal(columns[f"data.{name}"], results[name][chosen], err_msg=name)
