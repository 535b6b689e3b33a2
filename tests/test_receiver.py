"""The connection to a facility's server: every kind of server, slow and strange and hostile ones.

Real sockets only: libzmq's servers, and `Server`, which says exactly what a test wants to be said.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from streamer import receiver as receiver_module
from streamer.errors import ConfigError
from streamer.receiver import Receiver, anywhere
from streamer.zmtp import GREETING, STAGE_BYTES, Place, greeting, ready, request

LIMIT = 32 << 20
# Only ever waited in full by a test that fails.
PATIENCE_S = 15.0
PING = b"\x04\x07\x04PING\0\0"


def until(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, "it did not become true in time"


def look(receiver: Receiver, wait_s: float = 0.01) -> list[bytes] | None:
    """As ingest does: connect if need be, wait a moment for bytes, take a message."""
    receiver.check_connection()
    select.select([receiver] if receiver.fileno() >= 0 else [], [], [], wait_s)
    parts = receiver.receive()
    return None if parts is None else [bytes(part) for part in parts]


def take(receiver: Receiver) -> list[bytes]:
    """The next message."""
    got: list[list[bytes]] = []

    def came() -> bool:
        parts = look(receiver)
        if parts is not None:
            got.append(parts)
        return bool(got)

    until(came)
    return got[0]


class Server:
    """A server by hand, at an ipc path: bytes in, bytes out, one connection at a time."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(PATIENCE_S)
        self.endpoint = f"ipc://{path}"
        self.peer: socket.socket | None = None

    def accept(self) -> socket.socket:
        if self.peer is not None:
            self.peer.close()
        self.peer, _ = self.listener.accept()
        self.peer.settimeout(PATIENCE_S)
        return self.peer

    def serve(self, receiver: Receiver, kind: str = "PUSH") -> socket.socket:
        """Both sides of a handshake."""

        def connected() -> bool:
            receiver.check_connection()
            return receiver.fileno() >= 0

        until(connected)
        peer = self.accept()
        peer.sendall(greeting(kind))
        assert look(receiver) is None
        return peer

    def close(self) -> None:
        self.listener.close()
        if self.peer is not None:
            self.peer.close()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with closing(Server(folder / "s")) as made:
        yield made


