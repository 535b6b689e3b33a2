"""A whole pipeline under measurement: its real processes, its own ledger as the counter.

Owns the start, the window between two looks at the ledger and at the processor time of the stages, and the
check at the end that no event was lost, shed or passed on unclassified.
"""

import re
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from benchmarks.config import Load, run_config
from benchmarks.helper import BenchmarkError, cpu_s, wait_until
from streamer.config import RunConfig
from streamer.ledger import StreamLedger
from streamer.pipeline import STAGES, Pipeline

# For a ring full of events on a busy machine.
LIMIT_S: Final = 60.0


@dataclass(frozen=True)
class Window:
    """What a pipeline did between two looks."""

    events: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    def cpu_us(self, *stages: str) -> float:
        """Processor time per event, us, of these stages (none: of all)."""
        return 1e6 * sum(self.cpu_s[stage] for stage in stages or STAGES) / max(1, self.events)


class Started:
    """A started pipeline of one or several streams. Leaving stops it and checks its ledgers."""

    def __init__(self, make: Callable[[Path], RunConfig]) -> None:
        """`make` gives the configuration whose output goes to a folder."""
        self._exit = ExitStack()
        folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._log = self._exit.enter_context((folder / "log").open("w+b"))
        self._config = make(folder / "out")
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

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def measure(self, seconds: float, warm_events: int) -> Window:
        """Wait for `warm_events`, then count for `seconds`."""
        self._wait("events at the end of the pipeline", lambda: self._outcomes() > warm_events)
        events, cpu, start_s = self._outcomes(), self._cpu(), time.perf_counter()
        time.sleep(seconds)
        end_events, end_cpu, end_s = self._outcomes(), self._cpu(), time.perf_counter()
        used = {stage: end_cpu[stage] - cpu[stage] for stage in STAGES}
        return Window(end_events - events, end_s - start_s, used)

    def drain(self) -> None:
        """Wait until every event has had its outcome; the senders must stand still."""
        self._wait("the last events", self._idle)

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        try:
            wait_until(what, done, LIMIT_S)
        except BenchmarkError as error:
            rings = [stream.shared.ring.state for stream in self._pipeline.streams.values()]
            states = [np.bincount(state, minlength=5).tolist() for state in rings]
            raise BenchmarkError(f"{error}; slots {states}; {self._ledgers()}\n{self.log()}") from error

    def _ledgers(self) -> list[StreamLedger]:
        return list(self._pipeline.ledgers().values())

    def _outcomes(self) -> int:
        return sum(ledger.outcomes for ledger in self._ledgers())

    def _idle(self) -> bool:
        before = [ledger.messages for ledger in self._ledgers()]
        time.sleep(0.05)  # longer than a message takes from the kernel to the ledger
        after = self._ledgers()
        return [ledger.messages for ledger in after] == before and not any(s.in_flight for s in after)

    def _cpu(self) -> dict[str, float]:
        """Processor time by stage, s, of all streams together."""
        streams = self._pipeline.streams.values()
        return {stage: sum(cpu_s(stream.children[stage].pid) for stream in streams) for stage in STAGES}

    def _check(self) -> None:
        """Raises BenchmarkError unless every event was received, classified and counted."""
        for ledger in self._ledgers():
            wrong = sum(ledger.failopen.values()) + sum(ledger.shed.values()) + sum(ledger.rejected.values())
            if not ledger.closed or wrong or ledger.duplicates or ledger.out_of_order:
                raise BenchmarkError(f"the pipeline did not do what is measured: {ledger}\n{self.log()}")


class Running(Started):
    """A started pipeline of one stream."""

    def __init__(self, load: Load, endpoint: str, bundles: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(lambda folder: run_config(load, endpoint, folder, bundles, **more))
        self.settings, self._pulses = self._config.stream[0], load.pulses

    def generate(self, seconds: float) -> None:
        """Before the start: events come from memory for so long, and not from the endpoint."""
        child = self._pipeline.streams["bench"].children["ingest"]
        python, _, _, *arguments = child.argv
        child.argv = [python, "-m", "benchmarks.generated", *arguments, str(seconds), str(self._pulses)]

    def ledger(self) -> StreamLedger:
        return self._pipeline.ledgers()["bench"]

    @property
    def verdicts(self) -> str:
        return str(self.settings.publish.verdicts)

    @property
    def mode(self) -> str | None:
        """How inference runs its networks here, as it says in its log; None for no network."""
        found = re.search(r"chosen: (.+)", self.log())
        return found[1].strip() if found else None
