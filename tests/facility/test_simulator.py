"""The simulated detector, read by the field's own client, and its log of what it sent."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from karabo_bridge import Client

from models.simulation import diffractograms, nanodroplets
from streamer.errors import ConfigError, StageError
from streamer.facility.pacing import Clock
from streamer.facility.serve import ServerOptions
from streamer.facility.simulated import (
    MOTOR_KEY,
    MOTOR_SOURCE,
    NO_SAMPLE_SHARE,
    XGM_KEY,
    XGM_SOURCE,
    detector_sources,
    make_bank,
)
from streamer.facility.simulator import SimulatorOptions, SimulatorThread, simulate
from streamer.facility.truth import (
    DROPPED,
    OFFERED,
    SENT,
    Mark,
    TruthLog,
    checksums,
    expected,
    read_log,
    records,
)
from streamer.wire.karabo_bridge import decode

TIMEOUT_S = 10
PEERS = {"REP": "REQ", "PUB": "SUB", "PUSH": "PULL"}


@pytest.fixture
def options(tmp_path: Path) -> SimulatorOptions:
    """A quick source of six trains that writes its log."""
    return SimulatorOptions(
        kind="noise",
        server=ServerOptions(f"ipc://{tmp_path}/sim.sock", "PUSH"),
        rate_hz=0,
        pulses=4,
        trains=6,
        shape=(16, 8),
        bank_events=10,
        log=tmp_path / "sent.log",
    )


def with_server(options: SimulatorOptions, **changes: Any) -> SimulatorOptions:
    return replace(options, server=replace(options.server, **changes))


def receive(options: SimulatorOptions, messages: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Run the simulator and read that many messages with the official client."""
    with SimulatorThread(options) as simulator:
        with Client(simulator.endpoint, PEERS[options.server.socket], timeout=TIMEOUT_S) as client:
            for _ in range(messages):
                yield client.next()
        simulator.join(TIMEOUT_S)


