"""The frame of every stage process: read the spec, catch signals, say that it lives, leave with a code.

Owns the life of a process, not its work. Signal handlers only record; the work loop looks at `stopping`.
Exit codes: 0 drained, 70 a stage or a device failed and shall be started again, 78 the configuration does
not allow a start (sysexits.h), so that starting again is useless.
"""

import ctypes
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from streamer import log
from streamer.errors import EXIT_CONFIG, EXIT_RESTART, ConfigError
from streamer.ledger import Page
from streamer.plan import Shared, StageSpec

# How long a stage may take after SIGTERM to finish what it holds.
DRAIN_S = 10.0
# Longest wait in a stage's loop: the rhythm of its sign of life and of looking at `stopping`.
IDLE_MS = 100

# Tokens can be lost with a dying peer; with nothing to do, a stage looks so often whether one was.
RESCAN_NS = 1_000_000_000

_PR_SET_PDEATHSIG = 1


class Stage:
    """One stage process: its spec, its shared memory and its page."""

    def __init__(self, name: str, spec: StageSpec) -> None:
        self.name = name
        self.spec = spec
        self.stopping = False
        self._give_up_s = float("inf")
        self.shared = Shared(spec)
        self.page = Page(self.shared.pages[name], getattr(self.shared.layouts, name))
        self.log = logging.getLogger(f"{spec.stream}.{name}")
        allow_files()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the whole group; the supervisor decides

    def _stop(self, _signal: int, _frame: object) -> None:
        self.stopping = True
        self._give_up_s = min(self._give_up_s, time.monotonic() + DRAIN_S)

    @property
    def overdue(self) -> bool:
        """SIGTERM came so long ago that waiting for anybody is useless."""
        return time.monotonic() > self._give_up_s

    def ready(self) -> None:
        """The supervisor may start what feeds this stage."""
        # What lives now lives to the end; collecting it again and again would pause the stream.
        gc.collect()
        gc.freeze()
        self.page.announce(os.getpid(), ready=True)
        self.alive()

    def alive(self) -> None:
        """A sign of progress, given from the work loop and not from a timer: a hung loop gives none."""
        self.page.progress(time.monotonic_ns())


def allow_files() -> None:
    """As many open files as we may have: idle connections must not keep the sink from opening a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def follow_parent(pid: int) -> None:
    """Ask the kernel for SIGTERM when the supervisor `pid` dies: no stage outlives it unseen."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != pid:  # it died before we asked
        os._exit(EXIT_RESTART)


def main(name: str, run: Callable[[Stage], None]) -> None:
    """Entry point of a stage: `python -m streamer.NAME SPEC SUPERVISOR_PID`. The one broad except."""
    follow_parent(int(sys.argv[2]))
    spec = StageSpec.model_validate_json(Path(sys.argv[1]).read_text())
    log.setup(f"{spec.stream}.{name}")
    try:
        run(Stage(name, spec))
    except ConfigError as error:
        logging.getLogger(name).error("%s", error)
        code = EXIT_CONFIG
    except Exception:
        logging.getLogger(name).exception("the stage failed and will be started again")
        code = EXIT_RESTART
    else:
        code = 0
    logging.shutdown()
    # Not sys.exit: interpreter teardown after a device error can hang, and nothing is left to do.
    os._exit(code)
