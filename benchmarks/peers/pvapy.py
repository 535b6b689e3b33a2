"""The contender pvapy: pvapy-hpc-consumer with the model in its processor, one way, from our source.

One way: the time ends when process() has the answer. There is no subscriber behind it, as there is for all
others; a frame past its queue is dropped in silence and shows as missing.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.config import free_endpoint
from benchmarks.helper import Helper
from benchmarks.peers.contender import SPARE_S, Contender, Measure, Setting
from benchmarks.peers.environments import python_of
from benchmarks.peers.processes import Tree
from benchmarks.peers.rows import Outcome, Row

CHANNEL: Final = "bench:Image"
PROCESSOR: Final = Path(__file__).parent / "servers" / "pvapy_processor.py"
# Of updates in front of the consumer: more than any row has under way.
QUEUE: Final = 256
READY_S: Final = 60.0
# Before the measurement: caches, the first batch of a network.
FIRST_S: Final = 0.3


class _Pvapy:
    """A source and a consumer for one network and one kind of events, started when a row needs them."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._stack = setting, ExitStack()
        self._now: tuple[str, str] | None = None

    def measure(self, row: Row) -> Outcome:
        if self._now != (row.network, row.events):
            self.close()
            self._now = (row.network, row.events)
            self._source, self._tree = self._start(row)
        self._ask(row, FIRST_S)
        before_s = self._tree.cpu_s()
        answer = self._ask(row, self._setting.seconds)
        return Outcome.of(answer, self._tree.cpu_s() - before_s, answer["latencies_s"])

    def _ask(self, row: Row, seconds: float) -> dict[str, Any]:
        return self._source.ask({"row": asdict(row), "seconds": seconds}, seconds + SPARE_S)

    def _start(self, row: Row) -> tuple[Helper, Tree]:
        python, environment = str(python_of("pvapy")), _loopback()
        notebook = str(self._setting.folder / "notebook")
        options = {"folder": str(self._setting.folder), "channel": CHANNEL, "notebook": notebook}
        how = {"python": python, "module": "benchmarks.peers.servers.pvapy_source", "options": options}
        source = Helper("benchmarks.peers.within", how | {"environment": environment})
        self._stack.enter_context(source)
        model = {"network": row.network, "events": row.events, "mode": self._setting.mode}
        argv = [python, "-m", "pvapy.cli.hpcConsumer", "--input-channel", CHANNEL]
        argv += ["--processor-file", str(PROCESSOR), "--processor-class", "Answers"]
        argv += ["--processor-args", json.dumps(model | {"notebook": notebook})]
        argv += ["--server-queue-size", str(QUEUE), "--disable-curses"]
        tree = self._stack.enter_context(Tree(argv, environment))
        tree.wait(lambda: bool(source.ask({"row": asdict(row), "seconds": FIRST_S})["events"]), READY_S)
        return source, tree

    def close(self) -> None:
        self._stack.close()
        self._now = None


def _loopback() -> dict[str, str]:
    """pvAccess on 127.0.0.1 and nowhere else, on ports of its own."""
    ports = [free_endpoint().rpartition(":")[2] for _ in range(2)]
    return {
        "EPICS_PVA_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_SERVER_PORT": ports[0],
        "EPICS_PVA_BROADCAST_PORT": ports[1],
    }


@contextmanager
def _pvapy(setting: Setting) -> Iterator[Measure]:
    pvapy = _Pvapy(setting)
    try:
        yield pvapy.measure
    finally:
        pvapy.close()


PVAPY: Final = Contender(
    "pvapy consumer, one way",
    "until process() has the answer; no batches; answers neither counted nor published",
    _pvapy,
    lambda _: True,
    partial(python_of, "pvapy"),
)
