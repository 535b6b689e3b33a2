"""The connection to a facility's server: every kind of server, lost and made again."""

import select
from pathlib import Path

import pytest
import zmq
from core_support import until

from streamer.errors import ConfigError
from streamer.receiver import Receiver


def look(receiver: Receiver) -> list[bytes | memoryview] | None:
    """Wait a moment for a message."""
    receiver.check_connection()
    select.select([receiver] if receiver.fileno() >= 0 else [], [], [], 0.01)
    return receiver.receive()


KINDS = [("REQ", zmq.REP), ("SUB", zmq.PUB), ("PULL", zmq.PUSH)]


@pytest.mark.parametrize(("kind", "server_kind"), KINDS)
def test_whole_messages_come_from_every_kind_of_server(
    context: zmq.Context, folder: Path, kind: str, server_kind: int
) -> None:
    server = context.socket(server_kind)
    server.bind(f"ipc://{folder}/s")
    receiver = Receiver(kind, f"ipc://{folder}/s", 1 << 20)
    got: list[list[bytes]] = []

    def came() -> bool:
        if kind == "REQ" and server.poll(0):
            assert server.recv() == b"next"
        if server.poll(0, zmq.POLLOUT):
            server.send_multipart([b"a", b"", b"ccc"])
        parts = look(receiver)
        if parts is not None:
            got.append([bytes(part) for part in parts])
        return len(got) >= 3

    until(came)
    assert got[:3] == [[b"a", b"", b"ccc"]] * 3
    receiver.close()


def test_nothing_waits(folder: Path) -> None:
    receiver = Receiver("PULL", f"ipc://{folder}/s", 1 << 20)
    receiver.check_connection()
    assert receiver.receive() is None
    receiver.close()


def test_an_address_that_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="expected tcp://host:port or ipc://path"):
        Receiver("PULL", "nonsense", 1 << 20)


def test_a_server_that_goes_away_with_a_request_is_asked_again_when_it_is_back(
    context: zmq.Context, folder: Path
) -> None:
    endpoint = f"ipc://{folder}/s"
    server = context.socket(zmq.REP)
    server.bind(endpoint)
    receiver = Receiver("REQ", endpoint, 1 << 20)
    until(lambda: look(receiver) or server.poll(0))
    server.recv()
    server.close(0)  # dies with the request in hand
    until(lambda: look(receiver) or receiver.reconnects)
    server = context.socket(zmq.REP)
    server.bind(endpoint)
    until(lambda: look(receiver) or server.poll(0))
    server.recv()
    server.send(b"train")
    got: list[bytes] = []
    until(lambda: got.extend(map(bytes, look(receiver) or [])) or got)  # type: ignore[func-returns-value]
    assert got == [b"train"]
    receiver.close()


def test_a_message_that_is_too_large_never_arrives(context: zmq.Context, folder: Path) -> None:
    server = context.socket(zmq.PUSH)
    server.bind(f"ipc://{folder}/s")
    receiver = Receiver("PULL", f"ipc://{folder}/s", 1000)
    until(lambda: look(receiver) or server.poll(0, zmq.POLLOUT))
    server.send(b"x" * 1001)
    until(lambda: look(receiver) or receiver.reconnects)
    assert receiver.receive() is None
    receiver.close()
