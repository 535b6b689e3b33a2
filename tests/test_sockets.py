"""Sockets that never wait for a peer, and the reception of a facility's messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import zmq
from core_support import until

from streamer import sockets
from streamer.errors import ConfigError
from streamer.sockets import Receiver


class Keeping(zmq.Context):
    """Holds its sockets, so that none is collected unclosed; destroy closes them."""

    kept: ClassVar[list[zmq.Socket]] = []

    def socket(self, *arguments: Any, **more: Any) -> zmq.Socket:
        made = super().socket(*arguments, **more)
        self.kept.append(made)
        return made


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = Keeping()
    yield context
    context.destroy(linger=0)
    Keeping.kept.clear()


def test_an_address_in_use_is_a_configuration_error(context: zmq.Context) -> None:
    first = context.socket(zmq.PULL)
    endpoint = sockets.bind(first, "tcp://127.0.0.1:*")
    assert not endpoint.endswith("*")
    with pytest.raises(ConfigError, match=rf"cannot bind {endpoint}.*Is another run using it"):
        sockets.bind(context.socket(zmq.PULL), endpoint)


def test_asking_nobody_ends(context: zmq.Context, folder: Path) -> None:
    with pytest.raises(TimeoutError, match=r"no answer from .*/no within 0.05 s"):
        sockets.ask(context, f"ipc://{folder}/no", {}, 0.05)


KINDS = [("REQ", zmq.REP), ("SUB", zmq.PUB), ("PULL", zmq.PUSH)]


@pytest.mark.parametrize(("kind", "server_kind"), KINDS)
def test_whole_messages_come_from_every_kind_of_server(
    context: zmq.Context, folder: Path, kind: str, server_kind: int
) -> None:
    server = context.socket(server_kind)
    server.bind(f"ipc://{folder}/s")
    receiver = Receiver(context, kind, f"ipc://{folder}/s", 1 << 20, 1024)
    got: list[list[bytes]] = []

    def came() -> bool:
        if kind != "REQ":
            server.send_multipart([b"a", b"", b"ccc"])
        elif server.poll(10):
            assert server.recv() == b"next"
            server.send_multipart([b"a", b"", b"ccc"])
        receiver.socket.poll(10)
        frames = receiver.receive()
        if frames is not None:
            got.append([bytes(frame.buffer) for frame in frames])
        return len(got) >= 3

    until(came)
    assert got[:3] == [[b"a", b"", b"ccc"]] * 3
    receiver.close()


def test_nothing_waits(context: zmq.Context, folder: Path) -> None:
    receiver = Receiver(context, "PULL", f"ipc://{folder}/s", 1 << 20, 1024)
    assert receiver.receive() is None
    receiver.close()


def test_an_address_that_cannot_be_is_said(context: zmq.Context) -> None:
    with pytest.raises(ConfigError, match="is no address that ZeroMQ knows"):
        Receiver(context, "PULL", "nonsense", 1 << 20, 1024)


def test_a_server_that_goes_away_with_a_request_is_asked_again_when_it_is_back(
    context: zmq.Context, folder: Path
) -> None:
    endpoint = f"ipc://{folder}/s"
    server = context.socket(zmq.REP)
    server.bind(endpoint)
    receiver = Receiver(context, "REQ", endpoint, 1 << 20, 1024)
    assert server.poll(10_000)
    server.recv()
    server.close(0)  # dies with the request in hand
    until(lambda: receiver.check_connection() or receiver.reconnects)  # type: ignore[func-returns-value]
    server = context.socket(zmq.REP)
    server.bind(endpoint)
    assert server.poll(10_000), "the request came again"
    server.recv()
    server.send(b"train")
    assert receiver.socket.poll(10_000)
    frames = receiver.receive()
    assert frames is not None
    assert bytes(frames[0].buffer) == b"train"
    receiver.close()


def test_a_part_that_is_too_large_never_arrives(context: zmq.Context, folder: Path) -> None:
    server = context.socket(zmq.PUSH)
    server.bind(f"ipc://{folder}/s")
    receiver = Receiver(context, "PULL", f"ipc://{folder}/s", 1000, 1024)
    server.send(b"x" * 1001)
    until(lambda: receiver.check_connection() or receiver.reconnects)  # type: ignore[func-returns-value]
    assert receiver.receive() is None
    receiver.close()
