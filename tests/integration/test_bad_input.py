"""Bad messages, bad configurations, full disks, end to end: each is named, counted or refused."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import spectrum_bundle
from processes import RunningPipeline, free_port, simulator
from stored import judge, kept_by, results_of

from models.bundle import load_bundle, run_bundle
from streamer.errors import FLAG_MODULE_MISSING, FLAG_OUT_OF_ORDER
from streamer.facility.truth import Mark, read_log
from streamer.routing import failopen_code

Write = Callable[..., str]

PULSES = 16
# Kind, place and, for kinds that are refused, the reason they must be counted under.
FAULTS = {
    "truncated@5": "size_mismatch",
    "oversized@10": "size_mismatch",
    "odd@15": "odd_frame_count",
    "content@20": "unknown_content",
    "pickle@25": "pickle_refused",
    "object@30": ("pickle_refused", "bad_dtype"),
    "bomb@35": "bad_payload",
    "deep@40": "bad_payload",
    "shape@45": "shape_changed",
    "dtype@50": "dtype_changed",
    "unknown@55": None,
    "empty@60": None,
    "duplicate@65:2": None,
    "reorder@70": None,
    "gap@75:3": None,
    "stall@80:0.3": None,
}
# What version 1.0 cannot express: one frame has no odd count and no content types.
ONLY_2 = ("odd@15", "content@20")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", ["2.2", "1.0"])
def test_bad_messages_cost_themselves_only(folder: Path, noise: Write, version: str) -> None:
    faults = {kind: reason for kind, reason in FAULTS.items() if version != "1.0" or kind not in ONLY_2}
    load = simulator(
        *(folder, "--kind", "noise", "--shape", "64x64", "--pulses", str(PULSES), "--rate", "50"),
        *("--trains", "100", "--version", version, "--misbehave", ",".join(faults)),
    )
    with load.process, RunningPipeline(folder, noise(load.endpoint)) as pipeline:
        pipeline.ready()
        pids = {name: stage["pid"] for name, stage in pipeline.stages().items()}
        sent = load.finish()
        pipeline.wait_for("noise", lambda counts: counts["messages"] == sent["messages_sent"])
        pipeline.settled("noise", 0.3)
        assert {name: stage["pid"] for name, stage in pipeline.stages().items()} == pids, "a stage has died"
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    reasons = [reason for reason in faults.values() if reason is not None]
    assert sum(counts["rejected"].values()) == len(reasons)
    for reason in reasons:
        names = (reason,) if isinstance(reason, str) else reason
        assert any(counts["rejected"].get(name) for name in names), f"no {reason}: {counts['rejected']}"
        assert any(f"message rejected: {name}" in pipeline.text for name in names)
    assert counts["duplicates"] == 2 * PULSES
    assert counts["out_of_order"] == PULSES
    assert counts["trains_empty"] == 1
    assert counts["missing_upstream"] == 3 * PULSES
    results = judge(folder / "out/r0001", load.log, counts, left_out=3 * PULSES)
    late = results["flags"] & FLAG_OUT_OF_ORDER != 0
    assert set(results["trainId"][late].tolist()) == {10_070}


@pytest.mark.timeout(240)
def test_only_what_is_not_finite_is_kept_unclassified(folder: Path, noise: Write) -> None:
    bundle = spectrum_bundle(folder, "small")
    load = simulator(
        *(folder, "--kind", "noise", "--shape", "64", "--dtype", "float32", "--pulses", str(PULSES)),
        *("--rate", "50", "--trains", "60", "--misbehave", "nan@5:1,nan@20:3"),
    )
    text = noise(
        *(load.endpoint,),
        shape=[64],
        dtype="float32",
        axes="pulse bin",
        stream=f'bundles = ["{bundle}"]',
        routes='[[stream.route]]\nname = "high"\nwhen = "latent.z0 > 0"\n[[stream.route]]\nname = "rest"',
    )
    with load.process, RunningPipeline(folder, text, "--events", str(60 * PULSES)) as pipeline:
        assert pipeline.wait(180) == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    results = judge(folder / "out/r0001", load.log, counts)
    assert counts["failopen"] == {"nonfinite": 4}
    truth = read_log(load.log)
    spoilt = {(t, p) for t, p, m in truth[["train_id", "pulse_id", "mark"]].tolist() if m & Mark.NAN}
    failed = results["reason"] == failopen_code("nonfinite")
    ids = np.stack([results["trainId"], results["pulseId"]], 1)
    assert {tuple(row) for row in ids[failed].tolist()} == spoilt
    assert_same_as_alone(folder, bundle)


def assert_same_as_alone(folder: Path, bundle: Path) -> None:
    """The neighbours' results are what the network gives for them without their neighbours."""
    frames, beside = kept_by(
        folder / "out/r0001", "noise", "rest", "SIM_DET_NOISE/DET/CAM:output", "image.data"
    )
    alone = run_bundle(load_bundle(bundle), torch.from_numpy(frames["data"])).numpy()
    # The runner may have chosen bfloat16, of 8 bits.
    np.testing.assert_allclose(beside["latent"], alone[:, :2], rtol=0.02, atol=0.02)
    assert (beside["latent"][:, 0] <= 0).all()


