"""The live view: what is counted, what is shown, and that it ends."""

import io
import re
import threading

import numpy as np
import pytest
from rich.console import Console

from streamer.publish import ResultsPublisher
from streamer.results import Block, ResultHeader, decode, encode
from streamer.routing import REASONS
from streamer.watch import Screen, lines, render, watch
from streamer.watch_state import MAX_PUBLISHERS, MAX_STREAMS, WatchState

LOCAL = "tcp://127.0.0.1:*"
NOW_S = 1_700_000_000.0
LABELS = {"p": ("Streak", "Empty", "Core")}


def block(n=8, stream="droplets", sequence=0, publisher="A", labels=LABELS, **extra) -> Block:
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
        labels=labels,
        publisher=publisher,
        sequence=sequence,
    )
    return decode(encode(header, {key: v for key, v in (columns | extra).items() if v is not None}))


def shown(state, width=200, height=50, heading=()):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(state, (width, height), heading))
    return console.file.getvalue()


def test_counts_and_shares():
    state = WatchState()
    state.update(block(), NOW_S)
    stream = state.streams["droplets"]
    assert stream.events == 8
    assert stream.outcomes() == {"kept": 4, "vetoed": 2, "failopen": 2, "untold": 0}
    assert stream.failopens() == {"timeout": 2}
    assert stream.routes == {"streaks": 2, "rest": 2}
    assert stream.reasons[REASONS[3]] == 2
    assert stream.latency_s == pytest.approx(0.020, abs=1e-6)


@pytest.mark.parametrize("period_s", [1.0, 0.1])
def test_the_rate_does_not_jump_with_the_rhythm_of_the_trains(period_s):
    state, rates = WatchState(), []
    for train in range(int(20 / period_s)):
        now_s = NOW_S + 0.03 + train * period_s
        state.update(block(100, sequence=train), now_s)
        rates.append(state.events_per_s("droplets"))
    settled = rates[int(6 / period_s) :]
    assert settled == pytest.approx([100 / period_s] * len(settled), rel=0.01)
    state.tick(NOW_S + 60)
    assert state.events_per_s("droplets") == 0
    assert state.streams["droplets"].events == 100 * len(rates)


def test_the_first_half_second_has_a_rate_too():
    state = WatchState()
    state.update(block(8), NOW_S)
    assert state.events_per_s("droplets") == 16


def test_classes_are_of_the_last_seconds():
    state = WatchState()
    state.update(block(8), NOW_S)
    p = np.array([[0.1, 0.9, np.nan]] * 8, np.float32)
    state.update(block(8, sequence=1, p=p), NOW_S + 10)
    streak, empty, core = (
        next(c for c in state.streams["droplets"].class_shares(NOW_S + 10.6) if c.name == name)
        for name in ("Streak", "Empty", "Core")
    )
    assert (streak.share, empty.share, core.share) == (0, 1, 0)
    assert streak.mean_p == pytest.approx(0.1)
    assert core.mean_p == 0, "an event without an answer has NaN"


def test_another_model_begins_the_classes_anew():
    state = WatchState()
    state.update(block(8), NOW_S)
    other = block(8, sequence=1, p=np.full((8, 2), 0.7, np.float32), labels={"p": ("a", "b")})
    state.update(other, NOW_S + 0.1)
    state.update(block(8, sequence=2, p=None, labels={}), NOW_S + 1)
    assert [c.name for c in state.streams["droplets"].class_shares(NOW_S + 2)] == ["a", "b"]
    assert state.streams["droplets"].events == 24


def test_missed_blocks():
    state = WatchState()
    for sequence, publisher in ((3, "A"), (0, "B"), (4, "A"), (7, "A"), (2, "B")):
        state.update(block(sequence=sequence, publisher=publisher), NOW_S)
    assert state.streams["droplets"].missed_blocks == 3


