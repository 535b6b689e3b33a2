"""Another model while the stream runs: no event lost, no block and no file of two versions, no bad swap."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from bundles import spectrum_bundle
from processes import RunningPipeline, free_port, simulator
from stored import DETECTOR, KEY, ids, judge, read_file

from models.bundle import load_bundle, run_bundle
from streamer import client, control
from streamer.errors import ConfigError

Write = Callable[..., str]

SPECTRA = {"shape": [64], "dtype": "float32", "axes": "pulse bin"}
# Loading and checking a small bundle takes a second; starting inference again, some seconds.
ANSWER_S = 60.0
LOAD = ("--kind", "noise", "--shape", "64", "--dtype", "float32", "--rate", "50", "--pulses", "32")


def swap(pipeline: RunningPipeline, bundle: Path) -> list[dict[str, str]]:
    """What the command `streamer swap` asks. Raises ConfigError if the pipeline refuses."""
    request = {"command": "swap", "stream": "noise", "bundle": str(bundle)}
    bundles: list[dict[str, str]] = control.request(pipeline.control, request, 150.0)["bundles"]
    return bundles


@contextmanager
def published(endpoint: str) -> Iterator[list[Any]]:
    """Collects (hashes, ids, latent) of every block that is published meanwhile."""
    blocks: list[Any] = []
    stopped = threading.Event()

    def collect() -> None:
        with client.results(endpoint, "noise") as source:
            while not stopped.is_set():
                try:
                    block = source.receive(0.2)
                except TimeoutError:
                    continue
                names = zip(block.column("train_id").tolist(), block.column("pulse_id").tolist(), strict=True)
                shas = tuple(bundle.sha256 for bundle in block.header.bundles)
                blocks.append((shas, list(names), block.column("latent").copy()))

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield blocks
    finally:
        stopped.set()
        thread.join()


def version_of(path: Path) -> str:
    """The hash of the bundles that made the results in a file, from its RUN section."""
    with h5py.File(path) as file:
        found: list[str] = []
        file["RUN"].visititems(
            lambda name, data: found.append(data[0].decode()) if name.endswith("bundleSha256/value") else None
        )
        [sha256] = found
        return sha256


def answers(bundle: Path, spectra: np.ndarray) -> np.ndarray:
    packed: np.ndarray = run_bundle(load_bundle(bundle), torch.from_numpy(spectra)).numpy()
    return packed[:, :2]


def assert_one_version_each(run: Path, bundles: dict[str, Path]) -> dict[str, int]:
    """Each file's latents are those of the model that the file names. Gives the events of each version."""
    events = dict.fromkeys(bundles, 0)
    for path in sorted((run / "noise/all").rglob("*.h5")):
        results = read_file(path, "noise/STREAMER/RESULTS:output", "data")
        spectra = read_file(path, DETECTOR, KEY.partition(".")[0])
        assert ids(results) == ids(spectra)
        sha256 = version_of(path)
        # The runner may have chosen bfloat16, of 8 bits.
        expected = answers(bundles[sha256], spectra["data"])
        np.testing.assert_allclose(results["latent"], expected, rtol=0.02, atol=0.02)
        events[sha256] += len(spectra["data"])
    return events


@pytest.mark.timeout(240)
def test_a_swap_loses_and_mixes_nothing(folder: Path, noise: Write) -> None:
    old, new = (spectrum_bundle(folder, name, seed=seed) for name, seed in (("old", 1), ("new", 2)))
    bundles = {load_bundle(path).manifest.sha256: path for path in (old, new)}
    load, results = simulator(folder, *LOAD), f"tcp://127.0.0.1:{free_port()}"
    stream = f'bundles = ["{old}"]\ndeadline_s = 0.0'
    text = noise(load.endpoint, **SPECTRA, stream=stream, results=results)
    with load.process, published(results) as blocks, RunningPipeline(folder, text) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 1000)
        for bundle in (new, old, new):
            assert [found["name"] for found in swap(pipeline, bundle)] == [bundle.name]
            reached = pipeline.counts("noise")["received"]
            pipeline.wait_for("noise", lambda counts, reached=reached: counts["received"] > reached + 1000)
        assert [found["name"] for found in pipeline.counts("noise")["bundles"]] == ["new"]
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert counts["failopen"] == {}
    judge(folder / "out/r0001", load.log, counts)
    events = assert_one_version_each(folder / "out/r0001", bundles)
    assert sum(events.values()) == counts["received"]
    assert min(events.values()) > 500
    assert_published(blocks, folder / "out/r0001", bundles)


def assert_published(blocks: list[Any], run: Path, bundles: dict[str, Path]) -> None:
    """Each published block names one version, the one whose answers it holds."""
    spectra = {}
    for path in sorted((run / "noise/all").rglob("*.h5")):
        rows = read_file(path, DETECTOR, KEY.partition(".")[0])
        spectra |= dict(zip(ids(rows), rows["data"], strict=True))
    assert {shas for shas, _, _ in blocks} == {(sha256,) for sha256 in bundles}
    for (sha256,), names, latent in blocks:
        expected = answers(bundles[sha256], np.stack([spectra[name] for name in names]))
        np.testing.assert_allclose(latent, expected, rtol=0.02, atol=0.02)


