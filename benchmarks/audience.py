"""python -m benchmarks.audience: does it matter for a verdict who looks?

--turns N        how often every audience comes (5)
--seconds S      listening time of one audience in one turn (6)
--output FOLDER  where the file goes (benchmarks/results)

One pipeline with the shipped classifier at 120 Hz, a verdict subscriber that takes the time of each verdict,
and beside it, one after the other: nobody; a subscriber that is stopped (SIGSTOP) and one that reads ten
blocks a second; 200 subscribers that read; the live page's process with no page open, and with ten. The
audience runs at the lowest priority, as what stands on another machine takes no processor time here. Every
turn compares with nobody in the same turn: the machine's own noise is in both.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.config import Load, run_config
from benchmarks.helper import ROOT, BenchmarkError, Helper, wait_until
from benchmarks.latency import Rhythm, send, warm
from benchmarks.running import Started
from benchmarks.table import Line, header, measured, ratio, write
from models.shipped import find_bundle
from streamer.config import RunConfig
from streamer.sockets import free_port

LOAD: Final = Load("shots", (128, 128), "uint16", 1)
RATE_HZ: Final = 120.0
READERS: Final = 200
PAGES: Final = 10
# Ten blocks a second are fewer than come: its queue fills, and then it loses what is new.
SLOW_PAUSE_S: Final = 0.1
LOWEST_PRIORITY: Final = 19
# Connections of many readers, and the first documents of pages.
SETTLE_S: Final = 2.0

Audience = Callable[["Watched"], AbstractContextManager[object]]


class Watched(Started):
    """A pipeline that can be looked at; `page` serves the live page."""

    def __init__(self, endpoint: str, page: bool) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._page = page
        super().__init__(lambda folder: self._configured(endpoint, folder))

    def _configured(self, endpoint: str, folder: Path) -> RunConfig:
        more: dict[str, Any] = {"threads": 1, "device": "cpu"}
        config = run_config(LOAD, endpoint, folder, (str(find_bundle("droplet_cnn")),), **more)
        served = config.dashboard.model_copy(
            update={"serve": self._page, "port": int(self.url.rpartition(":")[2])}
        )
        return config.model_copy(update={"dashboard": served})

    @property
    def results(self) -> str:
        return self._config.stream[0].publish.results

    @property
    def verdicts(self) -> str:
        return self._config.stream[0].publish.verdicts

    def page_pid(self) -> int:
        """Of the live page's process, when it serves."""
        page = self._pipeline.dashboard
        if page is None:
            raise BenchmarkError("the live page is not served: is bokeh installed?")
        wait_until("the live page", lambda: page.up, 60.0)
        return page.pid


# --- who looks ----------------------------------------------------------------------------------------


@contextmanager
def nobody(_: Watched) -> Iterator[None]:
    yield


@contextmanager
def stopped_and_slow(pipeline: Watched) -> Iterator[None]:
    both = {"sockets": 2, "endpoint": pipeline.results, "decode": True}
    with _quiet("benchmarks.readers", both) as stopped, ExitStack() as stack:
        stack.callback(os.kill, stopped.pid, signal.SIGCONT)
        os.kill(stopped.pid, signal.SIGSTOP)
        slow = {"endpoint": pipeline.results, "sockets": 1, "decode": True, "pause_s": SLOW_PAUSE_S}
        stack.enter_context(_quiet("benchmarks.readers", slow))
        yield


@contextmanager
def many(pipeline: Watched) -> Iterator[None]:
    crowd = {"sockets": READERS, "endpoint": pipeline.results, "decode": False}
    with _quiet("benchmarks.readers", crowd) as readers:
        yield
        got = readers.ask({})["readers"]
        if not all(reader["blocks"] for reader in got):
            raise BenchmarkError("a subscriber of the crowd got nothing: nobody was looking")


@contextmanager
def pages(pipeline: Watched) -> Iterator[None]:
    with _quiet("benchmarks.pages", {"url": pipeline.url, "pages": PAGES}) as opened:
        yield
        got = opened.ask({})
        if got["open"] < PAGES or not all(got["messages"]):
            raise BenchmarkError(f"pages were closed or stood still: {got}")


@contextmanager
def _quiet(module: str, options: dict[str, Any]) -> Iterator[Helper]:
    with Helper(module, options) as helper:
        os.setpriority(os.PRIO_PROCESS, helper.pid, LOWEST_PRIORITY)
        time.sleep(SETTLE_S)
        yield helper


# Without the live page's process, and with it.
PLAIN: Final[dict[str, Audience]] = {
    "nobody": nobody,
    "one stopped, one slow": stopped_and_slow,
    f"{READERS} subscribers": many,
}
PAGED: Final[dict[str, Audience]] = {"live page, no tab": nobody, f"live page, {PAGES} tabs": pages}


# --- what it does to the verdicts ---------------------------------------------------------------------


def turn(seconds: float) -> dict[str, list[float]]:
    """Seconds from giving a train away to its verdict, of every train, by audience."""
    found: dict[str, list[float]] = {}
    with Helper("benchmarks.sender", LOAD.sender) as sender:
        for audiences, page in ((PLAIN, False), (PAGED, True)):
            with Watched(sender.hello["endpoint"], page) as pipeline:
                if page:
                    pipeline.page_pid()
                for name, audience in audiences.items():
                    found[name] = _listen(sender, pipeline, audience, seconds)
    return found


def _listen(sender: Helper, pipeline: Watched, audience: Audience, seconds: float) -> list[float]:
    rhythm = Rhythm(1, RATE_HZ, 1.0)
    with Helper("benchmarks.subscriber", {"endpoint": pipeline.verdicts}) as subscriber:
        warm(rhythm, sender, subscriber)
        with audience(pipeline):
            warm(rhythm, sender, subscriber)
            return send(rhythm, sender, subscriber, round(RATE_HZ * seconds))[0]


def lines(turns: Sequence[dict[str, list[float]]]) -> Iterator[Line]:
    """p99 of each turn, and how much more it is than nobody's in the same turn."""
    for name in turns[0]:
        p50, p99 = ([float(np.quantile(t[name], q)) * 1e3 for t in turns] for q in (0.5, 0.99))
        base_50, base_99 = ([float(np.quantile(t["nobody"], q)) * 1e3 for t in turns] for q in (0.5, 0.99))
        values = {"p50_ms": float(np.median(p50)), "p99_ratio": ratio(p99, base_99)}
        values["p50_ratio"] = ratio(p50, base_50)
        note = f"p50 {values['p50_ms']:.2f} ms; beside nobody in the same turn: "
        note += f"p99 x {values['p99_ratio']:.3f}, p50 x {values['p50_ratio']:.3f} (medians)"
        yield Line("audience", name, "ms (p99)", measured(p99), note, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    turns = [turn(options.seconds) for _ in range(options.turns)]
    found = list(lines(turns))
    about = header() | {"turns": options.turns, "seconds": options.seconds, "rate_hz": RATE_HZ}
    for line in found:
        print(f"{line.contender:26} p99 {line.measured.median:8.2f} ms   {line.note}")
    print(f"written to {write(options.output, '-audience', about, found)}")


if __name__ == "__main__":
    main()
