"""Counts by second: exact, in their second, and no older than ten minutes."""

import numpy as np

from streamer.dashboard.history import KEPT_S, History
from streamer.errors import FAILOPEN_REASONS
from streamer.routing import REASON_ROUTE, REASON_SAMPLE, REASON_VETO, failopen_code

START_S = 1_800_000_000


def events(reasons: list[int], routes: list[int], p: float = 0.5) -> dict[str, np.ndarray]:
    n = len(reasons)
    return {
        "reason": np.array(reasons, np.uint8),
        "route": np.array(routes, np.int16),
        "p": np.tile(np.array([p, 1 - p], np.float32), (n, 1)),
    }


def made() -> History:
    return History(("a", "b"), ("Streak", "Ring"))


def test_each_event_is_counted_once_in_its_second() -> None:
    history = made()
    timeout = failopen_code("timeout")
    reasons = [REASON_ROUTE, REASON_ROUTE, REASON_SAMPLE, REASON_VETO, timeout]
    history.add(events(reasons, [0, 1, 1, -1, -1]), START_S + 0.5)
    history.add(events([REASON_VETO], [-1]), START_S + 2.5)
    history.tick(START_S + 4)
    seconds = history.seconds()
    assert seconds.t_s.tolist() == [START_S, START_S + 1, START_S + 2, START_S + 3]
    assert seconds.received.tolist() == [5, 0, 1, 0]
    assert {name: counts.tolist() for name, counts in seconds.kept.items()} == {
        "a": [1, 0, 0, 0],
        "b": [2, 0, 0, 0],
    }
    assert seconds.vetoed.tolist() == [1, 0, 1, 0]
    assert {name: counts.sum() for name, counts in seconds.failopen.items()} == {
        reason: int(reason == "timeout") for reason in FAILOPEN_REASONS
    }


def test_the_second_that_has_begun_is_not_shown() -> None:
    history = made()
    history.add(events([REASON_VETO], [-1]), START_S + 0.9)
    assert len(history.seconds().t_s) == 0


def test_mean_probabilities_leave_out_what_has_no_answer() -> None:
    history = made()
    history.add(events([REASON_VETO] * 3, [-1] * 3, p=0.25), START_S)
    lost = events([failopen_code("timeout")], [-1])
    lost["p"][:] = np.nan
    history.add(lost, START_S)
    history.tick(START_S + 2)
    mean = history.seconds().mean_p
    assert mean[0].tolist() == [0.25, 0.75]
    assert np.isnan(mean[1]).all()


def test_what_is_older_than_ten_minutes_is_gone() -> None:
    history = made()
    for second in range(0, 2 * KEPT_S, 7):
        history.add(events([REASON_VETO] * 2, [-1] * 2), START_S + second)
    history.tick(START_S + 2 * KEPT_S)
    seconds = history.seconds()
    assert len(seconds.t_s) < KEPT_S
    assert np.diff(seconds.t_s).tolist() == [1] * (len(seconds.t_s) - 1)
    assert seconds.received.tolist() == [2 * ((t - START_S) % 7 == 0) for t in seconds.t_s.tolist()]


def test_a_pause_longer_than_it_holds_leaves_zeros() -> None:
    history = made()
    history.add(events([REASON_VETO], [-1]), START_S)
    history.tick(START_S + 10 * KEPT_S)
    seconds = history.seconds()
    assert len(seconds.t_s) == KEPT_S - 1
    assert not seconds.received.any()


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    history = made()
    history.add(events([REASON_VETO], [-1]), START_S + 5)
    history.add(events([REASON_VETO], [-1]), START_S)
    history.tick(START_S + 6)
    assert history.seconds().received.tolist() == [2]


def test_a_stream_without_classes_has_no_probabilities() -> None:
    history = History(("a",), ())
    table = events([REASON_VETO], [-1])
    del table["p"]
    history.add(table, START_S)
    history.tick(START_S + 1)
    assert history.seconds().mean_p.shape == (1, 0)