def spoilt(bundle: Path) -> Path:
    weights = bundle / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return bundle


@pytest.mark.timeout(240)
def test_a_refused_swap_keeps_the_old(folder: Path, noise: Write) -> None:
    old = spectrum_bundle(folder, "old", seed=1)
    wrong_columns = spectrum_bundle(folder, "columns", latent=3)
    wrong_input = spectrum_bundle(folder, "input", points=32)
    wrong_hash = spoilt(spectrum_bundle(folder, "hash", seed=2))
    load = simulator(folder, *LOAD)
    text = noise(load.endpoint, **SPECTRA, stream=f'bundles = ["{old}"]\ndeadline_s = 0.0')
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 500)
        for bundle, words in (
            (wrong_columns, "same input and columns"),
            (wrong_input, "same input and columns"),
            (wrong_hash, "sha256"),
            (folder / "nowhere", "no bundle"),
        ):
            with pytest.raises(ConfigError, match=words):
                swap(pipeline, bundle)
        with pytest.raises(ConfigError, match="no stream 'other'; running: noise"):
            control.request(pipeline.control, {"command": "swap", "stream": "other", "bundle": str(old)})
        reached = pipeline.counts("noise")["received"]
        pipeline.wait_for("noise", lambda counts: counts["received"] > reached + 500)
        assert [found["name"] for found in pipeline.counts("noise")["bundles"]] == ["old"]
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert counts["failopen"] == {}
    judge(folder / "out/r0001", load.log, counts)
    sha256 = load_bundle(old).manifest.sha256
    assert assert_one_version_each(folder / "out/r0001", {sha256: old}) == {sha256: counts["received"]}


@pytest.mark.timeout(120)
def test_status_says_what_runs(folder: Path, noise: Write) -> None:
    load = simulator(folder, *LOAD)
    with load.process, RunningPipeline(folder, noise(load.endpoint, **SPECTRA)) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 100)
        status = pipeline.status()
        assert set(status["stages"]["noise"]) == {"ingest", "inference", "sink"}
        for state in status["stages"]["noise"].values():
            assert state["up"] is True
            assert state["restarts"] == 0
            assert Path(f"/proc/{state['pid']}").exists()
        with pytest.raises(ConfigError, match="unknown command 'dance'"):
            control.request(pipeline.control, {"command": "dance"})
        assert pipeline.stop() == 0, pipeline.text
    with pytest.raises(ConfigError, match="no running pipeline answers"):
        control.request(pipeline.control, {"command": "status"}, 0.2)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_inference_killed_after_a_swap_takes_the_new_up(folder: Path, noise: Write) -> None:
    old, new = (spectrum_bundle(folder, name, seed=seed) for name, seed in (("old", 1), ("new", 2)))
    bundles = {load_bundle(path).manifest.sha256: path for path in (old, new)}
    load = simulator(folder, *LOAD)
    text = noise(
        load.endpoint, **SPECTRA, stream=f'bundles = ["{old}"]\ndeadline_s = 0.0\non_overload = "wait"'
    )
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 500)
        swap(pipeline, new)
        for stage in ("inference", "sink"):
            pipeline.kill_stage(f"noise.{stage}")
        reached = pipeline.counts("noise")["received"]
        pipeline.wait_for("noise", lambda counts: counts["received"] > reached + 500)
        load.stop()
        pipeline.settled("noise")
        assert pipeline.stop() == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert [found["name"] for found in counts["bundles"]] == ["new"]
    assert counts["failopen"] == {}
    judge(folder / "out/r0001", load.log, counts)
    events = assert_one_version_each(folder / "out/r0001", bundles)
    assert min(events.values()) > 300


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_inference_killed_during_a_swap(folder: Path, noise: Write) -> None:
    """The swap is refused, or done by the successor; the control socket answers soon either way."""
    old = spectrum_bundle(folder, "old", seed=1)
    new = spectrum_bundle(folder, "new", seed=2, hidden=100_000)  # 50 MB: half a second to load
    load = simulator(folder, *LOAD)
    text = noise(load.endpoint, **SPECTRA, stream=f'bundles = ["{old}"]\ndeadline_s = 0.0')
    outcome: list[str] = []

    def ask() -> None:
        try:
            outcome.append(swap(pipeline, new)[0]["name"])
        except ConfigError:
            outcome.append("old")

    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 500)
        pid = pipeline.stages()["noise.inference"]["pid"]
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.3)  # inference is loading; the test holds as well if it is not
        os.kill(pid, signal.SIGKILL)
        asking.join(ANSWER_S)
        answered = bool(outcome)
        load.process.send_signal(signal.SIGTERM)
        asking.join(150)
        assert pipeline.stop(timeout_s=150) == 0, pipeline.text
        counts = pipeline.report["streams"]["noise"]
    assert answered, f"no answer to the swap within {ANSWER_S} s"
    assert [found["name"] for found in counts["bundles"]] == outcome
