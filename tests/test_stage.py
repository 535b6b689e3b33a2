"""The frame of a stage process: its exit codes, and that it does not outlive its supervisor."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from core_support import config_text, place

from streamer.config import parse
from streamer.stage import EXIT_CONFIG, EXIT_RESTART

MAIN = """
import os, sys, time
from streamer.errors import ConfigError, StageError
from streamer.stage import main
def run(stage):
    what = os.environ["WHAT"]
    if what == "config": raise ConfigError("not like this")
    if what == "stage": raise StageError("again")
    if what == "bug": 1 / 0
    stage.ready()
    print("ready", flush=True)
    while what == "serve" and not stage.stopping: time.sleep(0.01)
main("sink", run)
"""


def start(
    folder: Path, what: str, parent: int | None = None, before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    spec, fd = place(parse(config_text(), "test"), folder)
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    argv = [*before, sys.executable, "-c", MAIN, str(path), str(parent or os.getpid())]
    try:
        return subprocess.Popen(
            argv,
            pass_fds=[fd],
            env=os.environ | {"WHAT": what},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("end", 0, ""),
        ("config", EXIT_CONFIG, "not like this"),
        ("stage", EXIT_RESTART, "the stage failed and will be started again"),
        ("bug", EXIT_RESTART, "ZeroDivisionError"),
    ],
)
def test_the_exit_code_says_what_to_do(folder: Path, what: str, code: int, text: str) -> None:
    process = start(folder, what)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == code
    assert text in errors
    assert ("Traceback" in errors) == (code == EXIT_RESTART), "a person's mistake is one line"


def test_sigterm_is_recorded_and_sigint_is_the_supervisors(folder: Path) -> None:
    process = start(folder, "serve")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 0


def test_a_stage_whose_supervisor_is_gone_leaves(folder: Path) -> None:
    process = start(folder, "serve", parent=2**22 + 1)
    process.communicate(timeout=50)
    assert process.returncode == EXIT_RESTART


def _may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rfp", "true"], capture_output=True, timeout=20).returncode == 0


@pytest.mark.skipif(not _may_unshare(), reason="needs a process namespace of its own")
def test_a_supervisor_that_is_process_1_can_have_stages(folder: Path) -> None:
    """As in a container: the parent's number is 1, and it is not dead."""

    code = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:], close_fds=False))"
    process = start(folder, "end", parent=1, before=("unshare", "-rfp", sys.executable, "-c", code))
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
