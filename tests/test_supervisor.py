"""Processes that must run: real children that show life on a real page."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer import memory, supervisor
from streamer.errors import ConfigError, StageError
from streamer.ledger import PageLayout, PageReader
from streamer.supervisor import Child, Supervisor

LAYOUT = PageLayout(("count",))
PATIENCE_S = 20.0

# A stage in four lines: says that it is ready, shows life, leaves at SIGTERM and writes its name down.
STAGE = """
import os, signal, sys, time
from streamer.ledger import Page, PageLayout
from streamer.memory import attach
fd, name, log, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
page = Page(attach(fd), PageLayout(("count",)))
def end(*_):
    with open(log, "a") as file: file.write(f"stop {name}\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else end)
if mode == "config": os._exit(78)
if mode == "crash": os._exit(70)
page.values[0] += 1
page.commit()
with open(log, "a") as file: file.write(f"start {name}\\n")
page.announce(os.getpid(), ready=True)
page.progress(time.monotonic_ns())
while True:
    time.sleep(0.01)
    if mode != "hung": page.progress(time.monotonic_ns())
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    fds, children = [], []

    def child(name: str = "a", mode: str = "well", tier: int = 0) -> Child:
        fd = memory.create("test", 4096)
        fds.append(fd)
        argv = [sys.executable, "-c", STAGE, str(fd), name, str(tmp_path / "log"), mode]
        made = Child(name, argv, [fd], PageReader(memory.attach(fd), LAYOUT), tier)
        children.append(made)
        return made

    yield child
    for made in children:
        if made.process is not None:
            made.process.kill()
            made.process.wait()
    for fd in fds:
        os.close(fd)


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().split("\n")[:-1]


def until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.005)  # a wait for another process, bounded above


def starts(child: Child) -> int:
    return int(child.page.read()[0])


def test_who_receives_starts_before_who_sends_and_stops_after(
    make: Callable[..., Child], tmp_path: Path
) -> None:
    children = [make(f"tier{tier}", tier=tier) for tier in range(3)]
    guard = Supervisor(children)
    guard.start()
    assert all(child.up for child in children)
    assert [child.pid for child in children] == [child.page.pid for child in children]
    guard.stop()
    assert lines(tmp_path) == [
        *(f"start tier{tier}" for tier in (2, 1, 0)),
        *(f"stop tier{tier}" for tier in (0, 1, 2)),
    ]
    assert not any(child.up for child in children)


def test_what_was_killed_is_started_again_at_once(make: Callable[..., Child]) -> None:
    child = make()
    guard = Supervisor([child])
    guard.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: guard.watch() or child.restarts == 1)  # type: ignore[func-returns-value]
    assert child.pause_s == 0
    until(lambda: guard.watch() or (child.up and child.pid != first))  # type: ignore[func-returns-value]
    assert starts(child) == 2, "its page outlived it"


def test_pauses_grow_up_to_a_bound_and_are_forgotten_once_it_was_ready(make: Callable[..., Child]) -> None:
    child = make(mode="crash")
    guard, pauses = Supervisor([child]), []
    for _ in range(6):
        child.process = None
        guard._launch(child)
        until(lambda: guard.watch() or child.process is None)  # type: ignore[func-returns-value]
        pauses.append(child.pause_s)
    first, last = supervisor.FIRST_PAUSE_S, supervisor.LONGEST_PAUSE_S
    assert pauses == [min(last, first * 2**power) for power in range(6)]
    child.argv = [*make("well").argv[:-1], "well"]
    child.argv[3] = str(child.fds[0])
    guard._launch(child)
    until(lambda: child.up)
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: guard.watch() or child.process is None)  # type: ignore[func-returns-value]
    assert (child.pause_s, child.restarts) == (0, 7)


def test_a_pause_is_kept(make: Callable[..., Child]) -> None:
    child = make(mode="crash")
    guard = Supervisor([child])
    guard._launch(child)
    until(lambda: guard.watch() or child.process is None)  # type: ignore[func-returns-value]
    child.start_at_s = time.monotonic() + 3600
    guard.watch()
    assert child.process is None, "not before its time"
    child.start_at_s = 0.0
    guard.watch()
    assert child.process is not None


def test_a_hung_child_is_killed_and_started_again(
    make: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make(mode="hung")
    guard = Supervisor([child])
    guard.start()
    first = child.pid
    monkeypatch.setattr(supervisor, "HUNG_S", 0.05)
    until(lambda: guard.watch() or child.restarts == 1)  # type: ignore[func-returns-value]
    monkeypatch.setattr(supervisor, "HUNG_S", 30)
    until(lambda: guard.watch() or (child.up and child.pid != first))  # type: ignore[func-returns-value]


def test_a_child_that_shows_life_is_not_hung(
    make: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make()
    guard = Supervisor([child])
    guard.start()
    monkeypatch.setattr(supervisor, "HUNG_S", 5.0)
    child.started_s -= 3600
    guard.watch()
    assert child.restarts == 0
    assert child.up


@pytest.mark.parametrize(("mode", "kind", "code"), [("config", ConfigError, 78), ("crash", StageError, 70)])
def test_a_child_that_does_not_come_up_refuses_the_start(
    make: Callable[..., Child], mode: str, kind: type[Exception], code: int
) -> None:
    guard = Supervisor([make("good", tier=1), make("bad", mode)])
    with pytest.raises(kind, match=f"bad ended with code {code} before it was ready"):
        guard.start()
    guard.stop()
    assert not any(child.up for child in guard.children)


def test_a_child_that_is_never_ready_ends_the_start(
    make: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make()
    child.argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(supervisor, "START_S", 0.05)
    guard = Supervisor([child])
    with pytest.raises(StageError, match="was not ready within"):
        guard.start()


def test_an_interrupt_breaks_the_start_off(make: Callable[..., Child]) -> None:
    child = make()
    child.argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    guard = Supervisor([child])
    guard.start(lambda: True)
    guard.stop()
    assert child.process is not None
    assert child.process.poll() is not None


def test_what_does_not_stop_is_killed(make: Callable[..., Child], monkeypatch: pytest.MonkeyPatch) -> None:
    child = make(mode="stubborn")
    guard = Supervisor([child])
    guard.start()
    monkeypatch.setattr(supervisor, "STOP_S", 0.1)
    guard.stop()
    assert child.process is not None
    assert child.process.poll() == -signal.SIGKILL


def test_a_later_stage_that_is_dead_at_the_stop_is_started_again(
    make: Callable[..., Child], tmp_path: Path
) -> None:
    """Blocks that lie in the ring need their sink."""
    first, last = make("first", tier=0), make("last", tier=1)
    guard = Supervisor([first, last])
    guard.start()
    os.kill(last.pid, signal.SIGKILL)
    assert last.process is not None
    last.process.wait()
    guard.stop()
    assert lines(tmp_path) == ["start last", "start first", "stop first", "start last", "stop last"]


def test_stopping_twice_or_without_a_start_is_harmless(make: Callable[..., Child], tmp_path: Path) -> None:
    guard = Supervisor([make()])
    guard.stop()
    guard.start()
    guard.stop()
    guard.stop()
    assert lines(tmp_path) == ["start a", "stop a"]
