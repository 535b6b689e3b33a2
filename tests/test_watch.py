"""The live view: what is counted, what is shown, and that it ends."""

import io
import threading

import numpy as np
import pytest
from rich.console import Console

from streamer.publish import ResultsPublisher
from streamer.results import Block, ResultHeader, decode, encode
from streamer.routing import REASONS
from streamer.watch import MAX_STREAMS, WatchState, lines, render, watch

LOCAL = "tcp://127.0.0.1:*"
NOW_S = 1_700_000_000.0


def block(n=8, stream="droplets", sequence=0, publisher="A", **extra) -> Block:
    reason = np.arange(n) % 4  # a quarter each: veto, route, sample, fail-open
    columns = {
        "train_id": np.full(n, 10, np.uint64),
        "pulse_id": np.arange(n, dtype=np.uint64),
        "reason": reason.astype(np.uint8),
        "route": np.choose(reason, [-1, 0, 1, -1]).astype(np.int16),
        "received_at": np.full(n, NOW_S - 0.020),
        "p": np.tile(np.array([0.9, 0.2, 0.75], np.float32), (n, 1)),
        "mu": np.tile(np.arange(6, dtype=np.float32), (n, 1)),
    }
    header = ResultHeader(
        run=1,
        stream=stream,
        received_at=NOW_S,
        routes=("streaks", "rest"),
        labels={"p": ("Streak", "Empty", "Core")},
        publisher=publisher,
        sequence=sequence,
    )
    return decode(encode(header, {key: v for key, v in (columns | extra).items() if v is not None}))


def shown(state, width=200):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(state))
    return console.file.getvalue()


def test_counts_and_shares():
    state = WatchState()
    state.update(block(), NOW_S)
    stream = state.streams["droplets"]
    assert stream.events == 8
    assert [stream.share(kind) for kind in ("kept", "vetoed", "failopen")] == [0.5, 0.25, 0.25]
    assert stream.routes == {"streaks": 2, "rest": 2}
    assert stream.reasons[REASONS[3]] == 2
    assert stream.latency_s == pytest.approx(0.020, abs=1e-6)


def test_rate_is_of_the_window():
    state = WatchState()
    for second in range(20):
        state.update(block(100, sequence=second), NOW_S + second)
    assert state.events_per_s("droplets") == pytest.approx(120, rel=0.01)  # 6 arrivals in 5 s, both ends in
    state.tick(NOW_S + 60)
    assert state.events_per_s("droplets") == 0
    assert state.streams["droplets"].events == 2000


def test_missed_blocks():
    state = WatchState()
    for sequence, publisher in ((3, "A"), (4, "A"), (7, "A"), (0, "B"), (2, "B")):
        state.update(block(sequence=sequence, publisher=publisher), NOW_S)
    assert state.streams["droplets"].missed_blocks == 3


def test_table_shows_what_matters():
    state = WatchState()
    assert "waiting for results" in shown(state)
    state.update(block(), NOW_S)
    text = shown(state)
    for part in (
        "droplets",
        "50.0%",
        "25.0%",
        "streaks=2",
        "20.0 ms",
        "Streak 0.90, Core 0.75",
        "+0.00 +1.00 +2.00",
    ):
        assert part in text
    assert "Empty" not in text
    assert "failopen:timeout" in text
    assert "veto" in text


def test_lines_show_the_same():
    state = WatchState()
    assert lines(state) == ["waiting for results ..."]
    state.update(block(), NOW_S)
    state.update(block(sequence=4), NOW_S)
    (line,) = lines(state)
    for part in (
        "droplets: 16 events",
        "kept 50.0%",
        "failopen 25.0%",
        "streaks=4",
        "20.0 ms",
        "missed 3 blocks",
    ):
        assert part in line
    assert "10 7 failopen:timeout Streak 0.90" in line


def test_block_without_our_columns_is_shown_too():
    state = WatchState()
    bare = block(reason=None, route=None, received_at=None, p=None, mu=None)
    state.update(bare, NOW_S)
    assert state.streams["droplets"].latency_s is None
    assert "10 7 ?" in lines(state)[0]
    assert "droplets" in shown(state)


def test_odd_columns_do_not_break_the_view():
    odd = block(
        reason=np.full(8, 200, np.uint8),
        route=np.full(8, 99, np.int16),
        received_at=np.full(8, np.nan),
        p=np.ones((8, 3), np.bool_),
        mu=np.ones((8, 2, 2), np.bool_),
    )
    state = WatchState()
    state.update(odd, NOW_S)
    state.update(block(0), NOW_S)
    state.update(block(route=np.zeros((8, 2), np.float32), reason=np.zeros((8, 2), np.float32)), NOW_S)
    assert state.streams["droplets"].routes["route 99"] == 8
    assert "droplets" in shown(state)
    assert lines(state)


def test_text_from_the_network_does_not_command_the_terminal():
    state = WatchState()
    state.update(block(stream="\x1b[2J[red]x"), NOW_S)
    for text in (shown(state), lines(state)[0]):
        assert "\x1b" not in text
        assert "?[2J[red]x" in text


def test_invented_streams_are_bounded():
    state = WatchState()
    for index in range(MAX_STREAMS + 5):
        state.update(block(stream=f"s{index}"), NOW_S)
    assert len(state.streams) == MAX_STREAMS


@pytest.mark.parametrize("terminal", [False, True])
def test_watch_shows_a_real_publisher_until_stopped(terminal):
    stop, quit_publishing = threading.Event(), threading.Event()
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160, color_system=None)
    header, columns = block().header, block().columns
    with ResultsPublisher(LOCAL) as publisher:

        def publish():
            while not quit_publishing.wait(0.005):
                publisher.send(header, columns)
                if publisher.sent_blocks == 60:
                    stop.set()

        thread = threading.Thread(target=publish)
        thread.start()
        state = watch(publisher.endpoint, 30.0, stop, "droplets", console)
        quit_publishing.set()
        thread.join()
    assert 0 < state.streams["droplets"].events <= publisher.sent_blocks * 8
    assert "droplets" in console.file.getvalue()
    assert "streaks" in console.file.getvalue()


def test_watch_ends_after_its_duration_without_data():
    console = Console(file=io.StringIO(), force_terminal=False)
    assert watch("tcp://127.0.0.1:9", 0.05, console=console).streams == {}
    assert console.file.getvalue() == "waiting for results ...\n"


def test_watch_of_nothing():
    console = Console(file=io.StringIO())
    watch("tcp://127.0.0.1:9", 0.0, console=console)
    assert "waiting" in console.file.getvalue()
