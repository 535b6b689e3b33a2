"""The reading side, against a real publisher."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import zmq

import streamer.client
from streamer.client import Client
from streamer.errors import ConfigError
from streamer.publish import ResultsPublisher
from streamer.results import ResultHeader, encode

HEADER = ResultHeader(run=7, stream="droplets", received_at=1.7e9, labels={"p": ("a", "b")})
LOCAL = "tcp://127.0.0.1:*"
PATIENCE_S = 5.0  # only ever waited in full by a test that fails


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def columns(n=3, train=10):
    return {
        "train_id": np.full(n, train, np.uint64),
        "pulse_id": np.arange(n, dtype=np.uint64),
        "p": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
    }


@contextmanager
def joined(context):
    """A socket that plays the publisher, its endpoint, and a function that waits for subscriptions to it."""
    socket = context.socket(zmq.XPUB)
    socket.set(zmq.XPUB_VERBOSE, 1)
    socket.bind(LOCAL)

    def wait_for(topic):
        while socket.poll(PATIENCE_S * 1000):
            if socket.recv() == b"\x01" + topic:
                return
        raise AssertionError(f"no subscription to {topic!r}")

    try:
        yield socket, socket.getsockopt_string(zmq.LAST_ENDPOINT), wait_for
    finally:
        socket.close(0)


def numbered(sequence, publisher="A", stream="droplets", n=3, kind="results"):
    header = replace(HEADER, sequence=sequence, publisher=publisher, stream=stream)
    return encode(header, columns(n, train=sequence), kind)


def test_five_lines():
    """As the module's docstring says, with the default context and a real publisher."""
    stop = threading.Event()
    with (
        ResultsPublisher(LOCAL) as publisher,
        streamer.client.results(publisher.endpoint, "droplets") as client,
    ):

        def publish():
            while not stop.wait(0.002):
                publisher.send(HEADER, columns())

        thread = threading.Thread(target=publish)
        thread.start()
        seen = []
        for block in client:
            seen.append(block.p("b").tolist())
            if len(seen) == 3:
                break
        stop.set()
        thread.join()
    assert seen == [[1, 3, 5]] * 3
    assert client.missed_blocks == 0


def test_missed_blocks_are_counted_by_publisher_and_stream(context):
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, context=context) as client:
        wait_for(b"results.")
        for frames in (
            numbered(5),
            numbered(6),
            numbered(9),  # 2 missed
            numbered(40, "B"),  # a restarted sink
            numbered(41, "B"),
            numbered(0, "B", "other"),
            numbered(2, "B", "other"),  # 1 missed
        ):
            socket.send_multipart(frames)
        trains = [int(client.receive(PATIENCE_S).columns["train_id"][0]) for _ in range(7)]
    assert trains == [5, 6, 9, 40, 41, 0, 2]
    assert client.missed_blocks == 3


def test_invented_publishers_do_not_fill_the_memory(context, monkeypatch):
    monkeypatch.setattr(streamer.client, "MAX_PUBLISHERS", 3)
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, context=context) as client:
        wait_for(b"results.")
        for publisher in "ABACD":
            socket.send_multipart(numbered(1, publisher))
        socket.send_multipart(numbered(5, "A"))  # still known: C and D came, B was silent for longest
        socket.send_multipart(numbered(9, "B"))
        for _ in range(7):
            client.receive(PATIENCE_S)
        assert len(client._last) == 3
    assert client.missed_blocks == 3


def test_stream_whose_name_begins_alike_is_not_ours(context):
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, "drop", context=context) as client:
        wait_for(b"results.drop")
        socket.send_multipart(numbered(1, stream="droplets"))
        socket.send_multipart(numbered(2, stream="drop"))
        assert client.receive(PATIENCE_S).stream == "drop"
    assert client.missed_blocks == 0


def test_verdicts_and_several_endpoints(context):
    with (
        joined(context) as (one, end_1, wait_1),
        joined(context) as (two, end_2, wait_2),
        Client([end_1, end_2], kind="verdicts", context=context) as client,
    ):
        wait_1(b"verdicts.")
        wait_2(b"verdicts.")
        for socket, publisher in ((one, "A"), (two, "B")):
            socket.send_multipart(numbered(1, publisher))  # results: not subscribed
            socket.send_multipart(numbered(2, publisher, kind="verdicts"))
        blocks = [client.receive(PATIENCE_S) for _ in range(2)]
    assert {block.header.publisher for block in blocks} == {"A", "B"}
    assert {block.kind for block in blocks} == {"verdicts"}


