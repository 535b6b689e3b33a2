"""A pipeline in the foreground: started, served, watched until its end, reported.

Owns the loop of `streamer run` and `streamer demo`: signals (which only record), the control socket, the
metrics, when to stop, the report and the exit code.
"""

import json
import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer import control, metrics
from streamer.pipeline import Pipeline

log = logging.getLogger(__name__)

TICK_S = 0.05


@dataclass(frozen=True)
class Limits:
    """When to end by itself; None: never."""

    duration_s: float | None = None
    events: int | None = None

    def reached(self, pipeline: Pipeline) -> bool:
        running_s = time.monotonic() - pipeline.started_s
        if self.duration_s is not None and running_s >= self.duration_s:
            return True
        return self.events is not None and pipeline.received() >= self.events


class Interrupts:
    """Counts SIGINT and SIGTERM while it is entered; restores the handlers after."""

    def __init__(self) -> None:
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def _record(self, _signal: int, _frame: object) -> None:
        self.count += 1

    def __enter__(self) -> "Interrupts":
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._record) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def run(
    pipeline: Pipeline,
    limits: Limits,
    report: Path | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run until a signal or a limit; drain; write and return the report.

    `on_start` is called when every stage is ready. Raises ConfigError or StageError if the pipeline does not
    start.
    """
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(pipeline)
        _serve(stack, pipeline)
        pipeline.start(lambda: bool(interrupts))
        on_start()
        while not (interrupts or limits.reached(pipeline)):
            pipeline.supervisor.watch()
            time.sleep(TICK_S)  # the rhythm of looking at children; nothing waits for it
        pipeline.stop()
        result = pipeline.report()
    if report is not None:
        report.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _serve(stack: ExitStack, pipeline: Pipeline) -> None:
    """Control socket and metrics, for as long as the run lasts."""
    config = pipeline.config
    commands: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "status": lambda _: {"report": status(pipeline)},
        "swap": lambda request: swap(pipeline, request),
    }
    stack.enter_context(control.ControlServer(config.control_endpoint, commands))
    if config.metrics.serve:
        port, stop = metrics.serve(pipeline.snapshots, config.metrics.address, config.metrics.port)
        stack.callback(stop)
        log.info("metrics at http://%s:%d/metrics", config.metrics.address, port)


def status(pipeline: Pipeline) -> dict[str, Any]:
    """The report of the moment, with the state of every stage."""
    stages = {
        name: {
            stage: {"up": child.up, "pid": child.pid, "restarts": child.restarts}
            for stage, child in stream.children.items()
        }
        for name, stream in pipeline.streams.items()
    }
    return pipeline.report() | {"stages": stages}


def swap(pipeline: Pipeline, request: dict[str, Any]) -> dict[str, Any]:
    """Forward a swap to its stream's inference; broken off when that process ends or the run does."""
    name = str(request.get("stream", ""))
    address = pipeline.control_address(name)
    inference = pipeline.streams[name].children["inference"]
    asked = inference.pid

    def alive() -> bool:
        return inference.up and inference.pid == asked and not pipeline.stopping

    return control.forward_swap(address, str(request.get("bundle", "")), alive)