@pytest.mark.timeout(240)
def test_a_missing_module_is_flagged(folder: Path, noise: Write) -> None:
    load = simulator(
        *(folder, "--kind", "noise", "--shape", "32x32", "--modules", "4", "--pulses", str(PULSES)),
        *("--rate", "50", "--trains", "40", "--misbehave", "module@10:2"),
    )
    text = noise(load.endpoint, name="SIM_DET_NOISE/DET/{0..3}CH0:xtdf", shape=[4, 32, 32])
    with load.process, RunningPipeline(folder, text, "--events", str(40 * PULSES)) as pipeline:
        assert pipeline.wait(180) == 0, pipeline.text
        assert pipeline.report["streams"]["noise"]["received"] == 40 * PULSES
    results = results_of(folder / "out/r0001", "noise")
    flagged = results["flags"] & FLAG_MODULE_MISSING != 0
    assert set(results["trainId"][flagged].tolist()) == {10_010}
    assert flagged.sum() == PULSES
    assert set(results["missing_modules"][flagged].tolist()) == {1 << 2}
    assert not results["missing_modules"][~flagged].any()
    for module in range(4):
        source = f"SIM_DET_NOISE/DET/{module}CH0:xtdf"
        frames, _ = kept_by(folder / "out/r0001", "noise", "all", source, "image.data")
        there = frames["data"].reshape(len(frames["data"]), -1).any(axis=1)
        assert np.array_equal(there, ~((frames["trainId"] == 10_010) & (module == 2)))


@pytest.mark.timeout(240)
def test_an_unknown_source_is_named_with_those_there_are(folder: Path, noise: Write) -> None:
    load = simulator(folder, "--kind", "noise", "--shape", "64x64", "--rate", "20")
    text = noise(load.endpoint, name="SIM_DET_NOISE/DET/WRONG:output")
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["trains_empty"] > 3)
        assert pipeline.stop() == 0, pipeline.text
        assert pipeline.report["streams"]["noise"]["received"] == 0
    [line] = [line for line in pipeline.text.splitlines() if "no event of" in line][:1]
    assert "SIM_DET_NOISE/DET/WRONG:output" in line
    assert "the message holds: SIM_DET_NOISE/DET/CAM:output, SIM_MOTOR/" in line


# --- refused starts ---------------------------------------------------------------------------------


def refusal(folder: Path, text: str) -> str:
    """Run a configuration that must be refused: exit code 2; gives all that it printed, in one line."""
    with RunningPipeline(folder, text) as pipeline:
        assert pipeline.wait(120) == 2, pipeline.text
        assert "Traceback" not in pipeline.text
        if pipeline.report_file.exists():
            assert pipeline.report["closed"] is False
        return " ".join(pipeline.text.split())


def assert_says(text: str, *words: object) -> None:
    for word in words:
        assert str(word) in text, f"{word!r} is not in: {text[-1500:]}"


NOBODY = "tcp://127.0.0.1:9"


@pytest.mark.timeout(120)
def test_unknown_keys_are_refused_all_at_once(folder: Path, noise: Write) -> None:
    text = refusal(folder, noise(NOBODY, stream='colour = "red"', source="gain = 3"))
    assert_says(
        text,
        "config.toml",
        "2 problem(s)",
        "stream.0.colour: unknown key",
        "stream.0.source.gain",
        "spelling",
    )


