"""What systemd is told, over real datagram sockets; when the beat stops."""

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.errors import ConfigError
from streamer.notify import ALIVE, MAX_STATUS, PATIENCE_S, STATUS_S, Notifier, Watchdog, status_line, summary
from streamer.supervisor import HUNG_S, START_S

PERIOD_S = 30.0
HALF_S = PERIOD_S / 2


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket, as the service manager has one, and its address as NOTIFY_SOCKET tells it."""
    name = str(folder / "notify") if request.param == "path" else f"@streamer-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        bound.settimeout(5)
        yield bound, name


def lines(bound: socket.socket) -> list[str]:
    return bound.recv(4096).decode().split("\n")


def environment(address: str, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "OTHER": "kept", **more}


def test_it_says_ready_then_beats_then_stopping(manager: tuple[socket.socket, str]) -> None:
    bound, address = manager
    with Notifier(environment(address)) as notifier:
        notifier.ready()
        notifier.beat({"a.ingest": 100.0}, 100.0, lambda: "all is well")
        notifier.stopping()
    assert lines(bound) == ["READY=1"]
    assert lines(bound) == ["WATCHDOG=1", "STATUS=all is well"]
    assert lines(bound) == ["STOPPING=1", "STATUS=draining"]


def test_children_do_not_inherit_the_variables(manager: tuple[socket.socket, str]) -> None:
    variables = environment(manager[1], WATCHDOG_PID=str(os.getpid()))
    with Notifier(variables) as notifier:
        assert notifier.watchdog.period_s == PERIOD_S
    assert variables == {"OTHER": "kept"}


def test_a_watchdog_of_another_process_is_not_ours(manager: tuple[socket.socket, str]) -> None:
    bound, address = manager
    with Notifier(environment(address, WATCHDOG_PID="1")) as notifier:
        notifier.beat({}, 100.0, lambda: "well")
    assert lines(bound) == ["STATUS=well"]


def test_without_a_manager_nothing_is_said_and_nothing_is_worked_out() -> None:
    with Notifier({"WATCHDOG_USEC": "30000000"}) as notifier:
        notifier.beat({"a": 0.0}, 100.0, lambda: pytest.fail("nobody reads it"))
        assert not notifier.send(["READY=1"])


@pytest.mark.parametrize("address", ["relative/path", "vsock:2:1234", "@", "/"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET"):
        Notifier({"NOTIFY_SOCKET": address})


@pytest.mark.parametrize("period", ["0", "-5", "1.5", "soon", "²"])
def test_a_period_that_is_none_is_refused(period: str) -> None:
    with pytest.raises(ConfigError, match="WATCHDOG_USEC"):
        Notifier({"WATCHDOG_USEC": period})


def test_a_manager_that_is_gone_or_full_delays_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "notify"
    with Notifier(environment(str(path))) as notifier:
        notifier.ready()
        notifier.ready()
        assert caplog.text.count("the service manager cannot be told") == 1
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
            bound.bind(str(path))
            sent = 0
            while notifier.send(["STATUS=x"]) and sent < 100_000:
                sent += 1
            assert 0 < sent < 100_000, "a queue that nobody reads is full at last"
            notifier.beat({"a": 200.0}, 200.0, str)
            for _ in range(sent):
                bound.recv(64)
            notifier.beat({"a": 200.1}, 200.1, str)
            assert lines(bound)[0] == ALIVE, "what was not taken is said again at the next look"


def beats(watchdog: Watchdog, progress: dict[str, float], now_s: float) -> bool:
    due = watchdog.due(progress, now_s, str)
    watchdog.said(due, now_s)
    return ALIVE in due


def test_a_beat_is_due_every_half_period() -> None:
    watchdog = Watchdog(PERIOD_S)
    times = [tenth / 10 for tenth in range(600)]
    beaten = [now_s for now_s in times if beats(watchdog, {"a": now_s}, now_s)]
    assert beaten == [0.0, HALF_S, 2 * HALF_S, 3 * HALF_S]


def test_one_stage_without_progress_stops_the_beat_and_its_return_begins_it_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watchdog = Watchdog(PERIOD_S)
    stopped_s = 10.0
    assert beats(watchdog, {"a.ingest": stopped_s, "a.sink": stopped_s}, stopped_s)
    late_s = stopped_s + PATIENCE_S
    assert beats(watchdog, {"a.ingest": late_s, "a.sink": stopped_s}, late_s), "still within its time"
    late_s += PERIOD_S
    assert not beats(watchdog, {"a.ingest": late_s, "a.sink": stopped_s}, late_s)
    assert "no progress of a.sink" in caplog.text
    assert watchdog.due({"a.sink": stopped_s}, late_s + STATUS_S, str) == ["STATUS=no progress of a.sink"]
    late_s += STATUS_S
    assert beats(watchdog, {"a.ingest": late_s, "a.sink": late_s}, late_s)


def test_a_stage_that_dies_before_it_works_does_not_count_as_progress_however_often_it_starts() -> None:
    """A new process has shown nothing: its page says 0."""
    watchdog = Watchdog(PERIOD_S)
    assert beats(watchdog, {"a": 50.0}, 50.0)
    answers = [beats(watchdog, {"a": 0.0}, 50.0 + s) for s in range(1, int(PATIENCE_S) + 100)]
    assert any(answers[: int(PATIENCE_S)])
    assert not any(answers[int(PATIENCE_S) + 1 :])


def test_the_supervisor_gets_its_time_first() -> None:
    assert PATIENCE_S > HUNG_S + START_S


def test_without_a_period_there_is_no_beat_but_a_status() -> None:
    assert Watchdog(None).due({"a": 5.0}, 5.0, lambda: "serving") == ["STATUS=serving"]


def test_a_status_is_one_line_and_short() -> None:
    assert status_line("a\nREADY=1\x1b[2J") == "STATUS=a READY=1 [2J"
    assert len(status_line("x" * 10_000)) == len("STATUS=") + MAX_STATUS


def test_the_summary_names_what_an_operator_asks_first() -> None:
    stream = {"received": 1200, "events_per_s": 99.6, "failopen": {"timeout": 2, "overload": 1}, "shed": {}}
    assert (
        summary({"streams": {"droplets": stream}})
        == "droplets: 1,200 events, 100/s, 3 kept unclassified, 0 shed"
    )
