"""A run as the supervisor's process sees it, before any stage starts. Whole runs are in integration."""

import os
from pathlib import Path

import pytest
from core_support import config_text, make_bundle

from streamer.config import parse
from streamer.errors import ConfigError
from streamer.pipeline import STAGES, Pipeline, versions


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def _own_temporary_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def test_children_are_built_in_data_order_with_the_streams_memory() -> None:
    with Pipeline(parse(config_text(), "test")) as pipeline:
        stream = pipeline.streams["s"]
        assert list(stream.children) == list(STAGES)
        assert [child.tier for child in stream.children.values()] == [0, 1, 2]
        for stage, child in stream.children.items():
            assert f"streamer.{stage}" in child.argv
            assert list(child.fds) == [stream.spec.fd]
            assert not child.up


def test_nothing_is_left_behind(folder: Path) -> None:
    before = descriptors()
    with Pipeline(parse(config_text(), "test")) as pipeline:
        assert pipeline.folder.is_dir()
    assert not pipeline.folder.exists()
    assert descriptors() <= before + 2, "the descriptors are closed; each of two mappings may hold one more"
    assert os.listdir(folder) == []


def test_a_refused_stream_leaves_nothing_behind(folder: Path) -> None:
    text = config_text() + config_text().partition("[[stream]]")[2].join(["[[stream]]", ""]).replace(
        'name = "s"', 'name = "t"'
    ).replace("bundles = []", 'bundles = ["no_such"]')
    with pytest.raises(ConfigError, match="no bundle 'no_such'"):
        Pipeline(parse(text, "test"))
    assert os.listdir(folder) == []


def test_the_report_of_a_run_that_received_nothing_is_closed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    with Pipeline(parse(config_text([bundle]), "test")) as pipeline:
        report = pipeline.report()
        assert (report["closed"], report["streams"]["s"]["received"]) == (True, 0)
        assert report["streams"]["s"]["bundles"][0]["name"] == "tiny"
        assert set(report) == {"closed", "duration_s", "streams", "versions"}
        snapshot = pipeline.snapshots()["s"]
        assert (snapshot.slots_in_use, snapshot.stages["ingest"].up) == (0, False)


def test_an_unknown_stream_has_no_control_address() -> None:
    with Pipeline(parse(config_text(), "test")) as pipeline:
        assert pipeline.control_address("s").startswith("ipc://")
        with pytest.raises(ConfigError, match="no stream 't'; running: s"):
            pipeline.control_address("t")


def test_versions_name_what_matters() -> None:
    assert {"streamer", "python", "torch", "numpy", "h5py", "pyzmq", "libzmq"} <= set(versions())
