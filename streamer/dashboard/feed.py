"""Everything that comes to the page, in one thread: results, pictures, and what the run says of itself.

Owns the thread, its sockets and its rhythm. What is known of a stream is in `state`; nothing here draws.
The pipeline does not know that this exists: the thread subscribes, looks at memory that it cannot write, and
asks a question a second. What fails is said in the state, and everything else goes on.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import zmq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamer import control
from streamer.dashboard.arrivals import Arrivals
from streamer.dashboard.labels import Labeller
from streamer.dashboard.looks import Looks
from streamer.dashboard.questions import Questions
from streamer.dashboard.state import Status, StreamState
from streamer.errors import ConfigError
from streamer.log import Repeated
from streamer.plan import StageSpec

log = logging.getLogger(__name__)

# A turn of the thread: what came in it is counted together, and the ring is looked at once.
TURN_S: Final = 0.1
ASK_EVERY_S: Final = 1.0
# A run that has not answered by then is busy, with a swap for instance; the page says so.
ANSWER_S: Final = 3.0
CHANGE_S: Final = control.PATIENCE_S
JOURNAL_S: Final = 5.0

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """`dashboard.json` of the run's folder. What it says besides is for others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: str = Field(repr=False)
    """Whoever has it may steer."""
    control: str
    """ipc address of the control socket."""
    address: str
    port: int
    origins: tuple[str, ...] = ()
    """`host:port` under which the page is opened besides its own address."""
    streams: tuple[str, ...]
    fd: int = -1
    """Memory in which the page's process says that it lives (`ledger.dashboard_layout`); -1: none."""


@dataclass
class _Source:
    """What the thread holds of one stream."""

    state: StreamState
    arrivals: Arrivals | None
    looks: Looks | None
    labeller: Labeller


class Feed:
    """The states of every stream of the run whose private folder is `folder`. Entered, it is fed.

    Raises ConfigError when the folder does not hold what the run writes there.
    """

    def __init__(self, folder: Path) -> None:
        self.settings = _read(folder / "dashboard.json", Settings)
        specs = [_read(folder / f"{name}.json", StageSpec) for name in self.settings.streams]
        self.streams = {spec.stream: StreamState(spec) for spec in specs}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._repeated = Repeated(log)
        self._clusters: dict[str, Mapping[str, int]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    # --- what a person does; these wait -------------------------------------------------------------

    def steer(self, stream: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """Change the stream; its steering afterwards. Raises ConfigError with the run's reason, and
        TimeoutError if nobody knows yet whether it is done.
        """
        answer = self._request({"command": "steer", "stream": stream, "change": dict(change)}, CHANGE_S)
        steering: dict[str, Any] = answer.get("steering", {})
        return steering

    def swap(self, stream: str, bundle: str) -> dict[str, Any]:
        """Another bundle for a stream; the run's answer. Raises as `steer` does. May take CHANGE_S."""
        return self._request({"command": "swap", "stream": stream, "bundle": bundle}, CHANGE_S)

    def journal(self) -> list[dict[str, Any]]:
        """The newest hundred actions, oldest first. Raises ConfigError and TimeoutError."""
        entries: list[dict[str, Any]] = self._request({"command": "journal"}, JOURNAL_S).get("entries", [])
        return entries

    def _request(self, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Raises ConfigError for a refusal, TimeoutError without an answer: that is none."""
        try:
            return control.request(self.settings.control, command | {"by": "dashboard"}, timeout_s)
        except ConfigError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise TimeoutError(str(error)) from error
            raise

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        """Until the feed is left. The one broad except of this thread: the page must not go silent unseen."""
        with zmq.Context() as context:
            sources = [_source(state, context) for state in self.streams.values()]
            questions = Questions(context, self.settings.control, {"command": "status"}, ANSWER_S)
            asked_s = -ASK_EVERY_S
            try:
                while not self._stopped.wait(TURN_S):
                    for source in sources:
                        self._guarded(source)
                    now_s = time.monotonic()
                    self._take_answer(questions.answer(now_s), sources)
                    if not questions.waiting and now_s - asked_s >= ASK_EVERY_S:
                        asked_s = now_s
                        questions.ask(now_s)
            finally:
                questions.close()
                for source in sources:
                    if source.arrivals is not None:
                        source.arrivals.close()

    def _guarded(self, source: _Source) -> None:
        """One turn of one stream; what fails costs this turn."""
        try:
            _turn(source)
        except Exception as error:
            self._repeated.warn("turn", f"{source.state.spec.stream}: {type(error).__name__}: {error}")

    # --- what the run says --------------------------------------------------------------------------

    def _take_answer(self, answer: dict[str, Any] | str | None, sources: list[_Source]) -> None:
        if isinstance(answer, str):
            for source in sources:
                source.state.unanswered(answer)
        elif answer is not None:
            report = answer.get("report", {})
            for source in sources:
                status = _status(report, source.state.spec.stream)
                source.state.answered(status)
                self._name_clusters(source, status)

    def _name_clusters(self, source: _Source, status: Status) -> None:
        clusters = dict(status.steering.get("clusters", {}))
        stream = source.state.spec.stream
        if clusters == self._clusters.get(stream, {}):
            return
        self._clusters[stream] = clusters
        source.labeller = labeller = Labeller(source.state.labels, clusters)
        if not source.state.labels:
            source.state.gallery.relabel(labeller.of_shot)


def _read(path: Path, kind: type[Model]) -> Model:
    """A file of the run's folder. Raises ConfigError."""
    try:
        return kind.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    except ValidationError as error:  # its own text shows what it read, the token too
        places = [".".join(map(str, problem["loc"])) + ": " + problem["msg"] for problem in error.errors()]
        raise _unreadable(path, "; ".join(places[:10])) from None


def _unreadable(path: Path, problem: str) -> ConfigError:
    return ConfigError(f"{path} cannot be read: {problem}; the run writes it, so start the page by the run")


def _source(state: StreamState, context: "zmq.Context[zmq.Socket[bytes]]") -> _Source:
    """Subscribe and map; what cannot be is said in the state."""
    arrivals: Arrivals | None = None
    looks: Looks | None = None
    endpoint = state.spec.settings.publish.results
    try:
        if endpoint.endswith(":0"):
            raise ConfigError(
                f"results are published on a port that nobody knows: {endpoint}; give its number"
            )
        arrivals = Arrivals(state.spec, state.columns, state.route_names, context)
    except ConfigError as error:
        state.linked(results=str(error))
    try:
        looks = Looks(state.spec)
    except ConfigError as error:
        state.linked(pictures=str(error))
    return _Source(state, arrivals, looks, Labeller(state.labels))


def _turn(source: _Source) -> None:
    """Everything that came to one stream since the last one."""
    state, now_s = source.state, time.time()
    if source.arrivals is not None:
        events = source.arrivals.take()
        if events is not None:
            state.came()
            state.history.add(events, now_s)
            state.sample.add(events, now_s)
        state.linked(missed_blocks=source.arrivals.missed_blocks, bad_messages=source.arrivals.bad_messages)
    state.history.tick(now_s)
    state.gallery.tick(now_s)
    if source.looks is not None:
        source.looks.look(state.gallery, source.labeller, now_s)


def _status(report: Mapping[str, Any], stream: str) -> Status:
    """One stream's part of the answer. What is missing is empty: an older run may not say it."""
    parts = {"streams", "steering", "stages"}
    return Status(
        report=report.get("streams", {}).get(stream, {}),
        steering=report.get("steering", {}).get(stream, {}),
        stages=report.get("stages", {}).get(stream, {}),
        run={name: value for name, value in report.items() if name not in parts},
    )
