"""The systemd unit: its times against the program's, its options, and a run that is told to a manager."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from streamer import config
from streamer.cli import app
from streamer.foreground import TICK_S
from streamer.notify import BEATS_A_PERIOD, PATIENCE_S
from streamer.pipeline import STAGES
from streamer.stage import DRAIN_S
from streamer.supervisor import START_S, STOP_S

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/systemd"
UNIT = FOLDER / "streamer@.service"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group of click
# As systemd's own scale goes: below 2.5 is OK. What is left open stands in the unit, with its reason.
MOST_EXPOSED = 2.5

needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="the program systemd-analyze")


def settings() -> dict[str, list[str]]:
    """Every setting of the unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"([A-Z]\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def seconds(name: str) -> float:
    [value] = settings()[name]
    return float(value)


def test_the_command_is_a_command_of_ours() -> None:
    [line] = settings()["ExecStart"]
    _, command, *arguments = line.split()
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= options
    assert "--next-run" in arguments, "a second start would be refused: the run's files are there"


def test_a_start_may_take_what_the_supervisor_allows() -> None:
    assert seconds("TimeoutStartSec") > len(STAGES) * START_S


def test_a_stop_may_take_what_the_supervisor_allows() -> None:
    assert STOP_S > DRAIN_S
    assert seconds("TimeoutStopSec") > len(STAGES) * STOP_S


def test_the_watchdog_waits_longer_than_the_loop_and_less_than_patience() -> None:
    assert seconds("WatchdogSec") / BEATS_A_PERIOD > 100 * TICK_S
    assert seconds("WatchdogSec") < PATIENCE_S
    assert settings()["WatchdogSignal"] == ["SIGTERM"]


def test_only_a_wrong_configuration_is_not_started_again(folder: Path) -> None:
    wrong = folder / "wrong.toml"
    wrong.write_text("nonsense = 1\n")
    command = [sys.executable, "-m", "streamer.cli", "run", str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=50)
    assert settings()["RestartPreventExitStatus"] == [str(done.returncode)]
    assert settings()["Restart"] == ["on-failure"]


def test_when_memory_ends_one_process_ends() -> None:
    assert settings()["OOMPolicy"] == ["continue"]
    assert "MemoryMax" in settings()


def test_what_would_break_the_program_is_not_set() -> None:
    assert not {"MemoryDenyWriteExecute", "ProcSubset", "PrivateDevices", "PrivateNetwork"} & set(settings())


def test_the_example_is_a_configuration_in_the_state_folder() -> None:
    example = config.load(FOLDER / "droplets.toml")
    [state] = settings()["StateDirectory"]
    assert str(example.output.directory).startswith(f"/var/lib/{state}/")
    assert all(end.startswith("tcp://127.") for stream in example.stream for end in config.bound(stream))


def test_the_control_socket_lies_in_the_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    [folder], variables = settings()["RuntimeDirectory"], settings()["Environment"]
    assert variables == [f"XDG_RUNTIME_DIR=/run/{folder}"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/run/{folder}")
    assert config.runtime_folder() == Path(f"/run/{folder}/streamer")
    assert settings()["RuntimeDirectoryMode"] == ["0700"]


@pytest.fixture
def unit(folder: Path) -> Path:
    """The unit with a program that exists here in the place of ours."""
    path = folder / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/streamer/bin/streamer", "/bin/true"))
    return path


@needs_analyze
def test_systemd_reads_every_line_of_it(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=40)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert not ours
    assert done.returncode == 0


@needs_analyze
def test_systemd_finds_it_hardened(unit: Path) -> None:
    limit = f"--threshold={int(MOST_EXPOSED * 10)}"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", limit, unit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stdout[-400:]


# A run, and this test in the manager's place

WATCHDOG_S = 1.0
CONFIG = """
control = "ipc://{folder}/control"
[output]
store = false
directory = "{folder}/out"
[metrics]
serve = false
[dashboard]
serve = false
[[stream]]
name = "noise"
block_events = 64
[stream.source]
endpoint = "ipc://{folder}/nobody"
source = "s"
key = "image.data"
axes = "pulse slow fast"
shape = [8, 8]
dtype = "uint16"
[stream.publish]
results = "ipc://{folder}/results"
verdicts = "ipc://{folder}/verdicts"
"""


@pytest.fixture
def manager(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(folder / "notify"))
        bound.settimeout(45)
        yield bound


def environment(folder: Path) -> dict[str, str]:
    period_us = str(int(WATCHDOG_S * 1e6))
    return {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": period_us, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, leaks: None) -> Iterator[subprocess.Popen[bytes]]:
    """`streamer run` as a manager starts it; its log lies in the folder."""
    del leaks  # searched for when this fixture has ended the run
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "streamer.cli", "run", folder / "config.toml"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    yield process
    process.terminate()
    try:
        process.wait(40)
    finally:
        process.kill()


def test_a_run_says_ready_lives_and_ends(
    folder: Path, manager: socket.socket, run: subprocess.Popen[bytes]
) -> None:
    try:
        assert manager.recv(4096) == b"READY=1"
    except TimeoutError:
        pytest.fail(f"exit code {run.poll()}: {(folder / 'log').read_text()}")
    beats: list[float] = []
    while len(beats) < 4:
        if b"WATCHDOG=1" in manager.recv(4096):
            beats.append(time.monotonic())
    assert max(later - sooner for sooner, later in pairwise(beats)) < WATCHDOG_S
    run.send_signal(signal.SIGTERM)
    while b"STOPPING=1" not in (told := manager.recv(4096)):
        assert b"READY" not in told
    assert run.wait(40) == 0, (folder / "log").read_text()