@pytest.fixture
def connect() -> Iterator[Callable[..., Receiver]]:
    """Makes receivers that are closed after the test."""
    made: list[Receiver] = []

    def make(endpoint: str, kind: str = "PULL", limit: int = LIMIT, place: Place = anywhere) -> Receiver:
        made.append(Receiver(kind, endpoint, limit, place))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of milliseconds."""
    monkeypatch.setattr(receiver_module, "HANDSHAKE_S", 0.1)
    monkeypatch.setattr(receiver_module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(receiver_module, "LONGEST_PAUSE_S", 0.01)


Connect = Callable[..., Receiver]


# --- servers of libzmq ------------------------------------------------------------------------------------


def bound(context: zmq.Context, kind: int, address: str) -> tuple["zmq.Socket[bytes]", str]:
    server = context.socket(kind)
    server.set(zmq.LINGER, 0)
    server.set(zmq.IPV6, "[" in address)
    try:
        server.bind(address)
    except zmq.ZMQError as error:
        pytest.skip(f"no {address} here: {error}")
    return server, server.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()


def answer(server: "zmq.Socket[bytes]", parts: list[bytes]) -> None:
    """Send, to those who ask if that is its way."""
    if server.type in (zmq.REP, zmq.ROUTER):
        if not server.poll(0):
            return
        *envelope, word = server.recv_multipart()
        assert word == b"next"
        parts = [*envelope, *parts]
    if server.poll(0, zmq.POLLOUT):
        server.send_multipart(parts)


@pytest.mark.parametrize(
    "address", ["ipc://{}/s", "ipc://@{}/abstract", "tcp://127.0.0.1:*", "tcp://[::1]:*"]
)
@pytest.mark.parametrize(
    ("kind", "server_kind"),
    [("PULL", zmq.PUSH), ("SUB", zmq.PUB), ("SUB", zmq.XPUB), ("REQ", zmq.REP), ("REQ", zmq.ROUTER)],
)
def test_whole_messages_come_from_every_kind_of_server(
    context: zmq.Context, folder: Path, connect: Connect, kind: str, server_kind: int, address: str
) -> None:
    server, endpoint = bound(context, server_kind, address.format(folder))
    receiver = connect(endpoint, kind)
    got: list[list[bytes]] = []

    def came() -> bool:
        answer(server, [b"a", b"", b"c" * 3000])
        parts = look(receiver)
        if parts is not None:
            got.append(parts)
        return len(got) >= 3

    until(came)
    assert got[:3] == [[b"a", b"", b"c" * 3000]] * 3
    assert receiver.reconnects == 0


def test_messages_of_every_size_come_whole(context: zmq.Context, connect: Connect) -> None:
    """Large parts to a place of their own and anywhere, over TCP, which cuts them as it likes."""
    server, endpoint = bound(context, zmq.PUSH, "tcp://127.0.0.1:*")
    memory = memoryview(bytearray(20 << 20))
    receiver = connect(endpoint, place=lambda index, size: memory[:size] if index == 1 else None)
    until(lambda: look(receiver) or server.poll(0, zmq.POLLOUT))
    content = os.urandom(20 << 20)
    sent = [[content[:1], content[:size]] for size in (1, 255, 256, 2047, 2048, 300_000, 20 << 20)]
    sent += [[content[k : k + 100] for k in range(500)], [content[: 5 << 20]] * 3, [b""]]
    for parts in sent:
        server.send_multipart(parts)
    for parts in sent:
        assert take(receiver) == parts


@pytest.mark.parametrize(
    ("kind", "server_kind", "hint"),
    [("PULL", zmq.PUB, "SUB"), ("SUB", zmq.REP, "REQ"), ("REQ", zmq.PUSH, "PULL"), ("REQ", zmq.XPUB, "SUB")],
)
def test_the_wrong_kind_of_server_says_what_to_set(
    context: zmq.Context,
    folder: Path,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    server_kind: int,
    hint: str,
) -> None:
    _, endpoint = bound(context, server_kind, f"ipc://{folder}/s")
    receiver = connect(endpoint, kind)
    until(lambda: look(receiver) or f"set source.socket = {hint}" in caplog.text)
    assert receiver.reconnects == 0


def test_heartbeats_of_the_server_keep_the_connection(
    context: zmq.Context, folder: Path, connect: Connect
) -> None:
    server = context.socket(zmq.PUSH)
    server.set(zmq.HEARTBEAT_IVL, 20)
    server.set(zmq.HEARTBEAT_TIMEOUT, 100)  # so long it waits for an answer
    server.bind(f"ipc://{folder}/s")
    receiver = connect(f"ipc://{folder}/s")
    end_s = time.monotonic() + 0.5
    while time.monotonic() < end_s:
        assert look(receiver) is None
    server.send(b"m")
    assert take(receiver) == [b"m"]
    assert receiver.reconnects == 0


def test_a_server_may_come_late_and_again(
    context: zmq.Context, folder: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    endpoint = f"ipc://{folder}/s"
    receiver = connect(endpoint)
    assert look(receiver) is None
    assert receiver.fileno() == -1
    for turn in range(3):
        server = context.socket(zmq.PUSH)
        server.bind(endpoint)
        until(lambda server=server: look(receiver) or server.poll(0, zmq.POLLOUT))
        server.send(b"%d" % turn)
        assert take(receiver) == [b"%d" % turn]
        server.close(0)
        until(lambda turn=turn: look(receiver) or receiver.reconnects == turn + 1)
    assert caplog.text.count(f"connected to {endpoint}, a PUSH server") == 3


def test_a_server_that_goes_away_with_a_request_is_asked_again_when_it_is_back(
    context: zmq.Context, folder: Path, connect: Connect
) -> None:
    endpoint = f"ipc://{folder}/s"
    server, _ = bound(context, zmq.REP, endpoint)
    receiver = connect(endpoint, "REQ")
    until(lambda: look(receiver) or server.poll(0))
    server.recv()
    server.close(0)  # dies with the request in hand
    until(lambda: look(receiver) or receiver.reconnects)
    server, _ = bound(context, zmq.REP, endpoint)
    until(lambda: look(receiver) or server.poll(0))
    server.recv()
    server.send(b"train")
    assert take(receiver) == [b"train"]


def test_a_message_that_is_too_large_never_arrives(
    context: zmq.Context, folder: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server, endpoint = bound(context, zmq.PUSH, f"ipc://{folder}/s")
    receiver = connect(endpoint, limit=1000)
    until(lambda: look(receiver) or server.poll(0, zmq.POLLOUT))
    server.send_multipart([b"x" * 500, b"y" * 501])
    until(lambda: look(receiver) or receiver.reconnects)
    assert receiver.receive() is None
    assert "source.max_message_bytes = 1000" in caplog.text


# --- servers that break off -------------------------------------------------------------------------------


def pass_on(peer: socket.socket, wire: bytes, receiver: Receiver) -> list[list[bytes]]:
    """Send all of it while the receiver reads; what it gave meanwhile."""
    got: list[list[bytes]] = []
    for at in range(0, len(wire), 50_000):  # less than a socket's buffer holds
        peer.sendall(wire[at : at + 50_000])
        parts = look(receiver)
        got += [parts] if parts is not None else []
    return got


@pytest.mark.parametrize("sent", [1, 7, 4000, 300_000])
def test_of_a_message_that_breaks_off_nothing_is_given(server: Server, connect: Connect, sent: int) -> None:
    """Also where the next one lies at the same place."""
    memory = memoryview(bytearray(400_000))
    receiver = connect(server.endpoint, place=lambda _, size: memory[:size])
    head = b"\x01\x04head\x02" + len(memory).to_bytes(8, "big")
    peer = server.serve(receiver)
    assert pass_on(peer, (head + b"\xff" * len(memory))[:sent], receiver) == []
    peer.close()
    until(lambda: look(receiver) or receiver.reconnects)
    peer = server.serve(receiver)
    assert pass_on(peer, head + bytes(len(memory)), receiver) == [[b"head", bytes(len(memory))]]


def test_a_reply_that_came_is_not_lost_with_the_server(server: Server, connect: Connect) -> None:
    """The next request cannot be sent any more; the reply is here."""
    receiver = connect(server.endpoint, "REQ")
    peer = server.serve(receiver, "REP")
    assert peer.recv(1000).endswith(request())
    peer.sendall(b"\x01\x00\x00\x04last")
    peer.close()
    assert take(receiver) == [b"last"]
    until(lambda: look(receiver) or receiver.reconnects)


def test_ready_may_come_byte_by_byte(server: Server, connect: Connect) -> None:
    receiver = connect(server.endpoint)
    receiver.check_connection()
    peer = server.accept()
    for byte in greeting("PUSH") + b"\x00\x01m":
        assert receiver.receive() is None
        peer.sendall(bytes([byte]))
    assert take(receiver) == [b"m"]


def test_a_server_that_waits_for_our_ready_gets_it(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "READY_S", 0.05)
    receiver = connect(server.endpoint)
    receiver.check_connection()
    peer = server.accept()
    peer.sendall(GREETING)
    peer.setblocking(False)
    said = b""

    def heard() -> bool:
        nonlocal said
        look(receiver)
        with contextlib.suppress(BlockingIOError):
            said += peer.recv(1000)
        return said == greeting("PULL")

    until(heard)
    peer.sendall(ready("PUSH") + b"\x00\x01m")
    assert take(receiver) == [b"m"]
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(1000)  # it was said once


@pytest.mark.usefixtures("impatient")
def test_a_server_that_never_greets_is_given_up(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = connect(server.endpoint)
    until(lambda: look(receiver) or "no ZeroMQ handshake within 0.1 s" in caplog.text)
    server.accept()  # the first connection
    server.serve(receiver).sendall(b"\x00\x01m")
    assert take(receiver) == [b"m"]
    assert receiver.reconnects == 0, "it had never served"


@pytest.mark.usefixtures("impatient")
def test_a_handshake_that_is_never_done_is_given_up_though_bytes_keep_coming(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Ingest calls `check_connection` only when nothing comes."""
    receiver = connect(server.endpoint)
    receiver.check_connection()
    peer = server.accept()
    peer.sendall(greeting("PUSH")[:64] + b"\x06" + (2000).to_bytes(8, "big"))

    def lost() -> bool:
        select.select([], [], [], 0.001)  # 2000 bytes take longer than the limit
        peer.send(b"x")
        return receiver.receive() is not None or receiver.fileno() < 0

    until(lost)
    assert "no ZeroMQ handshake" in caplog.text


