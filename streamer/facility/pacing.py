"""When the trains of a simulation or a replay leave.

Owns the grid of due times and the loop that sends on it. Time is an argument; knows no content and no format.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamer.errors import ConfigError
from streamer.facility.outlets import Parts
from streamer.facility.serve import Server


class Pacer:
    """Due times on a fixed grid: no drift, and no burst after a delay.

    Step k is due at start + k / rate. Who comes late by a step or more takes the
    latest place of the grid that is past; the places in between are passed over and counted in `late`.
    """

    def __init__(self, rate_hz: float, start_s: float) -> None:
        """`rate_hz` 0: always due at once."""
        if not (math.isfinite(rate_hz) and rate_hz >= 0):
            raise ConfigError(f"rate_hz: expected 0 (as fast as possible) or more, got {rate_hz}")
        self._rate_hz, self._start_s = rate_hz, start_s
        self._step = 0
        self.late = 0

    def next_due_s(self, now_s: float) -> float:
        """The time of the next step, given the present time of the same clock."""
        if self._rate_hz == 0:
            return now_s
        current = math.floor((now_s - self._start_s) * self._rate_hz)
        if current > self._step:
            self.late += current - self._step
            self._step = current
        due_s = self._start_s + self._step / self._rate_hz
        self._step += 1
        return due_s


@dataclass(frozen=True)
class Clock:
    """Time as the loop sees it. Tests pass their own."""

    now_s: Callable[[], float]
    # Lets the given number of seconds pass.
    wait: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way out."""

    parts: Parts
    # Returned with the fate of the message.
    ticket: int
    # Silence before this message, seconds.
    stall_s: float = 0.0


def send_paced(
    server: Server, messages: Iterable[Outgoing], rate_hz: float, stop: Callable[[], bool], clock: Clock
) -> int:
    """Send each message when it is due, until they end or the stop comes. Returns the steps passed over.

    A message is drawn from `messages` when it is due, so that its time stamp can be true, and is always given
    to the server, which settles it.
    """
    pacer, source = Pacer(rate_hz, clock.now_s()), iter(messages)
    while not stop():
        now_s = clock.now_s()
        wait_s = pacer.next_due_s(now_s) - now_s
        if wait_s > 0:
            clock.wait(wait_s)
        message = next(source, None)
        if message is None:
            break
        if message.stall_s:
            clock.wait(message.stall_s)
        server.send(message.parts, message.ticket)
    server.drain()
    return pacer.late
