"""Processes that must run: started, watched, started again, stopped in order.

Knows no stage by name: a child is an argument list, the page on which it shows life, and a tier. Tiers start
from the last to the first (who receives before who sends) and stop from the first to the last.
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from streamer.errors import EXIT_CONFIG, ConfigError, StageError
from streamer.ledger import PageReader

log = logging.getLogger(__name__)

# A loaded machine imports torch in some seconds, and may compile and check its networks for a minute; what is
# not ready by then never will be.
START_S = 120.0
# No sign of work for so long means hung: the longest honest pause is closing a large file.
HUNG_S = 30.0
# Above the stages' own time to drain.
STOP_S = 20.0
# It holds nothing: what it does not do within this time is not worth waiting for.
DISMISS_S = 3.0
# A child that was ready starts again at once; one that fails before waits, twice as long each time.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 2.0
# What never comes up must not fill the log of a night.
LONGEST_PAUSE_OF_OTHERS_S = 60.0


@dataclass
class Child:
    """One process to keep running."""

    name: str
    argv: Sequence[str]
    fds: Sequence[int]
    page: PageReader
    tier: int
    vital: bool = True
    """False: nothing waits for it, neither at the start nor at the end, and it may refuse to run."""
    restarts: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started_s: float = 0.0
    pause_s: float = 0.0
    start_at_s: float = 0.0
    refused: bool = False

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.poll() is None and self.page.ready

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0


class Supervisor:
    """Keeps `children` running. `output` takes their stderr (None: ours)."""

    def __init__(self, children: Sequence[Child], output: IO[bytes] | None = None) -> None:
        self.children = list(children)
        self._output = output
        self._running = False

    def start(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Start all, tier by tier. Raises ConfigError if one refuses, StageError if one does not come up."""
        for tier in sorted({child.tier for child in self.children}, reverse=True):
            members = [child for child in self.children if child.tier == tier]
            for child in members:
                self._launch(child)
            for child in members:
                if child.vital:
                    self._await_ready(child, interrupted)
        self._running = not interrupted()

    def watch(self) -> None:
        """One look: start again what has died, kill what hangs."""
        now_s = time.monotonic()
        for child in self.children:
            if child.process is None:
                if not child.refused and now_s >= child.start_at_s:
                    self._launch(child)
            elif child.process.poll() is not None:
                self._bury(child, now_s)
            elif self._hung(child, now_s):
                log.error("%s gives no sign of work for %.0f s: killed", child.name, HUNG_S)
                child.process.kill()

    def stop(self) -> None:
        """Let every tier finish what it holds, first to last; kill what does not end.

        What dies meanwhile is started again: only a running stage can hand on what lies in the ring.
        """
        if not self._running:
            self._kill_all()
            return
        self._running = False
        for tier in sorted({child.tier for child in self.children}):
            started = [child for child in self.children if child.vital and child.started_s]
            members = [child for child in started if child.tier == tier]
            later = [child for child in started if child.tier > tier]
            give_up_s = time.monotonic() + STOP_S
            for child in members:
                self._end(child, later, give_up_s)
        for child in self.children:
            if not child.vital:
                _dismiss(child)

    # --- one child ----------------------------------------------------------------------------------

    def _launch(self, child: Child) -> None:
        child.page.clear_head()
        child.started_s = time.monotonic()
        child.process = subprocess.Popen(
            list(child.argv), pass_fds=list(child.fds), stderr=self._output, stdin=subprocess.DEVNULL
        )

    def _await_ready(self, child: Child, interrupted: Callable[[], bool]) -> None:
        process = child.process
        if process is None:
            raise StageError(f"{child.name} was not started")
        give_up_s = time.monotonic() + START_S
        while not child.page.ready:
            if interrupted():
                return
            if process.poll() is not None:
                kind = ConfigError if process.returncode == EXIT_CONFIG else StageError
                raise kind(
                    f"{child.name} ended with code {process.returncode} before it was ready; see above"
                )
            if time.monotonic() > give_up_s:
                raise StageError(f"{child.name} was not ready within {START_S:.0f} s")
            time.sleep(0.01)  # a wait for another process, bounded above

    def _bury(self, child: Child, now_s: float) -> None:
        """Note a death and when to start again."""
        code = child.process.returncode if child.process is not None else None
        longest_s = LONGEST_PAUSE_S if child.vital else LONGEST_PAUSE_OF_OTHERS_S
        growing_s = min(longest_s, max(FIRST_PAUSE_S, 2 * child.pause_s))
        child.pause_s = 0.0 if child.page.ready else growing_s
        child.restarts += 1
        child.process = None
        child.start_at_s = now_s + child.pause_s
        child.refused = code == EXIT_CONFIG and not child.vital
        if child.refused:
            log.warning("%s cannot run as configured, see above; everything else goes on", child.name)
            return
        log.warning("%s ended with code %s; started again in %.1f s", child.name, code, child.pause_s)

    def _hung(self, child: Child, now_s: float) -> bool:
        last_s = max(child.page.progress_ns * 1e-9, child.started_s)
        limit_s = HUNG_S if child.page.ready else START_S
        return now_s - last_s > limit_s

    def _end(self, child: Child, later: Sequence[Child], give_up_s: float) -> None:
        """SIGTERM, and wait for a clean end; until then keep it and all `later` alive."""
        asked: subprocess.Popen[bytes] | None = None
        while time.monotonic() < give_up_s:
            if child.process is not None and child.process.poll() == 0:
                return
            self._revive([child, *later])
            if child.up and child.process is not asked:
                asked = child.process
                os.kill(child.pid, signal.SIGTERM)
            time.sleep(0.01)  # a wait for another process, bounded above
        log.error("%s did not end within %.0f s: killed", child.name, STOP_S)
        if child.process is not None:
            child.process.kill()
            child.process.wait()

    def _kill_all(self) -> None:
        """A start that was broken off: nothing has been received yet."""
        for child in self.children:
            if child.process is not None:
                child.process.kill()
                child.process.wait()

    def _revive(self, children: Sequence[Child]) -> None:
        for child in children:
            if child.process is not None and child.process.poll() not in (None, 0):
                self._bury(child, time.monotonic())
            if child.process is None:
                self._launch(child)


def _dismiss(child: Child) -> None:
    """End what nobody waits for."""
    if child.process is None:
        return
    child.process.terminate()
    try:
        child.process.wait(DISMISS_S)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()