def test_verdicts_function_subscribes_to_verdicts():
    with streamer.client.verdicts("tcp://127.0.0.1:9", "s") as client:
        assert (client.kind, client.stream) == ("verdicts", "s")


def test_broken_messages_are_counted_and_skipped(context):
    with (
        joined(context) as (socket, endpoint, wait_for),
        Client(endpoint, "droplets", context=context) as client,
    ):
        wait_for(b"results.droplets")
        socket.send_multipart([b"results.droplets", b"\xc1"])
        socket.send_multipart([b"results.droplets"])
        socket.send_multipart(numbered(1))
        assert len(client.receive(PATIENCE_S)) == 3
    assert client.bad_messages == 2


def test_silence_is_a_timeout_that_helps(context):
    with (
        joined(context) as (socket, endpoint, wait_for),
        Client(endpoint, "droplets", context=context) as client,
    ):
        wait_for(b"results.droplets")
        with pytest.raises(TimeoutError) as silence:
            client.receive(0.01)
        assert endpoint in str(silence.value)
        assert "'droplets'" in str(silence.value)
        assert "Is the pipeline running" in str(silence.value)
        socket.send_multipart([b"results.droplets", b"\xc1"])
        with pytest.raises(TimeoutError, match="1 messages could not be decoded"):
            client.receive(0.5)


def test_iteration_ends_with_a_timeout_too(context):
    quiet = Client("tcp://127.0.0.1:9", timeout_s=0.01, context=context)
    with quiet as client, pytest.raises(TimeoutError, match="any stream"):
        next(iter(client))


def test_foreign_blocks_do_not_prolong_the_wait(context):
    stop = threading.Event()
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, "drop", context=context) as client:
        wait_for(b"results.drop")

        def flood():
            while not stop.is_set():
                socket.send_multipart(numbered(1))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            with pytest.raises(TimeoutError):
                client.receive(0.05)
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1", "quic://127.0.0.1:1"])
def test_bad_endpoint(context, endpoint):
    with pytest.raises(ConfigError, match="expected tcp://HOST:PORT"):
        Client(endpoint, context=context)


def test_bad_kind(context):
    with pytest.raises(ConfigError, match="kind 'frames'"):
        Client("tcp://127.0.0.1:9", kind="frames", context=context)


def test_to_arrays_collects_exactly_so_many_events(context):
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, context=context) as client:
        wait_for(b"results.")
        for sequence, n in enumerate((3, 0, 4, 2)):
            socket.send_multipart(numbered(sequence, n=n))
        arrays = client.to_arrays(8, PATIENCE_S)
    assert arrays["train_id"].tolist() == [0] * 3 + [2] * 4 + [3]
    assert arrays["p"].shape == (8, 2)
    assert list(arrays) == ["train_id", "pulse_id", "p"]


def test_what_waited_can_be_skipped(context):
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, context=context) as client:
        wait_for(b"results.")
        assert client.skip_waiting() == 0
        for sequence in range(6):
            socket.send_multipart(numbered(sequence))
        assert client.receive(PATIENCE_S).header.sequence == 0
        skipped = 0
        while skipped < 5:
            skipped += client.skip_waiting()
        socket.send_multipart(numbered(6))
        assert client.receive(PATIENCE_S).header.sequence == 6
    assert client.missed_blocks == 0


def test_to_arrays_of_nothing(context):
    with Client("tcp://127.0.0.1:9", context=context) as client:
        assert client.to_arrays(0) == {}


def test_to_arrays_refuses_columns_that_change(context):
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, context=context) as client:
        wait_for(b"results.")
        socket.send_multipart(numbered(0))
        socket.send_multipart(encode(HEADER, columns() | {"mu": np.zeros(3, np.float32)}))
        with pytest.raises(ValueError, match="columns changed"):
            client.to_arrays(6, PATIENCE_S)


def test_tables_collect_as_arrays_do(context):
    with joined(context) as (socket, endpoint, wait_for), Client(endpoint, context=context) as client:
        wait_for(b"results.")
        for sequence in range(4):
            socket.send_multipart(numbered(sequence))
        frame = client.to_dataframe(4, PATIENCE_S)
        data = client.to_dataset(5, PATIENCE_S)
    assert frame.index.tolist() == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert frame["p.b"].tolist() == [1, 3, 5, 1]
    assert data.train_id.values.tolist() == [2, 2, 2, 3, 3]
    assert data.p.sel(p_label="a").values.tolist() == [0, 2, 4, 0, 2]