@pytest.mark.parametrize("version", ["1.0", "2.2"])
@pytest.mark.parametrize("socket", ["REP", "PUB", "PUSH"])
def test_the_official_client_reads_what_the_log_says(
    options: SimulatorOptions, socket: str, version: str
) -> None:
    options = replace(with_server(options, socket=socket), version=version)
    bank, source = make_bank(options), detector_sources("noise")[0]
    trains = list(receive(options, 6))
    assert options.log
    log = read_log(options.log)
    assert set(log["sent"]) == {SENT}
    assert log["train_id"].tolist() == [10_000 + number // 4 for number in range(24)]
    assert log["pulse_id"].tolist() == [0, 1, 2, 3] * 6
    for number, (data, metadata) in enumerate(trains):
        rows = log[4 * number : 4 * number + 4]
        frames = data[source]["image.data"]
        assert frames.dtype == np.uint16
        assert frames.tolist() == bank.frames[rows["row"]].tolist()
        assert checksums(frames).tolist() == rows["crc"].tolist()
        assert data[source]["image.pulseId"].tolist() == rows["pulse_id"].tolist()
        assert data[source]["image.trainId"].tolist() == rows["train_id"].tolist()
        assert data[XGM_SOURCE][XGM_KEY].tolist() == bank.energy_uj[rows["row"]].tolist()
        assert data[MOTOR_SOURCE][MOTOR_KEY] == pytest.approx(0.001 * number)
        assert set(metadata) == {source, XGM_SOURCE, MOTOR_SOURCE}
        for name, values in metadata.items():
            assert values["source"] == name
            assert values["timestamp.tid"] == 10_000 + number
            assert len(values["timestamp.frac"]) == 18
            assert values["timestamp"] == pytest.approx(
                int(values["timestamp.sec"]) + int(values["timestamp.frac"]) / 1e18, abs=1e-5
            )


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_versions_that_the_client_no_longer_reads(options: SimulatorOptions, version: str) -> None:
    options = replace(options, version=version)  # type: ignore[arg-type]
    with zmq.Context() as context, context.socket(zmq.PULL) as peer, SimulatorThread(options) as simulator:
        peer.set(zmq.RCVTIMEO, 1000 * TIMEOUT_S)
        peer.connect(simulator.endpoint)
        ids = [decode(peer.recv_multipart()).train_id(XGM_SOURCE) for _ in range(6)]
    assert ids == list(range(10_000, 10_006))


def test_modules_are_sources_with_frames_of_their_own(options: SimulatorOptions) -> None:
    options = replace(options, modules=3)
    names = detector_sources("noise", 3)
    assert names[2] == "SIM_DET_NOISE/DET/2CH0:xtdf"
    frames = [
        np.stack([data[name]["image.data"] for name in names], axis=1) for data, _ in receive(options, 6)
    ]
    assert frames[0].shape == (4, 3, 16, 8)
    assert not np.array_equal(frames[0][:, 0], frames[0][:, 1])
    assert options.log
    assert checksums(np.concatenate(frames)).tolist() == read_log(options.log)["crc"].tolist()


def test_droplets_are_the_simulated_ones_with_their_labels(options: SimulatorOptions) -> None:
    options = replace(options, kind="droplets", bank_events=8, evenness=1.0)
    truth = nanodroplets.simulate(8, options.seed, evenness=1.0)
    frames = [data["SIM_DET_DROPLETS/DET/CAM:output"]["image.data"] for data, _ in receive(options, 6)]
    assert np.array_equal(np.concatenate(frames), np.tile(truth.images, (3, 1, 1)))
    assert options.log
    bits = read_log(options.log)["label"][:8, None] >> np.arange(len(nanodroplets.CLASSES)) & 1
    assert np.array_equal(bits.astype(bool), truth.labels)


def test_spectra_are_the_simulated_ones_with_their_phase(options: SimulatorOptions) -> None:
    options = replace(options, kind="diffraction", bank_events=8)
    truth = diffractograms.simulate(8, options.seed, NO_SAMPLE_SHARE)
    spectra = [data["SIM_DET_DIFF/DET/LAMBDA:output"] for data, _ in receive(options, 6)]
    assert {frozenset(train) - {"metadata"} for train in spectra} == {
        frozenset({"data.intensity", "data.pulseId", "data.trainId"})
    }
    assert np.array_equal(np.concatenate([train["data.intensity"] for train in spectra[:2]]), truth.intensity)
    assert spectra[0]["data.intensity"].dtype == np.float32
    assert options.log
    assert np.array_equal(read_log(options.log)["label"][:8], 1 << truth.phase.astype(np.uint32))


def test_faults_leave_as_the_log_says(options: SimulatorOptions) -> None:
    options = replace(options, trains=9, misbehave="gap@1:2,duplicate@3,reorder@5,stall@8:0.01")
    ids = [metadata[XGM_SOURCE]["timestamp.tid"] - 10_000 for _, metadata in receive(options, 8)]
    assert ids == [0, 3, 3, 4, 6, 5, 7, 8]
    assert options.log
    log = read_log(options.log)
    firsts = log[log["pulse_id"] == 0]
    assert (firsts["train_id"] - 10_000).tolist() == [0, 1, 2, 3, 3, 4, 6, 5, 7, 8]
    assert firsts["sent"].tolist() == [1, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    marks = [0, Mark.GAP, Mark.GAP, 0, Mark.DUPLICATE, 0, Mark.REORDER, Mark.REORDER, 0, Mark.STALL]
    assert firsts["mark"].tolist() == marks
    assert sorted(set(expected(log)["train_id"] - 10_000)) == [0, 3, 4, 5, 6, 7, 8]


def test_nobody_listens_and_nothing_is_lost_unseen(options: SimulatorOptions) -> None:
    options = replace(with_server(options, send_timeout_s=0.0), wait_for_peer=False, misbehave="gap@2")
    report = simulate(options)
    assert (report.messages_sent, report.messages_dropped) == (0, 5)
    assert (report.events_sent, report.events_dropped, report.events_skipped) == (0, 20, 4)
    assert options.log
    assert set(read_log(options.log)["sent"]) == {DROPPED}


def test_report_counts(options: SimulatorOptions) -> None:
    with SimulatorThread(options) as simulator:
        with pytest.raises(StageError, match="not ended"):
            _ = simulator.report
        with Client(simulator.endpoint, "PULL", timeout=TIMEOUT_S) as client:
            for _ in range(6):
                client.next()
        report = simulator.join(TIMEOUT_S)
    assert (report.messages_sent, report.events_sent, report.messages_dropped) == (6, 24, 0)
    assert report.bytes_sent > 24 * 16 * 8 * 2
    assert report.endpoint == options.server.endpoint


def test_trains_leave_when_due(options: SimulatorOptions) -> None:
    waits_s: list[float] = []
    clock = Clock(lambda: 7.0 + sum(waits_s), waits_s.append)
    options = replace(with_server(options, send_timeout_s=0.0), wait_for_peer=False, rate_hz=10.0)
    simulate(options, clock=clock)
    assert waits_s == pytest.approx([0.1] * 6)  # and none before the first


def test_stop_ends_an_endless_simulation(options: SimulatorOptions) -> None:
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    with SimulatorThread(replace(options, trains=None, rate_hz=1000)) as simulator:
        with Client(simulator.endpoint, "PULL", timeout=TIMEOUT_S) as client:
            client.next()
        simulator.stop()
        assert simulator.join(TIMEOUT_S).messages_sent >= 1
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before


def test_join_does_not_wait_without_limit(options: SimulatorOptions) -> None:
    with SimulatorThread(options) as simulator, pytest.raises(StageError, match="still sending"):
        simulator.join(0.01)


def test_errors_of_the_thread_come_out(options: SimulatorOptions) -> None:
    broken = replace(options, log=Path("/nonexistent/folder/log"))
    with pytest.raises(ConfigError, match="cannot write the log"), SimulatorThread(broken):
        pytest.fail("must not start")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "clouds", "version": "3.0"}, "clouds.*3.0"),
        ({"pulses": 0, "modules": 0}, "pulses.*modules"),
        ({"trains": -1}, "trains"),
        ({"rate_hz": float("nan")}, "rate_hz"),
        ({"shape": ()}, "shape"),
        ({"dtype": "object"}, "dtype"),
        ({"first_train_id": 2**63}, "first_train_id"),
        ({"evenness": 2.0}, "evenness"),
        ({"misbehave": "gap"}, "misbehaviour"),
    ],
)
def test_bad_options_are_refused_all_at_once(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SimulatorOptions(**changes)


def test_log_of_a_killed_simulator_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with TruthLog(path) as log:
        rows = records(5, np.arange(3))
        log.settle(log.append(rows), rows.copy(), True)
        log.append(records(6, np.arange(3)))
    path.write_bytes(path.read_bytes()[:-1])  # cut in the last record
    assert read_log(path)["sent"].tolist() == [SENT] * 3 + [OFFERED] * 2
    assert read_log(path)["train_id"].tolist() == [5, 5, 5, 6, 6]
    with pytest.raises(ConfigError, match="cannot read the log"):
        read_log(tmp_path / "absent")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_its_report(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    words = f"--kind noise --shape 8x8 --pulses 2 --rate 200 --socket PUSH --json --log {log}"
    words += f" --endpoint ipc://{tmp_path}/sim.sock"
    command = [sys.executable, "-m", "streamer.facility.simulator", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert process.stderr.readline() == f"serving ipc://{tmp_path}/sim.sock\n"
            with Client(f"ipc://{tmp_path}/sim.sock", "PULL", timeout=TIMEOUT_S) as client:
                for _ in range(3):
                    client.next()
            process.send_signal(number)
            out, errors = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    report = json.loads(out)
    assert report["events_sent"] == np.count_nonzero(read_log(log)["sent"] == SENT)


def test_the_command_says_what_is_wrong() -> None:
    command = [sys.executable, "-m", "streamer.facility.simulator", "--misbehave", "explode@1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "explode@1" in done.stderr
    assert "Traceback" not in done.stderr
