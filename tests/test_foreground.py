"""When a run ends by itself, and signals that only record."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from streamer.foreground import Limits


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


SIGNALLED = """
import signal, sys
from streamer.foreground import Interrupts
number = signal.Signals(int(sys.argv[1]))
before = signal.getsignal(number)
with Interrupts() as interrupts:
    print(bool(interrupts))
    signal.raise_signal(number)
    signal.raise_signal(number)
    print(bool(interrupts), interrupts.count)
print(signal.getsignal(number) is before)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_counted_and_the_handlers_come_back(number: signal.Signals) -> None:
    """In a process of its own: this one's signals are its runner's."""
    command = [sys.executable, "-c", SIGNALLED, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["False", "True", "2", "True"], done.stderr
