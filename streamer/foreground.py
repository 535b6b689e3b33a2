"""A pipeline in the foreground: started, served, watched until its end, reported.

Owns the loop of `streamer run` and `streamer demo`: signals (which only record), the control socket, the
metrics, when to stop, the report and the exit code.
"""

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer import control, metrics, notify
from streamer.errors import ConfigError
from streamer.ledger import BATCH_EDGES, LATENCY_EDGES_S
from streamer.pipeline import Pipeline
from streamer.stage import allow_files
from streamer.steering import as_answer
from streamer.supervisor import Child
from streamer.versions import current_version

log = logging.getLogger(__name__)

TICK_S = 0.05
# Between two changes of a run, s.
CHANGE_EVERY_S = 1.0


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
        # Before anything is started: it takes what it is told by out of the environment.
        notifier = stack.enter_context(notify.Notifier())
        allow_files()  # a stranger's connections must not keep the run from its own
        _serve(stack, pipeline)
        pipeline.start(lambda: bool(interrupts))
        on_start()
        notifier.ready()
        vital = [child for child in pipeline.supervisor.children if child.vital]
        while not (interrupts or limits.reached(pipeline)):
            pipeline.supervisor.watch()
            notifier.beat(
                notify.progress_s(vital), time.monotonic(), lambda: notify.summary(pipeline.report())
            )
            time.sleep(TICK_S)  # the rhythm of looking at children; nothing waits for it
        notifier.stopping()
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
        "steer": lambda request: steer(pipeline, request),
        "journal": lambda _: {"entries": list(pipeline.journal.newest)},
    }
    stack.enter_context(control.ControlServer(config.control_endpoint, commands, ("swap", "steer")))
    if pipeline.dashboard is not None:
        kept = control.keep_token(config.control_endpoint, pipeline.token)
        stack.callback(kept.unlink, missing_ok=True)
        log.info("who wants to steer by the live page needs the token: `streamer token`, or %s", kept)
    if config.metrics.serve:
        port, stop = metrics.serve(pipeline.snapshots, config.metrics.address, config.metrics.port)
        stack.callback(stop)
        pipeline.metrics_address = f"http://{config.metrics.address}:{port}/metrics"
        log.info("metrics at %s", pipeline.metrics_address)


def status(pipeline: Pipeline) -> dict[str, Any]:
    """The report of the moment, with the state of every stage and what every stream does now."""
    report, config = pipeline.report(), pipeline.config
    stages = {
        name: {stage: _state(child) for stage, child in stream.children.items()}
        for name, stream in pipeline.streams.items()
    }
    for name, stream in pipeline.streams.items():
        report["streams"][name] |= _moment(stream.snapshot())
    versions = {name: current_version(stream.spec) for name, stream in pipeline.streams.items()}
    return report | {
        "stages": stages,
        "dashboard": _state(pipeline.dashboard) if pipeline.dashboard is not None else None,
        "steering": {name: as_answer(*version) for name, version in versions.items()},
        "run": config.run,
        "proposal": config.proposal,
        "started_at": pipeline.started_at_s,
        "stopping": pipeline.stopping,
        "endpoints": endpoints(pipeline),
    }


def endpoints(pipeline: Pipeline) -> dict[str, Any]:
    """Where the run is reached, and which one it is: one may run beside another."""
    config = pipeline.config
    page = pipeline.page_address()
    return {
        "pid": os.getpid(),
        "directory": str(config.output.directory.resolve()) if config.output.store else None,
        "control": config.control_endpoint,
        "metrics": pipeline.metrics_address,
        "page": page,
        "results": {stream.name: stream.publish.results for stream in config.stream},
        "verdicts": {stream.name: stream.publish.verdicts for stream in config.stream},
    }


def _state(child: Child) -> dict[str, Any]:
    return {"up": child.up, "pid": child.pid, "restarts": child.restarts}


def _moment(now: metrics.Snapshot) -> dict[str, Any]:
    """What a page shows of a stream beside its ledger."""
    return {
        "imbalance": now.ledger.imbalance,
        "latency": {"edges_s": list(LATENCY_EDGES_S), "counts": list(now.ledger.latency_counts)},
        "batch_events": {"edges": list(BATCH_EDGES), "counts": list(now.batch_events)},
        "ring": {"slots": now.slots, "in_use": now.slots_in_use},
    }


def swap(pipeline: Pipeline, request: dict[str, Any]) -> dict[str, Any]:
    """Give a stream another bundle."""
    bundle = str(request.get("bundle", ""))
    return _change(pipeline, request, {"bundle": bundle}, control.SWAP_S)


def steer(pipeline: Pipeline, request: dict[str, Any]) -> dict[str, Any]:
    """Change a stream's rules, names or storing: one `change`, or several `changes` as one."""
    changes = request.get("changes", [request.get("change")])
    if not isinstance(changes, list) or not all(isinstance(change, dict) for change in changes):
        raise ConfigError(f"steer: expected changes, each a map, got {str(changes)[:40]!r}")
    return _change(pipeline, request, {"changes": changes}, control.STEER_S)


def _change(
    pipeline: Pipeline, request: dict[str, Any], action: dict[str, Any], limit_s: float
) -> dict[str, Any]:
    """Forward a change to its stream's inference and note it; broken off when that ends, or the run."""
    name = str(request.get("stream", ""))
    address = pipeline.control_address(name)
    stream = pipeline.streams[name]
    inference, before = stream.children["inference"], as_answer(*current_version(stream.spec))
    if not inference.up:
        raise ConfigError(f"inference of stream {name} is starting; try again in some seconds")
    asked = inference.pid
    # Each change closes the files of the one before: at this pace the sink follows on any disk.
    time.sleep(max(0.0, pipeline.changed_s + CHANGE_EVERY_S - time.monotonic()))
    pipeline.changed_s = time.monotonic()

    def alive() -> bool:
        return inference.up and inference.pid == asked and not pipeline.stopping

    try:
        answer = control.forward(address, action, limit_s, alive)
    except TimeoutError as error:
        answer = {
            "ok": False,
            "error": f"{error}; whether it was made, the version in `streamer status` says",
        }
    after = as_answer(*current_version(stream.spec))
    if after != before and not answer.get("ok"):  # inference died between doing it and saying so
        answer = {"ok": True, "steering": after, "bundles": after["bundles"]}
    result = {"before": before, "after": after} if answer.get("ok") else {"refused": answer.get("error")}
    for one in [{"change": change} for change in action.get("changes", [])] or [action]:
        pipeline.journal.add(request.get("by"), name, one, **result)
    return answer | {"run": pipeline.config.run}
