"""The comparison with peers: what is ours of it and needs no peer installed."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq

from benchmarks.config import free_endpoint
from benchmarks.helper import BenchmarkError, wait_until
from benchmarks.peers.client import Client, closed_loop, open_loop
from benchmarks.peers.contender import Setting
from benchmarks.peers.dealer import Dealer
from benchmarks.peers.detector import Train
from benchmarks.peers.environments import without
from benchmarks.peers.http import parse
from benchmarks.peers.inputs import Expected, load, payloads, save, unpack, write_spectra
from benchmarks.peers.notebook import LAST, SEEN, Notebook
from benchmarks.peers.processes import Tree
from benchmarks.peers.rows import ROWS, Outcome, Row, Series
from benchmarks.peers.streamed import _loop, _outcome, _round
from benchmarks.sender import FIRST_TRAIN_ID, KEY, SOURCE
from streamer.wire.karabo_bridge import decode

NULL = {row.per_request: row for row in ROWS if row.network == "null" and not row.open}
PACKED = np.array([[0.1, 0.9, 1], [0.8, 0.2, 2], [0.4, 0.3, 0]], np.float32)


@pytest.fixture
def inputs(folder: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 500, (64, 128, 128), np.uint16)
    save(folder, "frames", frames)
    write_spectra(folder)
    return folder


# --- right and wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "change", "wrong"),
    [
        ([0, 1, 2], {}, 0),
        ([0, 1, 2], {(1, 0): 0.815}, 0),
        ([0, 1, 2], {(1, 0): 0.83}, 1),
        ([0, 1, 2], {(2, 2): 1.0}, 1),
        ([0, 1, 2], {(0, 1): np.nan, (1, 1): np.inf}, 2),
        ([1, 0, 2], {}, 2),
    ],
)
def test_an_answer_must_have_the_label_and_be_near(
    index: list[int], change: dict[tuple[int, int], float], wrong: int
) -> None:
    got = PACKED.copy()
    for where, value in change.items():
        got[where] = value
    assert Expected(PACKED, 0.02).wrong(index, got) == wrong


def test_an_answer_of_another_size_is_wrong_for_all_its_events() -> None:
    expected = Expected(PACKED, 0.02)
    assert expected.wrong([0, 1], unpack(b"", 2)) == 2
    assert expected.wrong([0, 1], unpack(PACKED[:2, :2].tobytes(), 2)) == 2
    assert expected.wrong([0, 1], unpack(PACKED[:2].tobytes() + b"x", 2)) == 2
    assert expected.wrong([0, 1], unpack(PACKED[:2].tobytes(), 2)) == 0


def test_every_event_carries_its_own_number(inputs: Path) -> None:
    for events in ("frames", "spectra"):
        values = load(inputs, events)
        expected = Expected.read(inputs, "null", events)
        assert values.reshape(len(values), -1)[:, 0].tolist() == expected.packed[:, 0].tolist()
    assert [len(payload) for payload in payloads(inputs, NULL[32])] == [32, 32]


# --- what comes over a connection -----------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("got", "body"),
    [
        (OK[:30], None),
        (OK + b"abc", None),
        (OK + b"abcde", b"abcde"),
        (OK.replace(b"Content-L", b"content-l") + b"abcde", b"abcde"),
        (OK.replace(b"200", b"503") + b"abcde", b""),
        (OK.replace(b"server: x", b"Inference-Header-Content-Length: 2") + b"{}cde", b"cde"),
    ],
)
def test_a_response_is_read_when_it_is_whole(got: bytes, body: bytes | None) -> None:
    assert parse(got) == body


def test_a_response_without_a_length_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="without a length"):
        parse(b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\nabc")


class Echo:
    """A transport that answers at once, but for the tags in `lost`."""

    def __init__(self, lost: tuple[int, ...] = ()) -> None:
        self._lost, self._ready, self.most = lost, list[tuple[int, bytes]](), 0

    def send(self, tag: int, index: int) -> None:
        if tag not in self._lost:
            self._ready.append((tag, bytes([index])))
        self.most = max(self.most, len(self._ready))

    def poll(self, wait_s: float) -> list[tuple[int, bytes]]:
        time.sleep(min(wait_s, 1e-3))
        found, self._ready = self._ready[:1], self._ready[1:]
        return found

    def close(self) -> None:
        return


def test_a_closed_loop_keeps_its_requests_under_way_and_waits_for_the_last() -> None:
    echo = Echo()
    log = closed_loop(echo, 3, 4, time.perf_counter() + 0.05)
    assert echo.most == 4
    assert log.in_flight == 0
    assert log.sent == len(log.answers) > 4
    assert [log.answers[tag][1] for tag in range(4)] == [b"\0", b"\1", b"\2", b"\0"]


def test_an_open_loop_counts_from_the_moment_a_request_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.client.LATE_S", 0.05)
    log, due_s = open_loop(Echo(lost=(3,)), 3, 200.0, 10)
    assert np.allclose(np.diff(due_s), 0.005)
    assert (log.sent, log.in_flight) == (10, 1)
    assert all(log.answers[tag][0] >= due_s[tag] for tag in log.answers)


# --- processes ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("leaks")
def test_a_tree_is_ended_with_all_it_started_and_counted_together() -> None:
    spin = "while :; do :; done"
    with Tree(["bash", "-c", f"({spin}) & setsid bash -c '{spin}' & wait"]) as tree:
        wait_until("three processes that work", lambda: len(tree.processes()) >= 3, 5.0)
        before_s = tree.cpu_s()
        wait_until("processor time", lambda: tree.cpu_s() > before_s + 0.02, 5.0)
        found = tree.processes()
    assert not [
        process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.usefixtures("leaks")
def test_a_tree_that_ends_before_it_is_ready_says_what_it_printed() -> None:
    with (
        Tree([sys.executable, "-c", "raise SystemExit('no such | model')"]) as tree,
        pytest.raises(BenchmarkError, match="ended with code 1: no such / model"),
    ):
        tree.wait(lambda: False, 10.0)


@contextmanager
def _bare(row: Row) -> Iterator[str]:
    endpoint = free_endpoint()
    argv = [sys.executable, "-m", "benchmarks.peers.servers.bare", row.network, row.events, "", endpoint]
    with Tree(argv):
        yield endpoint


def _first_answer(inputs: Path, row: Row, endpoint: str) -> None:
    with closing(Dealer(payloads(inputs, row), 1, endpoint)) as dealer:
        dealer.send(0, 0)
        wait_until("the first answer", lambda: bool(dealer.poll(0.1)), 30.0)


@pytest.mark.usefixtures("leaks")
@pytest.mark.parametrize("events", [1, 32, 256])
def test_the_bare_loop_answers_every_request_rightly(inputs: Path, events: int) -> None:
    row = NULL[events]
    with _bare(row) as endpoint:
        request = {"where": {"kind": "zmq", "endpoint": endpoint}, "row": asdict(row)}
        client = Client(str(inputs))
        _first_answer(inputs, row, endpoint)
        answer = client.answer(request | {"seconds": 0.2, "warm_s": 0.0})
        paced = asdict(replace(row, in_flight=0, rate_hz=100.0))
        clocked = client.answer(request | {"row": paced, "seconds": 0.1, "warm_s": 0.0})
        shifted = load(inputs, row.events) + np.uint16(1)
        np.save(inputs / f"{row.events}.npy", shifted)  # now no event holds the number it should have
        other = client.answer(request | {"seconds": 0.1, "warm_s": 0.0})
    assert answer["total"] > 0
    assert (answer["wrong"], answer["missing"]) == (0, 0)
    assert len(clocked["latencies_s"]) == 10
    assert min(clocked["latencies_s"]) > 0
    assert other["wrong"] == other["total"] > 0


@pytest.mark.usefixtures("leaks")
def test_the_loop_around_the_official_client_answers_every_train(inputs: Path) -> None:
    setting = Setting(inputs, None, 0.2, 0.0)
    with ExitStack() as stack:
        ends, tree = _loop(stack, setting, NULL[32])
        sent, heard = _round(NULL[32], ends, 0.1)
        outcome = _outcome(NULL[32], sent, heard, tree.cpu_s())
    assert sent["sent"] * 32 == outcome.events > 0
    assert (outcome.wrong, outcome.missing) == (0, 0)


def test_trains_of_the_detector_hold_the_payload_under_a_new_id(inputs: Path) -> None:
    payload, context = payloads(inputs, NULL[32])[1], zmq.Context()
    train = Train(payload)
    with context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        push.bind("inproc://trains")
        pull.connect("inproc://trains")
        train.send(push, FIRST_TRAIN_ID + 77_000)
        got = decode(pull.recv_multipart())
        Train(payload[:1]).send(push, FIRST_TRAIN_ID)
        shot = decode(pull.recv_multipart())
    assert got.train_id(SOURCE) == FIRST_TRAIN_ID + 77_000
    assert np.array_equal(got.sources[SOURCE].arrays[KEY], payload)
    assert list(shot.sources[SOURCE].arrays) == [KEY]
    assert np.array_equal(shot.sources[SOURCE].arrays[KEY], payload[0])


# --- notebook, environments, lines ----------------------------------------------------------------------


def test_a_notebook_keeps_what_came_and_leaves_out_what_did_not(folder: Path) -> None:
    source = Notebook(folder / "notebook", new=True)
    consumer = Notebook(folder / "notebook")
    assert source.begin(first=5, width=2) > 1000
    consumer.note(4, 0.5, np.ones((2, 1), np.float32))  # of the row before
    consumer.note(5, 1.5, np.array([[1], [2]], np.float32))
    consumer.note(7, 2.5, np.array([[3], [4]], np.float32))
    consumer.note(8, 3.5, np.ones((3, 1), np.float32))  # of another shape
    moments, answers = source.read(3)
    assert (int(source.head[LAST]), int(source.head[SEEN])) == (7, 2)
    assert moments.tolist() == [1.5, 0.0, 2.5]
    assert answers[[0, 2]].tolist() == [[1, 2], [3, 4]]


def test_a_peers_own_pin_wins_over_our_constraint() -> None:
    constraints = "# tested\ntorch==2.13.0\nnumpy==2.4.6\nnumpy-stl==3\n"
    kept = without("nvidia-pytriton==0.7.0\nNumPy==1.26.4\n", constraints)
    assert kept == "# tested\ntorch==2.13.0\nnumpy-stl==3\n"


def test_what_cannot_be_measured_is_a_line_with_the_reason() -> None:
    series = Series(NULL[1], "a peer")
    series.fail(BenchmarkError("not installed:\n  no index"))
    line = series.line(None)
    assert "not installed: no index" in line.note
    assert line.measured.n == 0


def test_wrong_and_missing_answers_stand_beside_the_rate() -> None:
    floor = Series(NULL[1], "alone", [Outcome(100, 1.0, 5.0, 0, 0), Outcome(50, 1.0, 5.0, 0, 0)])
    series = Series(NULL[1], "a peer", [Outcome(80, 1.0, 9.0, 3, 0), Outcome(40, 1.0, 9.0, 0, 2)])
    line = series.line(floor)
    assert line.measured.median == 60
    assert line.values["of_model_alone"] == pytest.approx(0.8)
    assert "3 WRONG" in line.note
    assert "2 MISSING" in line.note
    assert "every answer right" in floor.line(None).note
