"""The contenders' processes: started from here, asked in JSON lines, ended by their own id, never waited for
without limit.

Owns the processes and their processor time; knows nothing of what they measure.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parent.parent
# A loaded machine imports torch in some seconds.
ANSWER_S: Final = 120.0
END_S: Final = 5.0


class BenchmarkError(Exception):
    """A contender failed, or its answer is wrong: there is no number to print."""


class Helper:
    """`python -m MODULE OPTIONS` with JSON lines on its stdin and stdout. Its first line is `hello`."""

    def __init__(self, module: str, options: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        self._name, self._text = module, b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            pass_fds=fds,
        )
        try:
            self.hello = self.read()
        except BaseException:
            self._end()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, request: Mapping[str, Any]) -> None:
        if self._process.stdin is None:
            raise BenchmarkError(f"{self._name} has no stdin")
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def read(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The next line. Raises BenchmarkError when it does not come."""
        give_up_s = time.monotonic() + timeout_s
        while b"\n" not in self._text:
            self._text += self._more(give_up_s - time.monotonic())
        line, _, self._text = self._text.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _more(self, wait_s: float) -> bytes:
        if self._process.stdout is None:
            raise BenchmarkError(f"{self._name} has no stdout")
        fd = self._process.stdout.fileno()
        if wait_s <= 0 or not select.select([fd], [], [], wait_s)[0]:
            raise BenchmarkError(f"{self._name}: no answer in time")
        part = os.read(fd, 1 << 20)
        if not part:
            raise BenchmarkError(f"{self._name} ended with code {self._process.wait(END_S)}; see above")
        return part

    def ask(self, request: Mapping[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
        self.tell(request)
        return self.read(timeout_s)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A helper that was paused goes on within, and stands still after."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def _end(self) -> None:
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)  # one that stands still does not end
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


def options() -> dict[str, Any]:
    """The helper's side: what it was started with."""
    values: dict[str, Any] = json.loads(sys.argv[1])
    return values


def say(answer: Mapping[str, Any]) -> None:
    """The helper's side: one line to the harness."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]], hello: Mapping[str, Any]) -> None:
    """The helper's side: answer one line at a time until the harness closes the pipe."""
    say(hello)
    for line in sys.stdin:
        say(answer(json.loads(line)))


def cpu_s(pid: int) -> float:
    """Processor time of a whole process, user and system, all threads, seconds.

    Linux makes the clock's number from the process id (CPUCLOCK_SCHED, include/linux/posix-timers.h): to the
    nanosecond, where /proc counts ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | 2)


def wait_until(what: str, done: Callable[[], bool], limit_s: float) -> None:
    """Look every 5 ms. Raises BenchmarkError after `limit_s`."""
    give_up_s = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > give_up_s:
            raise BenchmarkError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.005)  # a wait for another process, bounded above
