"""The demonstration's configuration: valid, on free ports, a run number of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from streamer.config import bound
from streamer.demo import SERVING, Simulators, prepare
from streamer.errors import ConfigError


def test_it_is_valid_and_nothing_is_reachable_from_outside(tmp_path: Path) -> None:
    show = prepare(tmp_path)
    assert [stream.name for stream in show.config.stream] == ["droplets", "diffraction"]
    endpoints = [e for stream in show.config.stream for e in (*bound(stream), stream.source.endpoint)]
    assert len(set(endpoints)) == 6
    assert all(endpoint.startswith("tcp://127.0.0.1:") for endpoint in endpoints)
    assert show.results == [stream.publish.results for stream in show.config.stream]
    for stream, command in zip(show.config.stream, show.simulators, strict=True):
        assert stream.source.endpoint in command


def test_runs_are_numbered_on(tmp_path: Path) -> None:
    assert prepare(tmp_path).config.run == 1
    (tmp_path / "r0007").mkdir()
    assert prepare(tmp_path).config.run == 8


def test_the_simulators_are_waited_for_and_end_with_the_demo(tmp_path: Path) -> None:
    code = f"import time; print({SERVING.decode()!r}, flush=True); time.sleep(60)"
    with Simulators([[sys.executable, "-c", code]] * 2, tmp_path) as players:
        players.wait_ready()
        processes: list[subprocess.Popen[bytes]] = players._processes
        assert [process.poll() for process in processes] == [None, None]
    assert all(process.poll() is not None for process in processes)


def test_a_simulator_that_ends_refuses_the_demo_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such kind')"]
    with Simulators([command], tmp_path) as players, pytest.raises(ConfigError, match="no such kind"):
        players.wait_ready()
