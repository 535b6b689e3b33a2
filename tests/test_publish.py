"""The two publishers against real sockets and the field's own client."""

import re
from concurrent.futures import ThreadPoolExecutor

import karabo_bridge
import numpy as np
import pytest
import zmq

from streamer.errors import ConfigError
from streamer.publish import KaraboBridgeResults, ResultsPublisher
from streamer.results import ResultHeader, decode
from streamer.wire.karabo_bridge import decode as decode_bridge

HEADER = ResultHeader(run=7, stream="droplets", received_at=1_700_000_000.25, labels={"p": ("a", "b")})
SOURCE = "droplets/STREAMER/RESULTS:output"
LOCAL = "tcp://127.0.0.1:*"
PATIENCE_MS = 5000  # only ever waited in full by a test that fails


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def columns(train_ids=(10, 10, 11), width=2):
    n = len(train_ids)
    return {
        "train_id": np.array(train_ids, np.uint64),
        "pulse_id": np.arange(n, dtype=np.uint64),
        "verdict": np.ones(n, np.uint8),
        "p": np.arange(width * n, dtype=np.float32).reshape(n, width),
    }


@pytest.fixture
def connect(context):
    """Sockets of readers, closed at the end: connect(kind, endpoint), with a prefix for SUB."""
    opened = []

    def connect(kind, endpoint, prefix=b"", hwm=1000):
        socket = context.socket(kind)
        opened.append(socket)
        socket.set(zmq.RCVHWM, hwm)
        if kind == zmq.SUB:
            socket.set(zmq.SUBSCRIBE, prefix)
        socket.connect(endpoint)
        return socket

    yield connect
    for socket in opened:
        socket.close(0)


def send_until_it_arrives(publish, socket):
    """A subscription takes its time to reach a PUB socket; whatever is sent before is lost."""
    for _ in range(PATIENCE_MS // 10):
        publish()
        if socket.poll(10):
            return
    raise AssertionError("nothing arrived")


# Our own stream


def test_subscriber_gets_blocks_by_topic_numbered_from_zero(context, connect):
    with ResultsPublisher(LOCAL, 100, context) as publisher:
        results = connect(zmq.SUB, publisher.endpoint, b"results.")
        verdicts = connect(zmq.SUB, publisher.endpoint, b"verdicts.droplets")
        send_until_it_arrives(lambda: publisher.send(HEADER, columns(), "verdicts"), verdicts)
        verdict_blocks = publisher.sent_blocks
        send_until_it_arrives(lambda: publisher.send(HEADER, columns()), results)
        publisher.send(HEADER, columns())
        assert decode(verdicts.recv_multipart()).kind == "verdicts"
        last = publisher.sent_blocks - verdict_blocks - 1  # verdicts have numbers of their own
        blocks = [decode(results.recv_multipart())]
        while blocks[-1].header.sequence < last:
            assert results.poll(PATIENCE_MS)
            blocks.append(decode(results.recv_multipart()))
    assert {(block.kind, block.stream, block.header.publisher) for block in blocks} == {
        ("results", "droplets", publisher.publisher)
    }
    assert [block.header.sequence for block in blocks] == list(range(last + 1 - len(blocks), last + 1))
    np.testing.assert_array_equal(blocks[0].column("p"), columns()["p"])


def test_subscriber_that_never_reads_holds_nobody_up(context, connect):
    """50 MB to a socket that takes 2 blocks of 100 kB, and what the kernel takes: the rest is dropped."""
    with ResultsPublisher(LOCAL, 2, context) as publisher:
        slow = connect(zmq.SUB, publisher.endpoint, hwm=1)
        send_until_it_arrives(lambda: publisher.send(HEADER, columns()), slow)
        before = publisher.sent_blocks
        block = columns([1] * 100, width=250)
        for _ in range(500):
            publisher.send(HEADER, block)
        assert publisher.sent_blocks == before + 500
        got = 0
        while slow.poll(200):
            slow.recv_multipart()
            got += 1
        assert 0 < got < before + 500


def test_blocks_are_copied_when_sent(context, connect):
    with ResultsPublisher(LOCAL, 100, context) as publisher:
        reader = connect(zmq.SUB, publisher.endpoint)
        send_until_it_arrives(lambda: publisher.send(HEADER, columns()), reader)
        while reader.poll(50):
            reader.recv_multipart()
        data = columns()
        publisher.send(HEADER, data)
        data["p"][:] = -1
        assert reader.poll(PATIENCE_MS)
        np.testing.assert_array_equal(decode(reader.recv_multipart()).column("p"), columns()["p"])


@pytest.mark.parametrize("make", [ResultsPublisher, KaraboBridgeResults])
@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:99999", "tcp://999.0.0.1:1", "nonsense", "quic://127.0.0.1:1"]
)
def test_bad_endpoint_refuses_to_start(context, make, endpoint):
    with pytest.raises(ConfigError, match=re.escape(endpoint)):
        make(endpoint, context=context)


@pytest.mark.parametrize("make", [ResultsPublisher, KaraboBridgeResults])
def test_taken_port_refuses_to_start(context, make):
    with ResultsPublisher(LOCAL, context=context) as first, pytest.raises(ConfigError) as refused:
        make(first.endpoint, context=context)
    assert first.endpoint in str(refused.value)
    assert "choose another endpoint" in str(refused.value)


