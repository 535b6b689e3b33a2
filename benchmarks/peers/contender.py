"""What a contender is to the harness: something that can be started, asked for rows, and ended."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.helper import BenchmarkError, Helper
from benchmarks.peers.processes import Tree
from benchmarks.peers.rows import Outcome, Row

# Over the measuring time: the requests that are late, the comparison of the answers.
SPARE_S: Final = 30.0


@dataclass(frozen=True)
class Setting:
    """What all contenders of a run share."""

    folder: Path
    """Inputs and right answers."""
    mode: str | None
    """How our pipeline runs the network here."""
    seconds: float
    warm_s: float


Measure = Callable[[Row], Outcome]


@dataclass(frozen=True)
class Contender:
    """`start` gives what measures a row; leaving it ends every process. `note` stands beside its lines."""

    name: str
    note: str
    start: Callable[[Setting], AbstractContextManager[Measure]]
    runs: Callable[[Row], bool] = lambda row: row.events == "frames"
    install: Callable[[], Any] = lambda: None


def ask(client: Helper, tree: Tree, row: Row, where: Mapping[str, Any], setting: Setting) -> Outcome:
    """One row by the client that sends requests. Raises BenchmarkError when nothing was answered."""
    request = {"where": dict(where), "row": asdict(row), "seconds": setting.seconds, "warm_s": setting.warm_s}
    before_s = tree.cpu_s()
    answer = client.ask(request, setting.seconds + setting.warm_s + SPARE_S)
    used_s = tree.cpu_s() - before_s
    if answer["total"] <= answer["missing"]:
        raise BenchmarkError(f"not one of {answer['total']} events was answered: {tree.log()}")
    return Outcome.of(answer, used_s, answer.get("latencies_s", ()))
