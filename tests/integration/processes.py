"""Pipelines, simulators and the field's own servers as real processes, for the integration tests.

Owns their start, their end and every wait, all of them bounded; asserts nothing. A process is ended by its
own process id, never by name. Nothing here is timed: the limits are far above what a loaded machine takes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from streamer import control
from streamer.errors import ConfigError
from streamer.sockets import free_port

# Four processes that import torch, on a machine that others use as well.
START_S: Final = 120.0
STOP_S: Final = 60.0
# Steps of a wait for another process.
STEP_S: Final = 0.05

STAGES: Final = ("ingest", "inference", "sink")

T = TypeVar("T")


def wait_until(look: Callable[[], T], what: str, timeout_s: float = START_S) -> T:
    """Look until the answer is true and give it. Raises TimeoutError."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        found = look()
        if found:
            return found
        time.sleep(STEP_S)
    raise TimeoutError(f"{what}: not within {timeout_s:g} s")


class Process:
    """One child in its own process group, its output in a file. A context manager: leaving ends it."""

    def __init__(self, arguments: Sequence[str | Path], log: Path) -> None:
        self.log = log
        self._file = log.open("wb")
        self.popen = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    @property
    def text(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        if self.running:
            self.popen.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code. Raises TimeoutError that shows what it printed last."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"did not end within {timeout_s:g} s:\n{self.text[-3000:]}") from None

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = STOP_S) -> int:
        self.send_signal(number)
        return self.wait(timeout_s)

    def end(self) -> None:
        """Whatever happened: it is gone after this, and so is what it started."""
        self.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class RunningPipeline(Process):
    """`streamer run` of a configuration text, with a control socket and a report of its own."""

    def __init__(self, folder: Path, text: str, *arguments: str, control: str = "") -> None:
        self.folder, self.control = folder, control or f"ipc://{folder}/control"
        self.report_file = folder / "report.json"
        config = folder / "config.toml"
        page = "" if "[dashboard]" in text else "\n[dashboard]\nserve = false\n"
        config.write_text(f'control = "{self.control}"\n{text}{page}')
        command = [sys.executable, "-m", "streamer.cli", "run", config, "--report", self.report_file]
        super().__init__([*command, *arguments], folder / "pipeline.log")

    def status(self) -> dict[str, Any]:
        """The answer of the control socket. Raises ConfigError when there is none."""
        report: dict[str, Any] = control.request(self.control, {"command": "status"}, 30.0)["report"]
        return report

    def stages(self) -> dict[str, dict[str, Any]]:
        """{'stream.stage': {'up', 'pid', 'restarts'}}; empty while nobody answers."""
        if not Path(self.control.removeprefix("ipc://")).exists():
            return {}
        try:
            streams = self.status()["stages"]
        except ConfigError:
            return {}
        return {f"{name}.{stage}": state for name, of in streams.items() for stage, state in of.items()}

    def _all_up(self) -> bool:
        if not self.running:
            raise RuntimeError(f"the pipeline ended with code {self.popen.returncode}:\n{self.text[-3000:]}")
        stages = self.stages()
        return bool(stages) and all(state["up"] for state in stages.values())

    def ready(self, timeout_s: float = START_S) -> Self:
        """Wait until every stage is up."""
        wait_until(self._all_up, "every stage ready", timeout_s)
        return self

    def kill_stage(self, stage: str) -> float:
        """SIGKILL one stage, 'stream.stage'; the seconds until its successor is ready."""
        before = self.stages()[stage]["pid"]
        os.kill(before, signal.SIGKILL)
        start_s = time.monotonic()

        def back() -> bool:
            now = self.stages()[stage]
            return bool(now["up"] and now["pid"] != before)

        wait_until(back, f"{stage} ready again")
        return time.monotonic() - start_s

    def wait_to_answer(self) -> None:
        """Wait until the control socket answers: the stages have only begun to start then."""
        wait_until(self.stages, "an answer")

    def counts(self, stream: str) -> dict[str, Any]:
        counts: dict[str, Any] = self.status()["streams"][stream]
        return counts

    def wait_for(
        self, stream: str, seen: Callable[[dict[str, Any]], bool], timeout_s: float = START_S
    ) -> dict[str, Any]:
        """The first counts for which `seen` is true. Raises TimeoutError that shows the last ones."""
        last: dict[str, Any] = {}

        def look() -> bool:
            last.update(self.counts(stream))
            return seen(last)

        try:
            wait_until(look, "counts", timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; last: {last}\n{self.text[-3000:]}") from None
        return last

    def settled(self, stream: str, quiet_s: float = 1.0, timeout_s: float = 40.0) -> dict[str, Any]:
        """The counts when nothing has come for `quiet_s` and nothing is in flight."""
        before: dict[str, Any] = {}
        since_s = time.monotonic()

        def look() -> bool:
            nonlocal before, since_s
            now = self.counts(stream)
            if now["messages"] != before.get("messages") or now["in_flight"]:
                before, since_s = now, time.monotonic()
            return time.monotonic() - since_s > quiet_s

        try:
            wait_until(look, "quiet", timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; last: {before}\n{self.text[-3000:]}") from None
        return before

    @property
    def report(self) -> dict[str, Any]:
        """What it wrote at its end."""
        report: dict[str, Any] = json.loads(self.report_file.read_text())
        return report


@dataclass(frozen=True)
class Serving:
    """A simulator process and the truth that it writes."""

    process: Process
    endpoint: str
    log: Path

    def finish(self, timeout_s: float = STOP_S) -> dict[str, Any]:
        """Wait until it has sent everything; its report."""
        code = self.process.wait(timeout_s)
        if code:
            raise RuntimeError(f"the simulator ended with code {code}:\n{self.process.text}")
        return self._report()

    def stop(self) -> dict[str, Any]:
        """End it now: it flushes what it holds; its report."""
        self.process.stop()
        return self._report()

    def _report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.process.text.strip().splitlines()[-1])
        return report


def simulator(
    folder: Path, *arguments: str, socket: str = "PUSH", name: str = "simulator", endpoint: str = ""
) -> Serving:
    """Start a simulator; it waits for its peer before it sends. `endpoint` empty: a free port."""
    endpoint, log = endpoint or f"tcp://127.0.0.1:{free_port()}", folder / f"{name}.truth"
    command = [
        sys.executable,
        "-m",
        "streamer.facility.simulator",
        "--endpoint",
        endpoint,
        "--socket",
        socket,
    ]
    extra = ["--json", "--linger", "20", "--log", str(log), *arguments]
    return Serving(Process([*command, *extra], folder / f"{name}.log"), endpoint, log)
