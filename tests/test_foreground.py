"""When a run ends by itself, and signals that only record."""

import signal
import time
from types import SimpleNamespace

import pytest

from streamer.foreground import Interrupts, Limits


def running(age_s: float, events: int) -> SimpleNamespace:
    """What Limits looks at: when it started and how much came."""
    return SimpleNamespace(started_s=time.monotonic() - age_s, received=lambda: events)


@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        (Limits(), False),
        (Limits(duration_s=5), True),
        (Limits(duration_s=3600), False),
        (Limits(events=100), True),
        (Limits(events=101), False),
        (Limits(duration_s=3600, events=50), True),
        (Limits(duration_s=0.0), True),
    ],
)
def test_limits(limits: Limits, reached: bool) -> None:
    assert limits.reached(running(10, 100)) is reached


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_counted_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts
        signal.raise_signal(number)  # to this thread, and at once: os.kill may come later, by another one
        signal.raise_signal(number)
        assert interrupts
        assert interrupts.count == 2
    assert signal.getsignal(number) is before
