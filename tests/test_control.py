"""The control socket: who may have it, what it answers, and that nothing kills it."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from streamer.control import ControlServer, forward, keep_token, request, token_file
from streamer.errors import ConfigError


def ask(address: str, alive: Callable[[], bool]) -> dict[str, Any]:
    return forward(address, {"bundle": "new"}, 10.0, alive)


@pytest.fixture
def endpoint(folder: Path) -> str:
    return f"ipc://{folder}/private/control"


def fails(_: dict[str, Any]) -> dict[str, Any]:
    raise ConfigError("no such stream")


def late(_: dict[str, Any]) -> dict[str, Any]:
    raise TimeoutError("no answer within 1 s")


@pytest.fixture
def server(endpoint: str) -> Iterator[ControlServer]:
    commands = {"echo": lambda asked: {"got": asked}, "fails": fails, "late": late}
    with ControlServer(endpoint, commands) as made:
        yield made


@pytest.mark.usefixtures("server")
def test_a_command_is_answered(endpoint: str) -> None:
    asked = {"command": "echo", "stream": "s"}
    assert request(endpoint, asked) == {"ok": True, "got": asked}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fails", "no such stream"),
        ("late", "no answer within 1 s"),
        ("rm", "unknown command 'rm'; known: .*echo"),
        ("x" * 1000, "unknown command 'x{40}'"),
    ],
)
def test_a_refusal_is_a_configuration_error_with_the_reason(
    endpoint: str, command: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        request(endpoint, {"command": command})


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "parts", [[b"\xc1"], [b""], [b"\x90"], [b"one", b"two"], [msgpack.packb({1: 2})], [b"\x81" * 4000]]
)
def test_nonsense_is_refused_and_the_next_request_answered(endpoint: str, parts: list[bytes]) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(endpoint)
        socket.send_multipart(parts)
        assert socket.poll(10_000)
        assert msgpack.unpackb(socket.recv())["ok"] is False
    assert request(endpoint, {"command": "echo"})["ok"]


@pytest.mark.usefixtures("server")
def test_a_second_server_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"another run has the control socket .*stop it, or set another"):
        ControlServer(endpoint, {})
    assert request(endpoint, {"command": "echo"})["ok"], "the first still has it"


def test_a_second_server_is_refused_while_the_first_is_busy(endpoint: str) -> None:
    begun, end = threading.Event(), threading.Event()

    def slow(_: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        end.wait(30)
        return {}

    with ControlServer(endpoint, {"slow": slow}):
        asker = threading.Thread(target=request, args=(endpoint, {"command": "slow"}, 30))
        asker.start()
        assert begun.wait(10)
        with pytest.raises(ConfigError, match="another run"):
            ControlServer(endpoint, {})
        end.set()
        asker.join(10)
        assert not asker.is_alive()


def test_the_address_is_free_again_after_a_server(endpoint: str) -> None:
    for _ in range(3):
        with ControlServer(endpoint, {"echo": lambda _: {}}):
            assert request(endpoint, {"command": "echo"})["ok"]


def test_a_socket_left_by_a_dead_server_does_not_matter(endpoint: str) -> None:
    path = Path(endpoint.removeprefix("ipc://"))
    path.parent.mkdir(parents=True)
    path.touch()
    with ControlServer(endpoint, {"echo": lambda _: {}}):
        assert request(endpoint, {"command": "echo"})["ok"]


def test_its_folder_is_made_for_its_user_only(endpoint: str, server: ControlServer) -> None:
    assert server
    assert Path(endpoint.removeprefix("ipc://")).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("other", ["tcp://127.0.0.1:5", "inproc://x", "/tmp/x"])
def test_only_ipc_is_allowed(other: str) -> None:
    with pytest.raises(ConfigError, match=r"expected an ipc:// address, got .*no authentication"):
        ControlServer(other, {})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    os.chown(other, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        ControlServer(f"ipc://{other}/control", {})


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make the folder .*/file/x"):
        ControlServer(f"ipc://{folder}/file/x/control", {})


def test_an_address_too_long_for_the_kernel_is_a_configuration_error(folder: Path) -> None:
    endpoint = f"ipc://{folder}/{'x' * 110}/control"
    with pytest.raises(ConfigError, match="cannot bind"):
        ControlServer(endpoint, {})


def test_without_a_run_the_error_says_so(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"no running pipeline answers: .* Is one running, as this user"):
        request(endpoint, {"command": "status"}, timeout_s=0.05)


def test_a_swap_waits_for_the_answer_of_the_stage(folder: Path) -> None:
    address = f"ipc://{folder}/stage"
    with zmq.Context() as context, context.socket(zmq.REP) as stage:
        stage.set(zmq.LINGER, 0)
        stage.bind(address)
        answers: list[dict[str, Any]] = []
        asker = threading.Thread(target=lambda: answers.append(ask(address, lambda: True)))
        asker.start()
        assert stage.poll(10_000)
        assert msgpack.unpackb(stage.recv()) == {"bundle": "new"}
        stage.send(msgpack.packb({"ok": False, "error": "no"}))
        asker.join(10)
    assert answers == [{"ok": False, "error": "no"}]


def test_a_swap_does_not_wait_for_a_stage_that_has_died(folder: Path) -> None:
    with pytest.raises(TimeoutError):
        ask(f"ipc://{folder}/gone", lambda: False)


def test_the_token_of_the_live_page_is_for_its_user_only(folder: Path) -> None:
    endpoint = f"ipc://{folder}/control"
    (folder / "control.token").write_text("of a run that was killed")
    path = keep_token(endpoint, "secret")
    assert path == token_file(endpoint)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("secret\n", 0o600)


def test_others_are_answered_while_a_change_is_under_way(endpoint: str) -> None:
    begun, go_on, order = threading.Event(), threading.Event(), []

    def change(asked: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        go_on.wait(20)
        order.append(asked["number"])
        return {"number": asked["number"]}

    answers: list[dict[str, Any]] = []

    def ask_for(number: int) -> None:
        answers.append(request(endpoint, {"command": "change", "number": number}, 30.0))

    with ControlServer(endpoint, {"change": change, "status": lambda _: {"busy": True}}, ("change",)):
        first, second = (threading.Thread(target=ask_for, args=(number,)) for number in (1, 2))
        first.start()
        assert begun.wait(10)
        second.start()
        assert request(endpoint, {"command": "status"}, 10.0)["busy"]
        assert order == []
        go_on.set()
        first.join(20)
        second.join(20)
    assert order == [1, 2], "changes are done one after the other"
    assert sorted(answer["number"] for answer in answers) == [1, 2]


@pytest.mark.usefixtures("server")
def test_what_nobody_can_be_answered_for_is_ignored(endpoint: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(endpoint)
        socket.send(b"x")
        socket.send_multipart([b"x", b"y", b"z"])
    with pytest.raises(ConfigError, match="unknown command 'none'"):
        request(endpoint, {"command": "none"}, 10.0)


def test_a_command_that_fails_in_its_own_way_costs_only_itself(endpoint: str) -> None:
    def broken(_: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError("of ours")

    commands = {"broken": broken, "change": broken, "status": lambda _: {}}
    with ControlServer(endpoint, commands, ("change",)):
        for command in ("broken", "change"):
            with pytest.raises(ConfigError, match=f"{command} failed: ZeroDivisionError"):
                request(endpoint, {"command": command}, 10.0)
        for strange in ({"a": 1}, None, 7, ["status"], b"status"):
            with pytest.raises(ConfigError, match="unknown command"):
                request(endpoint, {"command": strange}, 10.0)
        assert request(endpoint, {"command": "status"}, 10.0)["ok"]


def test_an_answer_that_is_none_is_told(folder: Path) -> None:
    address = f"ipc://{folder}/other"
    with zmq.Context() as context, context.socket(zmq.REP) as other:
        other.set(zmq.LINGER, 0)
        other.bind(address)
        for answer in (msgpack.packb([1]), b"\xc1", msgpack.packb(7)):
            errors: list[BaseException] = []

            def ask_it(errors: list[BaseException] = errors) -> None:
                try:
                    request(address, {"command": "status"}, 10.0)
                except BaseException as error:
                    errors.append(error)

            asker = threading.Thread(target=ask_it)
            asker.start()
            assert other.poll(10_000)
            other.recv()
            other.send(answer)
            asker.join(10)
            assert isinstance(errors[0], ConfigError)
            assert "answers something else" in str(errors[0])