@pytest.mark.timeout(120)
def test_a_route_over_an_unknown_column_is_refused(folder: Path, noise: Write) -> None:
    bundle = spectrum_bundle(folder, "small")
    stream = {"shape": [64], "dtype": "float32", "axes": "pulse bin", "stream": f'bundles = ["{bundle}"]'}
    routes = '[[stream.route]]\nname = "a"\nwhen = "p.Streak > 0.5"'
    assert_says(refusal(folder, noise(NOBODY, **stream, routes=routes)), "noise", "'a'", "latent", "target")


@pytest.mark.timeout(120)
def test_a_bundle_that_is_not_there_is_refused(folder: Path, noise: Write) -> None:
    text = refusal(folder, noise(NOBODY, stream='bundles = ["no_such_bundle"]'))
    assert_says(text, "no bundle 'no_such_bundle'", "manifest.json")


@pytest.mark.timeout(120)
def test_a_bundle_for_other_events_is_refused(folder: Path, noise: Write) -> None:
    bundle = spectrum_bundle(folder, "small")
    text = refusal(folder, noise(NOBODY, stream=f'bundles = ["{bundle}"]'))
    assert_says(
        text, "stream noise", "small takes float32", "[64]", "uint16 of [64, 64]", "choose another bundle"
    )


@pytest.mark.timeout(120)
def test_a_bundle_whose_weights_changed_is_refused(folder: Path, noise: Write) -> None:
    bundle = spectrum_bundle(folder, "small")
    weights = bundle / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    stream = {"shape": [64], "dtype": "float32", "axes": "pulse bin", "stream": f'bundles = ["{bundle}"]'}
    assert_says(refusal(folder, noise(NOBODY, **stream)), "small", "weights", "sha256", "expected", "got")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("which", ["results", "verdicts", "metrics"])
def test_a_port_in_use_is_refused(folder: Path, noise: Write, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        given = {which: port if which == "metrics" else f"tcp://127.0.0.1:{port}"}
        text = refusal(folder, noise(NOBODY, **given))
    assert_says(text, "error:", port, "in use", "hoose another")


@pytest.mark.timeout(120)
def test_a_second_run_with_the_same_control_socket_is_refused(folder: Path, noise: Write) -> None:
    second = folder / "second"
    second.mkdir()
    with RunningPipeline(folder, noise(NOBODY)) as first:
        first.ready()
        with RunningPipeline(
            second, noise(NOBODY, directory=second / "out"), control=first.control
        ) as pipeline:
            assert pipeline.wait(120) == 2, pipeline.text
        assert_says(" ".join(pipeline.text.split()), "another run has", first.control, "`control`")
        assert first.status()["streams"]["noise"]["received"] == 0  # it is unharmed
        assert first.stop() == 0, first.text


@pytest.mark.timeout(120)
def test_an_output_folder_that_cannot_be_written_is_refused(folder: Path, noise: Write) -> None:
    (folder / "file").write_text("not a folder")
    text = refusal(folder, noise(NOBODY, directory=folder / "file"))
    assert_says(text, "output directory", folder / "file", "cannot be used")


@pytest.mark.timeout(120)
def test_files_of_another_run_are_not_overwritten(folder: Path, noise: Write) -> None:
    with RunningPipeline(folder, noise(NOBODY), "--duration", "0.2") as first:
        assert first.wait(120) == 0, first.text
    first.report_file.unlink()
    assert_says(refusal(folder, noise(NOBODY)), "already holds", "run 1", "choose another run number")


# --- full disk --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    path = folder / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=48m", "streamer-test", str(path)]
    if os.getuid() != 0 or mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root with the right to mount")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.timeout(240)
def test_a_full_disk_sheds_and_the_run_goes_on(folder: Path, noise: Write, small_disk: Path) -> None:
    load = simulator(folder, "--kind", "noise", "--shape", "64x64", "--rate", "20", "--pulses", "64")
    text = noise(load.endpoint, directory=small_disk, segment_bytes=4 << 20)
    with load.process, RunningPipeline(folder, text) as pipeline:
        counts = pipeline.ready().wait_for("noise", lambda counts: counts["shed"].get("disk_full", 0) > 500)
        stored = counts["kept"]["all"]
        subprocess.run(["mount", "-o", "remount,size=128m", str(small_disk)], check=True)
        pipeline.wait_for("noise", lambda counts: counts["kept"]["all"] > stored + 500)
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert set(counts["shed"]) == {"disk_full"}
    assert_says(pipeline.text, "are not stored", "free")
    judge(small_disk / "r0001", load.log, counts)


def test_free_port_is_free() -> None:
    """The helper of these tests itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))
