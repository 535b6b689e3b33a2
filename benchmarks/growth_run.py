"""A pipeline of several streams under measurement: its processes, its ledgers added up.

`running.Running` is the same for one stream. Owns the configuration of a point of `growth`, the window
between two looks, and the check at the end; knows nothing of axes and pictures.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.config import Load, run_config
from benchmarks.helper import BenchmarkError, cpu_s, wait_until
from benchmarks.running import LIMIT_S, Window
from streamer.config import RunConfig
from streamer.ledger import StreamLedger
from streamer.pipeline import STAGES, Pipeline

RING_BYTES: Final = 64 << 20
# `one_in` that draws none of any number of events, by the same way as the others.
NONE_OF: Final = 2**62


@dataclass(frozen=True)
class Point:
    """What is measured at one place of an axis."""

    load: Load
    streams: int = 1
    subscribers: int = 0
    """SUB sockets at the results of the first stream."""
    one_in: int = 100
    """One frame in so many is stored; NONE_OF: no frame."""

    def config(self, endpoints: list[str], folder: Path) -> RunConfig:
        """`endpoints`: the source of each stream."""
        route = [{"name": "sample", "one_in": self.one_in}]
        more: dict[str, Any] = {"ring_bytes": RING_BYTES, "route": route}
        runs = [run_config(self.load, endpoint, folder, **more).model_dump() for endpoint in endpoints]
        streams = [run["stream"][0] | {"name": f"bench{i}"} for i, run in enumerate(runs)]
        return RunConfig.model_validate(runs[0] | {"stream": streams})

    @property
    def ring_events(self) -> int:
        """Events of all streams that go once round their rings."""
        return self.streams * self.load.messages_in(RING_BYTES) * self.load.pulses


class Streams:
    """A started pipeline. Leaving stops it and checks its ledgers."""

    def __init__(self, point: Point, endpoints: list[str]) -> None:
        self._exit = ExitStack()
        folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._log = self._exit.enter_context((folder / "log").open("w+b"))
        self._config = point.config(endpoints, folder / "out")
        self._pipeline = Pipeline(self._config, self._log)

    def __enter__(self) -> Self:
        try:
            self._exit.enter_context(self._pipeline)
            self._pipeline.start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._exit:
            self._pipeline.stop()
            if error is None:
                self._check()

    @property
    def results(self) -> str:
        """Where the first stream publishes."""
        return str(self._config.stream[0].publish.results)

    def measure(self, seconds: float, warm_events: int) -> Window:
        """Wait for `warm_events`, then count for `seconds`."""
        self._wait("events at the end of the pipelines", lambda: self._outcomes() > warm_events)
        events, cpu, start_s = self._outcomes(), self._cpu(), time.perf_counter()
        time.sleep(seconds)
        end_events, end_cpu, end_s = self._outcomes(), self._cpu(), time.perf_counter()
        return Window(end_events - events, end_s - start_s, {s: end_cpu[s] - cpu[s] for s in STAGES})

    def drain(self) -> None:
        """Wait until every event has had its outcome; the senders must stand still."""
        self._wait("the last events", self._idle)

    def _ledgers(self) -> list[StreamLedger]:
        return list(self._pipeline.ledgers().values())

    def _outcomes(self) -> int:
        return sum(ledger.outcomes for ledger in self._ledgers())

    def _cpu(self) -> dict[str, float]:
        """Processor time by stage, s, of all streams together."""
        streams = self._pipeline.streams.values()
        return {stage: sum(cpu_s(stream.children[stage].pid) for stream in streams) for stage in STAGES}

    def _idle(self) -> bool:
        before = [ledger.messages for ledger in self._ledgers()]
        time.sleep(0.05)  # longer than a message takes from the kernel to the ledger
        after = self._ledgers()
        return [ledger.messages for ledger in after] == before and not any(s.in_flight for s in after)

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        try:
            wait_until(what, done, LIMIT_S)
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}; {self._ledgers()}\n{self._text()}") from error

    def _text(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _check(self) -> None:
        """Raises BenchmarkError unless every event was received, classified and counted."""
        for ledger in self._ledgers():
            wrong = sum(map(sum, (c.values() for c in (ledger.failopen, ledger.shed, ledger.rejected))))
            if not ledger.closed or wrong or ledger.duplicates or ledger.out_of_order:
                raise BenchmarkError(f"a pipeline did not do what is measured: {ledger}\n{self._text()}")
