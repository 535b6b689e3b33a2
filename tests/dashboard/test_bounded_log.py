"""What visitors make the web server say does not fill the log."""

import logging

import pytest

from streamer.dashboard.bounded_log import EVERY_S, MAX_CHARS, Bounded


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_one_place_is_heard_seldom_and_shortly(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = logging.getLogger("visited")
    bounded = Bounded(clock)
    log.addFilter(bounded)

    def say(text: str) -> None:
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("failed: %s", text)

    for _ in range(100):
        say("x" * 1_000_000)
    assert len(caplog.records) == 1
    assert len(caplog.records[0].getMessage()) <= MAX_CHARS
    log.warning("from another place")
    assert len(caplog.records) == 2
    clock.now_s += EVERY_S
    say("again")
    assert caplog.records[-1].getMessage().endswith("(99 more like it)")
    assert caplog.records[-1].exc_info is None
    log.removeFilter(bounded)


def test_what_we_tell_is_not_touched(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("told")
    log.setLevel(logging.INFO)
    bounded = Bounded(Clock())
    log.addFilter(bounded)
    for _ in range(5):
        log.info("the page is at %s", "y" * 1000)
    assert len(caplog.records) == 5
    log.removeFilter(bounded)
