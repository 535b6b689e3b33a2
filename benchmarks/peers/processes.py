"""A contender's processes: started as a group of their own, counted together, ended by their own ids.

Owns the whole tree: some peers start a dozen processes, and leave some when they are stopped.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import psutil

from benchmarks.helper import ROOT, BenchmarkError, cpu_s

END_S: Final = 5.0
# What a log may say in a table.
LOG_CHARS: Final = 300


class Tree:
    """One command and all that it started. Leaving ends every one of them."""

    def __init__(self, argv: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile(prefix="bench-")  # noqa: SIM115  (closed in __exit__)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(more or {})}
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        # Everything that was ever seen, so that what loses its parent is found at the end.
        self._seen: dict[int, psutil.Process] = {}

    def processes(self) -> list[psutil.Process]:
        """Those that live now: the children, and who else is in the group that we began."""
        try:
            root = psutil.Process(self._process.pid)
            found = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        found += [other for other in psutil.process_iter() if _group(other.pid) == self._process.pid]
        self._seen |= {process.pid: process for process in found}
        return [process for process in self._seen.values() if process.is_running()]

    def cpu_s(self) -> float:
        """Processor time of all processes that live, seconds."""
        return sum(_cpu_s(process.pid) for process in self.processes())

    def wait(self, ready: Callable[[], bool], limit_s: float) -> None:
        """Until `ready`. Raises BenchmarkError with the end of the log if it ends before, or takes longer."""
        give_up_s = time.monotonic() + limit_s
        while not ready():
            if self._process.poll() is not None:
                raise BenchmarkError(f"it ended with code {self._process.returncode}: {self.log()}")
            if time.monotonic() > give_up_s:
                raise BenchmarkError(f"not ready within {limit_s:g} s: {self.log()}")
            time.sleep(0.05)  # a wait for other processes, bounded above

    def log(self) -> str:
        """The end of what it printed, on one line."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        return " ".join(text.split())[-LOG_CHARS:].replace("|", "/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._log.close()

    def _end(self) -> None:
        """Ask the first, which stops its own; then end what is left, by id."""
        left = self.processes()
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        left = [process for process in {*left, *self.processes()} if process.is_running()]
        for process in left:
            _signal(process, signal.SIGTERM)
        _, left = psutil.wait_procs(left, timeout=END_S)
        for process in left:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=END_S)


def _group(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # it ended
        return -1


def _cpu_s(pid: int) -> float:
    try:
        return cpu_s(pid)
    except OSError:
        return 0.0


def _signal(process: psutil.Process, number: int) -> None:
    """psutil compares the start time first: an id that was given again is not touched."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
