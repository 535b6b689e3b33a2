"""Fixtures that every test may use: short folders for ipc sockets, sockets that end, the search for leaks."""

import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import zmq

from streamer import sockets

# In the environment of every process that a test starts, and so of every process that those start.
MARK = "STREAMER_TEST_MARK"


def pytest_configure() -> None:
    """Tests that run at once take ports of different shares: a free port is bound only after it is given."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    sockets.FREE_PORTS = sockets.FREE_PORTS[number::workers]  # type: ignore[misc]  # Final elsewhere


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a short path: an ipc socket's is at most 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Keeping(zmq.Context):
    """Holds its sockets, so that none is collected unclosed; destroy closes them."""

    kept: ClassVar[list[zmq.Socket]] = []

    def socket(self, *arguments: Any, **more: Any) -> zmq.Socket:
        made = super().socket(*arguments, **more)
        self.kept.append(made)
        return made


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    """One of ZeroMQ whose sockets end with the test."""
    context = Keeping()
    yield context
    context.destroy(linger=0)
    Keeping.kept.clear()


def marked(mark: str) -> list[int]:
    """Processes other than this one that carry the mark, zombies left out (they have no environment)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended while we looked, or is another user's
            continue
    return found


def _describe(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return "ended meanwhile"


def _of_zmq(thread: threading.Thread) -> bool:
    """pyzmq frees sent buffers in one thread that lives until the interpreter ends."""
    return type(thread).__module__ == "zmq.utils.garbage"


@pytest.fixture
def leaks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if it leaves a process, a thread, a shared memory or a folder of a pipeline behind."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("TMPDIR", str(folder))  # the pipelines' own folders come here, and only this test's
    threads, memories = set(threading.enumerate()), set(Path("/dev/shm").iterdir())
    yield
    left = {pid: _describe(pid) for pid in marked(mark)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    folders = [path.name for path in folder.glob("streamer-*")]
    names = [p.name for p in set(Path("/dev/shm").iterdir()) - memories if "streamer" in p.name]
    running = [
        thread.name for thread in threading.enumerate() if thread not in threads and not _of_zmq(thread)
    ]
    assert not left, f"processes left: {left}"
    assert not folders, f"folders left: {folders}"
    assert not names, f"shared memory left: {names}"
    assert not running, f"threads left: {running}"


@pytest.fixture(scope="session", autouse=True)
def _base_of_temporary_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Made now: a test that has a temporary folder of its own must not give it to all that follow."""
    tmp_path_factory.getbasetemp()
