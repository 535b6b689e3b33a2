"""The server: bounds, fates, requests, peers that come and go; and the due times."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from streamer.errors import ConfigError
from streamer.facility.pacing import Clock, Outgoing, Pacer, send_paced
from streamer.facility.serve import MAX_REQUEST_BYTES, Server, ServerOptions

TIMEOUT_MS = 5000
Socket = zmq.Socket[bytes]


class Clients:
    """The peers of one test, closed after it."""

    def __init__(self) -> None:
        self._context: zmq.Context[Socket] = zmq.Context()
        self._sockets: list[Socket] = []

    def connect(self, kind: int, endpoint: str) -> Socket:
        socket = self._context.socket(kind)
        self._sockets.append(socket)
        socket.set(zmq.RCVTIMEO, TIMEOUT_MS)
        socket.set(zmq.RCVHWM, 1)
        if kind == zmq.SUB:
            socket.set(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        return socket

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(0)
        self._context.term()


@pytest.fixture
def clients() -> Iterator[Clients]:
    clients = Clients()
    yield clients
    clients.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/serve.sock"


def count_threads_and_sockets() -> tuple[int, int]:
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def test_port_zero_tells_the_real_port(clients: Clients) -> None:
    with Server(ServerOptions("tcp://127.0.0.1:0", "PUSH"), 100) as server:
        assert server.endpoint.startswith("tcp://127.0.0.1:")
        assert int(server.endpoint.rpartition(":")[2]) > 0
        client = clients.connect(zmq.PULL, server.endpoint)
        assert server.send([b"a", b"b"])
        assert client.recv_multipart() == [b"a", b"b"]


def test_two_servers_on_one_endpoint_are_refused() -> None:
    with (
        Server(ServerOptions("tcp://127.0.0.1:0"), 1) as server,
        pytest.raises(ConfigError, match="cannot bind"),
    ):
        Server(ServerOptions(server.endpoint), 1)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"socket": "DEALER"}, "DEALER"), ({"queue_bytes": 0}, "queue_bytes"), ({"send_timeout_s": -1}, "-1")],
)
def test_bad_options_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ServerOptions(**options)  # type: ignore[arg-type]


def test_push_without_room_drops_and_counts(clients: Clients, endpoint: str) -> None:
    fates: list[tuple[int, bool]] = []
    options = ServerOptions(endpoint, "PUSH", queue_bytes=2, send_timeout_s=0.01, linger_s=0)
    with Server(options, 1, on_settled=lambda *fate: fates.append(fate)) as server:
        assert not server.send([b"nobody is there"], 7)
        assert (server.sent, server.dropped) == (0, 1)
        clients.connect(zmq.PULL, endpoint)
        assert server.wait_for_peer(5)
        # A peer that reads nothing: pipes and kernel buffers fill, then trains are dropped.
        answers = [server.send([bytes(1 << 20)], ticket) for ticket in range(30)]
    assert not all(answers)
    assert answers.count(True) == server.sent
    assert answers.count(False) == server.dropped - 1
    assert fates == [(7, False), *enumerate(answers)]


def test_push_waits_for_a_slow_peer(clients: Clients, endpoint: str) -> None:
    received: list[bytes] = []

    def read() -> None:
        client = clients.connect(zmq.PULL, endpoint)
        received.extend(client.recv()[:1] for _ in range(40))

    reader = threading.Thread(target=read)
    with Server(ServerOptions(endpoint, "PUSH", queue_bytes=1), 1) as server:
        reader.start()
        assert all(server.send([bytes([number]) + bytes(1 << 18)]) for number in range(40))
    reader.join(5)
    assert received == [bytes([number]) for number in range(40)]
    assert server.dropped == 0


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_a_close_waits_for_a_peer_that_reads_late(clients: Clients, endpoint: str, scheme: str) -> None:
    options = ServerOptions(endpoint if scheme == "ipc" else "tcp://127.0.0.1:0", "PUSH")
    server = Server(options, 1 << 20)
    client = clients.connect(zmq.PULL, server.endpoint)
    assert server.wait_for_peer(5)
    # More than a high-water mark of 1 lets in: the rest lies in the kernel while the peer does not read.
    assert all(server.send([bytes([number]), bytes(20_000)]) for number in range(30))
    closing = threading.Thread(target=server.close)
    closing.start()
    closing.join(0.1)
    assert [client.recv_multipart()[0] for _ in range(30)] == [bytes([number]) for number in range(30)]
    closing.join(5)
    assert not closing.is_alive()


def test_a_close_gives_up_on_a_peer_that_does_not_read(clients: Clients, endpoint: str) -> None:
    before = count_threads_and_sockets()
    server = Server(ServerOptions(endpoint, "PUSH", linger_s=0.1), 1 << 20)
    clients.connect(zmq.PULL, endpoint)
    assert server.wait_for_peer(5)
    assert all(server.send([bytes(1 << 20)]) for _ in range(10))
    started_s = time.monotonic()
    server.close()
    assert time.monotonic() - started_s < 5
    clients.close()
    assert count_threads_and_sockets()[0] <= before[0] + 1  # pyzmq keeps one thread for zero-copy messages


def test_publisher_without_subscriber_drops_and_counts(clients: Clients, endpoint: str) -> None:
    with Server(ServerOptions(endpoint, "PUB", send_timeout_s=0), 1) as server:
        assert not server.send([b"lost"])
        client = clients.connect(zmq.SUB, endpoint)
        assert server.wait_for_peer(5)
        assert server.send([b"seen"])
        assert client.recv() == b"seen"
        client.close()
        while server.send([b"late"]):  # until the server hears of the end
            server.wait(0.001)
    assert server.dropped == 2


def test_publisher_does_not_drop_silently_at_the_mark(clients: Clients, endpoint: str) -> None:
    options = ServerOptions(endpoint, "PUB", queue_bytes=3, send_timeout_s=0)
    with Server(options, 1) as server:
        client = clients.connect(zmq.SUB, endpoint)
        assert server.wait_for_peer(5)
        answers = [server.send([bytes([n]), bytes(1 << 20)]) for n in range(30)]
        assert not all(answers)
        expected = [bytes([n]) for n, sent in enumerate(answers) if sent]
        assert [client.recv_multipart()[0] for _ in expected] == expected


def test_reply_answers_next_and_refuses_the_rest(clients: Clients, endpoint: str) -> None:
    with Server(ServerOptions(endpoint, "REP"), 1) as server:
        client = clients.connect(zmq.REQ, endpoint)
        assert server.send([b"train"])
        client.send(b"give")
        while not client.poll(0):
            server.wait(0.001)
        assert client.recv_multipart() == [b"Error: bad request give"]
        client.send(b"next")
        assert server.drain()
        assert client.recv_multipart() == [b"train"]
    assert (server.bad_requests, server.sent, server.dropped) == (1, 1, 0)


def test_reply_holds_a_request_until_a_train_comes(clients: Clients, endpoint: str) -> None:
    with Server(ServerOptions(endpoint, "REP"), 1) as server:
        client = clients.connect(zmq.REQ, endpoint)
        client.send(b"next")
        assert server.wait_for_peer(5)
        assert not client.poll(0)
        assert server.send([b"train"])
        assert client.recv_multipart() == [b"train"]


def test_reply_drops_the_oldest_when_full(clients: Clients, endpoint: str) -> None:
    fates: dict[int, bool] = {}
    options = ServerOptions(endpoint, "REP", queue_bytes=2, send_timeout_s=0)
    with Server(options, 1, on_settled=fates.__setitem__) as server:
        assert all(server.send([bytes([ticket])], ticket) for ticket in range(5))
        assert fates == {0: False, 1: False, 2: False}
        client = clients.connect(zmq.REQ, endpoint)
        client.send(b"next")
        while not client.poll(0):
            server.wait(0.001)
        assert client.recv() == b"\x03"
    assert fates == {0: False, 1: False, 2: False, 3: True, 4: False}
    assert (server.sent, server.dropped) == (1, 4)


def test_a_huge_request_disconnects_its_sender_only(clients: Clients, endpoint: str) -> None:
    with Server(ServerOptions(endpoint, "REP"), 1) as server:
        stranger = clients.connect(zmq.REQ, endpoint)
        stranger.send(bytes(MAX_REQUEST_BYTES + 1))
        client = clients.connect(zmq.REQ, endpoint)
        client.send(b"next")
        assert server.wait_for_peer(5)
        assert server.send([b"train"])
        assert client.recv() == b"train"
    assert server.bad_requests == 0


@pytest.mark.parametrize("kind", ["REP", "PUB", "PUSH"])
def test_a_stop_ends_every_wait(endpoint: str, kind: str) -> None:
    stopped = threading.Event()
    options = ServerOptions(endpoint, kind, queue_bytes=1)  # type: ignore[arg-type]
    with Server(options, 1, stopped.is_set) as server:
        timer = threading.Timer(0.05, stopped.set)
        timer.start()
        while server.send([b"nobody"]):  # REP takes one into its queue, then waits for room
            pass
        started_s = time.monotonic()
        assert not server.wait_for_peer(None)
        server.wait(60)
        assert server.drain() is (kind != "REP")
        assert time.monotonic() - started_s < 5
        timer.join()


@pytest.mark.parametrize("kind", ["REP", "PUB", "PUSH"])
def test_nothing_is_left_after_close(endpoint: str, kind: str) -> None:
    before = count_threads_and_sockets()
    server = Server(ServerOptions(endpoint, kind, send_timeout_s=0), 1)  # type: ignore[arg-type]
    server.send([b"nobody"])
    server.close()
    server.close()
    assert server.sent + server.dropped == 1
    assert count_threads_and_sockets() == before


def test_due_times_do_not_drift() -> None:
    pacer = Pacer(10.0, start_s=100.0)
    now_s, due_s = 100.0, []
    for _ in range(1000):
        due_s.append(pacer.next_due_s(now_s))
        now_s = max(now_s, due_s[-1]) + 0.03  # late by a little, each time
    assert due_s == pytest.approx([100 + 0.1 * step for step in range(1000)])
    assert pacer.late == 0


def test_a_delay_is_not_caught_up() -> None:
    pacer = Pacer(10.0, start_s=0.0)
    assert [pacer.next_due_s(0.0), pacer.next_due_s(0.1)] == [0.0, 0.1]
    assert pacer.next_due_s(1.05) == pytest.approx(1.0)  # at once, on the grid
    assert pacer.next_due_s(1.06) == pytest.approx(1.1)  # and not one more at once
    assert pacer.late == 8  # 0.2 to 0.9


def test_rate_zero_is_always_due() -> None:
    pacer = Pacer(0.0, start_s=5.0)
    assert [pacer.next_due_s(now_s) for now_s in (5.0, 5.0, 90.0)] == [5.0, 5.0, 90.0]


@pytest.mark.parametrize("rate_hz", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate_hz: float) -> None:
    with pytest.raises(ConfigError, match="rate_hz"):
        Pacer(rate_hz, 0.0)


def test_messages_are_drawn_when_due(endpoint: str) -> None:
    now_s, drawn_s = [50.0], []

    def pass_time(duration_s: float) -> None:
        now_s[0] += duration_s

    def messages() -> Iterator[Outgoing]:
        for ticket in range(5):
            drawn_s.append(now_s[0])
            yield Outgoing([b"x"], ticket, stall_s=1.0 if ticket == 2 else 0.0)

    with Server(ServerOptions(endpoint, "PUSH", send_timeout_s=0), 1) as server:
        late = send_paced(server, messages(), 4.0, lambda: False, Clock(lambda: now_s[0], pass_time))
    assert drawn_s == pytest.approx([50.0, 50.25, 50.5, 51.5, 51.75])
    assert late == 3  # the silence of 1 s hid three due times
    assert server.dropped == 5