def test_unbounded_queue_is_refused(context):
    with pytest.raises(ConfigError, match="must be bounded"):
        ResultsPublisher(LOCAL, 0, context)


# Karabo Bridge


def next_train(server, sock, publish=lambda: None):
    """What the field's own client gets, while this thread is the server's owner and loop."""
    its_context = zmq.Context()  # it destroys its context on leaving
    client = karabo_bridge.Client(server.endpoint, sock=sock, timeout=PATIENCE_MS / 1000, context=its_context)
    with client, ThreadPoolExecutor(1) as threads:
        reply = threads.submit(client.next)
        while not reply.done():
            publish()
            server.socket.poll(10)
            server.serve_requests()
        return reply.result()


@pytest.mark.parametrize(("ours", "theirs"), [("REP", "REQ"), ("PUB", "SUB"), ("PUSH", "PULL")])
def test_official_client_reads_the_results(context, ours, theirs):
    with KaraboBridgeResults(LOCAL, ours, context=context) as server:
        data, metadata = next_train(server, theirs, lambda: server.publish(HEADER, columns()))
        assert server.sent_trains > 0
    assert set(data) == {SOURCE}
    tid = metadata[SOURCE]["timestamp.tid"]
    assert tid in (10, 11)
    chosen = columns()["train_id"] == tid
    for name, column in columns().items():
        np.testing.assert_array_equal(data[SOURCE][f"data.{name}"], column[chosen])
    assert metadata[SOURCE] == {
        "source": SOURCE,
        "timestamp": 1_700_000_000.25,
        "timestamp.sec": "1700000000",
        "timestamp.frac": "250000000000000000",
        "timestamp.tid": tid,
    }


def test_block_of_several_trains_is_one_message_each_oldest_dropped(context):
    with KaraboBridgeResults(LOCAL, "REP", 2, context) as server:
        server.publish(HEADER, columns([1, 1, 2, 3]))
        assert server.dropped_trains == 1
        tids = [next_train(server, "REQ")[1][SOURCE]["timestamp.tid"] for _ in range(2)]
    assert tids == [2, 3]
    assert server.sent_trains == 2


def test_time_of_the_first_event_of_each_train(context):
    received_at = np.array([5.5, 6.25, np.nan])
    with KaraboBridgeResults(LOCAL, context=context) as server:
        server.publish(HEADER, columns([1, 2, 3]) | {"received_at": received_at})
        replies = [next_train(server, "REQ")[1][SOURCE] for _ in range(3)]
    assert [reply["timestamp.sec"] for reply in replies] == ["5", "6", "0"]
    assert replies[1]["timestamp.frac"] == "250000000000000000"


def test_request_before_the_data_is_answered_when_they_come(context, connect):
    with KaraboBridgeResults(LOCAL, context=context) as server:
        reader = connect(zmq.REQ, server.endpoint)
        reader.send(b"next")
        assert server.socket.poll(PATIENCE_MS)
        server.serve_requests()
        assert not reader.poll(0)
        server.publish(HEADER, columns([8]))
        assert reader.poll(PATIENCE_MS)
        assert decode_bridge(reader.recv_multipart()).train_id(SOURCE) == 8


def test_queued_trains_are_copies(context):
    with KaraboBridgeResults(LOCAL, context=context) as server:
        data = columns([8])
        server.publish(HEADER, data)
        data["p"][:] = -1
        reply, _ = next_train(server, "REQ")
    np.testing.assert_array_equal(reply[SOURCE]["data.p"], [[0, 1]])


def test_bad_request_gets_an_error_and_costs_no_train(context, connect):
    with KaraboBridgeResults(LOCAL, context=context) as server:
        server.publish(HEADER, columns([8]))
        reader = connect(zmq.REQ, server.endpoint)
        reader.send(b"give me all")
        assert server.socket.poll(PATIENCE_MS)
        server.serve_requests()
        assert reader.poll(PATIENCE_MS)
        assert reader.recv() == b"Error: bad request give me all"
        assert next_train(server, "REQ")[1][SOURCE]["timestamp.tid"] == 8


def test_two_readers_share_the_trains(context, connect):
    with KaraboBridgeResults(LOCAL, context=context) as server:
        readers = [connect(zmq.REQ, server.endpoint) for _ in range(2)]
        for reader in readers:
            reader.send(b"next")
        server.publish(HEADER, columns([1, 2]))
        while server.sent_trains < 2 and server.socket.poll(PATIENCE_MS):
            server.serve_requests()
        tids = {decode_bridge(reader.recv_multipart()).train_id(SOURCE) for reader in readers}
    assert tids == {1, 2}


def test_push_without_a_reader_drops_and_counts(context):
    with KaraboBridgeResults(LOCAL, "PUSH", 3, context) as server:
        server.publish(HEADER, columns([1, 2]))
        assert (server.sent_trains, server.dropped_trains) == (0, 2)


def test_push_to_a_reader_that_never_reads_drops_and_counts(context, connect):
    with KaraboBridgeResults(LOCAL, "PUSH", 1, context) as server:
        slow = connect(zmq.PULL, server.endpoint, hwm=1)
        send_until_it_arrives(lambda: server.publish(HEADER, columns([1])), slow)
        block = columns([1] * 100, width=2500)
        for _ in range(100):  # 100 MB
            server.publish(HEADER, block)
        assert server.dropped_trains > 0
        server.serve_requests()
        assert not server.socket.closed