def test_the_page_shows_what_matters():
    state = WatchState()
    state.tick(NOW_S)
    assert "waiting for results" in shown(state)
    state.update(block(), NOW_S)
    text = shown(state)
    for part in (
        *("droplets   16 events/s   8 events   latency 20 ms   no block missed", "# kept 50.0 %"),
        *(
            "! kept unclassified 25.0 %",
            "streaks 2",
            "100.0 %   0.90",
            "KEPT UNCLASSIFIED (failopen)",
        ),
        *("timeout 2", "Streak 0.90, Core 0.75", "+0.00 +1.00 +2.00", "failopen:timeout", "veto"),
    ):
        assert part in text
    assert "MISSED" not in text


def test_the_page_says_what_went_wrong():
    state = WatchState()
    for sequence in (0, 3):
        state.update(block(sequence=sequence), NOW_S)
    state.bad_messages = 1
    state.tick(NOW_S + 7)
    text = shown(state)
    for part in ("MISSED 2 blocks", "NOTHING for 7 s", "1 message NOT DECODED", "0 events/s"):
        assert part in text
    assert "kept 50.0 %" in text, "of all events, when nothing came lately"


@pytest.mark.parametrize("streams", [1, 2, 5, 12, MAX_STREAMS])
@pytest.mark.parametrize("size", [(80, 24), (60, 10), (200, 60), (20, 3)])
def test_the_page_fits_the_terminal(streams, size):
    state = WatchState()
    for index in range(streams):
        state.update(block(40, stream=f"stream_{index}"), NOW_S)
        state.update(block(40, stream=f"stream_{index}", sequence=9), NOW_S)
    text = shown(state, *size, heading=["watching tcp://127.0.0.1:45450"])
    assert all(len(line) <= size[0] for line in text.splitlines())
    assert len(text.splitlines()) <= max(size[1] - 1, streams + 1)
    assert "stream_0" in text
    if size[1] >= 24 and streams <= 2:
        assert "Streak 0.90" in text


def test_the_newest_event_stands_first():
    state = WatchState()
    state.update(block(8), NOW_S)
    pulses = re.findall(r"\b10 +(\d) ", shown(state, 80, 24))
    assert pulses == list("76543210")


def test_lines_show_the_same():
    state = WatchState()
    assert lines(state) == ["waiting for results ..."]
    state.update(block(), NOW_S)
    state.update(block(sequence=4), NOW_S)
    (line,) = lines(state)
    for part in (
        *(
            "droplets: 16 events",
            "kept 50.0 %",
            "kept unclassified 25.0 %",
            "streaks=4",
            "20 ms",
            "MISSED 3 blocks",
        ),
        "10 7 failopen:timeout Streak 0.90",
    ):
        assert part in line


def test_block_without_our_columns_is_shown_too():
    state = WatchState()
    bare = block(reason=None, route=None, received_at=None, p=None, mu=None)
    state.update(bare, NOW_S)
    assert state.streams["droplets"].latency_s is None
    assert "10 7 ?" in lines(state)[0]
    assert "? untold 100.0 %" in shown(state)
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


def test_invented_names_are_bounded():
    state = WatchState()
    for index in range(MAX_STREAMS + 5):
        state.update(block(stream=f"s{index}"), NOW_S)
    for index in range(MAX_PUBLISHERS + 5):
        state.update(block(1, stream="s0", publisher=f"p{index}"), NOW_S)
    assert len(state.streams) == MAX_STREAMS
    assert len(state._sequences) == MAX_PUBLISHERS
    assert len(shown(state, 80, 24).splitlines()) <= MAX_STREAMS


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
        state = watch(publisher.endpoint, 30.0, stop, "droplets", Screen(console, "a note"))
        quit_publishing.set()
        thread.join()
    assert 0 < state.streams["droplets"].events <= publisher.sent_blocks * 8
    assert "droplets" in console.file.getvalue()
    assert "streaks" in console.file.getvalue()
    assert ("a note" in console.file.getvalue()) == terminal


def test_watch_ends_after_its_duration_without_data():
    console = Console(file=io.StringIO(), force_terminal=False)
    assert watch("tcp://127.0.0.1:9", 0.05, screen=Screen(console)).streams == {}
    assert console.file.getvalue() == "waiting for results ...\n"


def test_watch_of_nothing():
    console = Console(file=io.StringIO())
    watch("tcp://127.0.0.1:9", 0.0, screen=Screen(console))
    assert "waiting" in console.file.getvalue()