@pytest.mark.parametrize("greets", [False, True])
def test_a_server_that_closes_at_once_again_and_again_is_tried_ever_less(
    server: Server, connect: Connect, greets: bool
) -> None:
    receiver, tries = connect(server.endpoint), 0
    server.listener.setblocking(False)
    end_s = time.monotonic() + 0.7
    while time.monotonic() < end_s:
        try:
            peer, _ = server.listener.accept()
        except BlockingIOError:
            look(receiver, 0.005)
            continue
        tries += 1
        if greets:
            peer.sendall(greeting("PUSH"))
        peer.close()
    assert 2 <= tries <= 5, "after 0, 0.05, 0.15, 0.35 and 0.75 s"


@pytest.mark.usefixtures("impatient")
def test_where_nobody_listens_is_said_once(
    folder: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = connect(f"ipc://{folder}/s")
    end_s = time.monotonic() + 0.2
    while time.monotonic() < end_s:
        assert look(receiver, 0.001) is None
    assert caplog.text.count(f"no connection to ipc://{folder}/s") == 1
    assert receiver.reconnects == 0


def test_a_port_that_refuses_is_no_error(connect: Connect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and does not listen
        receiver = connect(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        assert look(receiver) is None
        assert receiver.fileno() == -1


@pytest.mark.usefixtures("impatient")
def test_a_hundred_reconnects_leave_no_file_open(server: Server, connect: Connect) -> None:
    receiver = connect(server.endpoint)
    server.serve(receiver)
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(100):
        server.serve(receiver) if turn else None
        server.peer.close()  # type: ignore[union-attr]
        until(lambda turn=turn: look(receiver) or receiver.reconnects == turn + 1)
    receiver.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_it_may_be_closed_at_any_moment(server: Server, connect: Connect) -> None:
    stages: list[Callable[[Receiver], object]] = [
        lambda _: None,
        lambda receiver: receiver.check_connection(),
        lambda receiver: [receiver.check_connection(), server.accept().sendall(b"\xff"), look(receiver)],
        lambda receiver: server.serve(receiver),
        lambda receiver: [server.serve(receiver).sendall(b"\x01\x05begin\x00\x10"), look(receiver)],
        lambda receiver: [server.serve(receiver).sendall(b"\x02" + bytes(6) + b"\x10\x00x"), look(receiver)],
    ]
    for reach in stages:
        receiver = connect(server.endpoint)
        reach(receiver)
        receiver.close()
        receiver.close()
        assert receiver.fileno() == -1
        assert receiver.receive() is None
        server.listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            server.accept()  # what was not accepted yet
        server.listener.settimeout(PATIENCE_S)


def test_closed_within_a_message_it_can_connect_again(server: Server, connect: Connect) -> None:
    receiver = connect(server.endpoint)
    server.serve(receiver).sendall(b"\x01\x04half")
    assert look(receiver) is None
    receiver.close()
    server.serve(receiver).sendall(b"\x00\x05whole")
    assert take(receiver) == [b"whole"]


# --- servers that mean harm -------------------------------------------------------------------------------


def test_an_http_server_is_told_from_a_slow_one(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = connect(server.endpoint)
    receiver.check_connection()
    server.accept().sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    until(lambda: look(receiver) or "no ZeroMQ server" in caplog.text)


def test_commands_without_end_do_not_keep_the_caller(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "TURN_S", 0.0)
    receiver = connect(server.endpoint)
    peer = server.serve(receiver)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * STAGE_BYTES)
    peer.setblocking(False)
    sent = peer.send(b"\x04\x01\x00" * STAGE_BYTES)
    if sent <= STAGE_BYTES:
        pytest.skip("the kernel lets no socket hold more than is read at once")
    assert receiver.receive() is None
    assert select.select([receiver], [], [], 0)[0], "it has read to the end, however long that takes"


def test_what_is_there_after_the_last_read_is_given(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would not tell of it again."""
    monkeypatch.setattr(receiver_module, "TURN_S", 0.0)
    receiver = connect(server.endpoint)
    server.serve(receiver).sendall(b"\x00\x01a\x00\x01b")
    select.select([receiver], [], [], PATIENCE_S)
    assert receiver.receive() == [b"a"]
    assert receiver.receive() == [b"b"]


@pytest.mark.parametrize(
    ("kind", "server_kind", "said"), [("PULL", "PUSH", PING), ("REQ", "REP", b"\x01\x00\x00\x05reply")]
)
def test_a_server_that_never_takes_what_it_makes_us_say_is_given_up(
    server: Server,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    server_kind: str,
    said: bytes,
) -> None:
    receiver = connect(server.endpoint, kind)
    peer = server.serve(receiver, server_kind)
    peer.setblocking(False)

    def lost() -> bool:
        with contextlib.suppress(OSError):
            peer.send(said * 100)
        while receiver.receive() is not None:
            pass
        return receiver.reconnects > 0

    until(lost)
    assert "asks for more than it takes" in caplog.text


# --- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "nonsense",
        "exflhost:4500",
        "tcp://",
        "tcp://exflhost",
        "tcp://exflhost:",
        "tcp://exflhost:0",
        "tcp://exflhost:65536",
        "tcp://exflhost:-1",
        "tcp://exflhost:4500x",
        "tcp://exflhost:٤",
        "tcp://:4500",
        "tcp://*:4500",
        "tcp://exfl..host:4500",
        "tcp://" + "x" * 64 + ":4500",
        "tcp://exfl host:4500",
        "tcp://eth0:0;exflhost:4500",
        "tcp://[::1:2:4500",
        "tcp://a:b:4500",
        "tcp://\ud800:4500",
        "udp://exflhost:4500",
        "inproc://name",
        "ipc://",
        "ipc://" + "x" * 108,
        "ipc:///tmp/a\0b",
        "ipc:///tmp/\ud800x",
    ],
)
def test_an_address_that_cannot_be_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="expected tcp://host:port or ipc://path"):
        Receiver("PULL", endpoint, LIMIT)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://exfl-host_1.desy.de:4500",
        "tcp://exflhost.:1",
        "tcp://bücher.example:65535",
        "tcp://10.0.0.1:4500",
        "tcp://[::1]:4500",
        "tcp://::1:4500",
        "tcp://[fe80::1%eth0]:4500",
        "ipc://" + "x" * 107,
        "ipc://@name",
    ],
)
def test_an_address_that_can_be_is_taken(endpoint: str) -> None:
    assert Receiver("PULL", endpoint, LIMIT).fileno() == -1
