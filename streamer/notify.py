"""What systemd is told: that the run serves, how it does, that it ends, and that its stages make progress.

Owns the messages of a service of Type=notify and the watchdog's beat. `Watchdog` decides what is due and
knows neither sockets nor the clock; `Notifier` is the datagram socket. Without NOTIFY_SOCKET nothing is sent.
Messages, variables and addresses are those of sd_notify(3) and sd_watchdog_enabled(3). Not told: RELOADING=1
(a run does not load its configuration again), MAINPID, ERRNO and stored descriptors. Addresses of AF_VSOCK,
which a manager outside a virtual machine uses, are refused.

The beat is not a timer's: it stops when a stage has shown no progress for so long that the supervisor could
not bring it back. Then systemd ends the run and starts it anew.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from streamer.errors import ConfigError
from streamer.supervisor import HUNG_S, LONGEST_PAUSE_S, START_S, Child

log = logging.getLogger(__name__)

# The supervisor's own remedy first: it kills what hangs, waits, and gives the successor time to start.
PATIENCE_S: Final = HUNG_S + LONGEST_PAUSE_S + START_S
# sd_watchdog_enabled(3) asks for a beat every half of the period.
BEATS_A_PERIOD: Final = 2
# How often the line of `systemctl status` is renewed: a person reads it, and each renewal wakes the manager.
STATUS_S: Final = 5.0
# The manager keeps one line; longer than a terminal's helps nobody.
MAX_STATUS: Final = 200

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"


@dataclass
class Watchdog:
    """Decides what is said next. Times are monotonic seconds, told by the caller."""

    period_s: float | None
    """The manager's limit between two beats; None: it wants none."""
    patience_s: float = PATIENCE_S
    _last_s: dict[str, float] = field(default_factory=dict)  # newest progress of every stage, over restarts
    _beat_s: float = float("-inf")
    _told_s: float = float("-inf")
    _still: tuple[str, ...] = ()

    def due(self, progress: Mapping[str, float], now_s: float, status: Callable[[], str]) -> list[str]:
        """The lines that are due at `now_s`; none most of the time.

        `progress` is when each stage that should run last gave a sign of work, 0 if it has not yet since its
        start. A stage that was never seen working counts from the first look.
        """
        for name, last_s in progress.items():
            self._last_s[name] = max(last_s, self._last_s.get(name, now_s))
        self._look_for_stills(progress, now_s)
        lines = []
        if self.period_s is not None and now_s - self._beat_s >= self.period_s / BEATS_A_PERIOD:
            lines += [] if self._still else [ALIVE]
        if now_s - self._told_s >= STATUS_S:
            lines.append(status_line(self._trouble() or status()))
        return lines

    def said(self, lines: Iterable[str], now_s: float) -> None:
        """These lines have reached the manager; what has not is due again at the next look."""
        for line in lines:
            if line == ALIVE:
                self._beat_s = now_s
            elif line.startswith("STATUS="):
                self._told_s = now_s

    def _look_for_stills(self, progress: Mapping[str, float], now_s: float) -> None:
        late = tuple(name for name in progress if now_s - self._last_s[name] > self.patience_s)
        if late and late != self._still:
            log.error(
                "no progress of %s for %.0f s although started again: the service manager is no longer told "
                "that the run lives, and starts it anew if it watches",
                ", ".join(late),
                self.patience_s,
            )
        self._still = late

    def _trouble(self) -> str:
        return f"no progress of {', '.join(self._still)}" if self._still else ""


def status_line(text: str) -> str:
    """`STATUS=` and one printable line: a line break would begin another message."""
    return "STATUS=" + "".join(c if c.isprintable() else " " for c in text)[:MAX_STATUS]


def summary(report: Mapping[str, Any]) -> str:
    """A run in one line, from the report of `Pipeline.report`."""
    parts = [
        f"{name}: {stream['received']:,} events, {stream['events_per_s']:,.0f}/s, "
        f"{sum(stream['failopen'].values()):,} kept unclassified, {sum(stream['shed'].values()):,} shed"
        for name, stream in report["streams"].items()
    ]
    return "; ".join(parts)


def progress_s(children: Iterable[Child]) -> dict[str, float]:
    """When each stage last gave a sign of work, in monotonic seconds; 0 if its process has not yet."""
    return {child.name: child.page.progress_ns * 1e-9 for child in children}


class Notifier:
    """The manager's socket and the beat. A context manager: leaving closes the socket.

    Takes the manager's variables out of `environment`: a child that inherited them could speak for us.
    Raises ConfigError for an address or a period that is none.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        address = variables.pop("NOTIFY_SOCKET", "")
        self.watchdog = Watchdog(
            _period_s(variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", ""))
        )
        self._address = _path(address) if address else ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        self._failed = False

    def ready(self) -> None:
        """Every stage serves."""
        self.send([READY])

    def stopping(self) -> None:
        """The run drains; from here on the manager's TimeoutStopSec counts, and no beat is expected."""
        self.send([STOPPING, status_line("draining")])

    def beat(self, progress: Mapping[str, float], now_s: float, status: Callable[[], str]) -> None:
        """Call it from the loop that looks after the stages; see `Watchdog.due`."""
        if self._socket is None:
            return
        lines = self.watchdog.due(progress, now_s, status)
        if lines and self.send(lines):
            self.watchdog.said(lines, now_s)

    def send(self, lines: Iterable[str]) -> bool:
        """One datagram; False if there is no manager, or it does not take it now. Never waits."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            if not self._failed:
                log.warning("the service manager cannot be told: %s: %s", self._address, error.strerror)
            self._failed = True
            return False
        self._failed = False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()


def _path(address: str) -> str:
    """A path, or an abstract address: '@' stands for the zero byte. Raises ConfigError."""
    if address[0] not in "/@" or len(address) < 2:
        raise ConfigError(
            f"NOTIFY_SOCKET: expected a path or an abstract address that begins with @, got {address!r}; "
            "the service manager sets it: unset it, or use Type=exec"
        )
    return "\0" + address[1:] if address[0] == "@" else address


def _period_s(period_us: str, pid: str) -> float | None:
    """The watchdog's period in seconds; None if none is set or it is meant for another process."""
    if not period_us or (pid and pid != str(os.getpid())):
        return None
    if not (period_us.isascii() and period_us.isdecimal() and len(period_us) < 20 and int(period_us)):
        raise ConfigError(
            f"WATCHDOG_USEC: expected a positive number of microseconds, got {period_us[:40]!r}; the service "
            "manager sets it: unset it"
        )
    return int(period_us) * 1e-6
