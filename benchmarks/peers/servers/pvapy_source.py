"""pvapy: the source, a PvaServer that updates an NTNDArray as pvapy-ad-sim-server does, from prebuilt frames.

A train is stacked into one image. Only the id is new in each: the two time stamps cost this side ten
microseconds, and nobody reads them. Its server has no back-pressure, so this one looks at the consumer's
notebook and keeps as many updates under way as a row says; on a clock it sends and looks at the end.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pvaccess as pva  # type: ignore[import-not-found]  # only in its own environment
from pvapy.utility.adImageUtility import AdImageUtility  # type: ignore[import-not-found]  # the same

from benchmarks.helper import options, serve
from benchmarks.peers.inputs import Expected, payloads
from benchmarks.peers.notebook import LAST, SEEN, Notebook
from benchmarks.peers.rows import Row

# Shorter than a millisecond of the fastest row, longer than a spin that would take the consumer's core.
LOOK_S: Final = 50e-6
# Without news for so long, what is under way is lost.
STALL_S: Final = 1.0


class Source:
    def __init__(self, folder: str, channel: str, notebook: str) -> None:
        self._folder, self._channel = Path(folder), channel
        self._notebook = Notebook(Path(notebook), new=True)
        self._server, self._next = pva.PvaServer(), 1
        self._images: list[Any] = []
        blank = AdImageUtility.generateNtNdArray2D(0, np.zeros((128, 128), np.uint16))
        self._server.addRecord(channel, blank, None)

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        row = Row(**request["row"])
        bodies = payloads(self._folder, row)
        flat = [body.reshape(-1, body.shape[-1]) for body in bodies]
        self._images = [AdImageUtility.generateNtNdArray2D(0, image) for image in flat]
        expected = Expected.read(self._folder, row.network, row.events)
        first = self._next
        room = self._notebook.begin(first, row.per_request * expected.packed.shape[1])
        if row.open:
            due_s = self._paced(row.rate_hz, round(row.rate_hz * request["seconds"]))
        else:
            due_s = self._full(row.in_flight, request["seconds"], room)
        self._settle()
        return self._checked(row, expected, due_s)

    def _send(self, index: int) -> None:
        image = self._images[index % len(self._images)]
        image["uniqueId"] = self._next
        self._server.updateUnchecked(self._channel, image)
        self._next += 1

    def _full(self, in_flight: int, seconds: float, room: int) -> list[float]:
        sent: list[float] = []
        start_s = time.monotonic()
        while time.monotonic() < start_s + seconds and len(sent) < room:
            if not self._wait_below(in_flight):
                break
            sent.append(time.monotonic())
            self._send(len(sent) - 1)
        return sent

    def _paced(self, rate_hz: float, count: int) -> list[float]:
        start_s = time.monotonic() + 0.01
        due_s = [start_s + step / rate_hz for step in range(count)]
        for step, at_s in enumerate(due_s):
            time.sleep(max(0.0, at_s - time.monotonic()))
            self._send(step)
        return due_s

    def _wait_below(self, in_flight: int) -> bool:
        """Until fewer are under way; False when the consumer makes no progress."""
        give_up_s = time.monotonic() + STALL_S
        while self._next - 1 - int(self._notebook.head[LAST]) >= in_flight:
            if time.monotonic() > give_up_s:
                return False
            time.sleep(LOOK_S)  # a look at another process, bounded above
        return True

    def _settle(self) -> None:
        """As long as answers come."""
        before = -1
        while not self._wait_below(1) and before != int(self._notebook.head[SEEN]):
            before = int(self._notebook.head[SEEN])

    def _checked(self, row: Row, expected: Expected, due_s: list[float]) -> Mapping[str, Any]:
        moments, answers = self._notebook.read(len(due_s))
        came = np.flatnonzero(moments)
        n = row.per_request
        number = (came[:, None] * n + np.arange(n)).reshape(-1) % len(expected.packed)
        wrong = expected.wrong(number, answers[came].reshape(-1, expected.packed.shape[1]))
        times = moments[came]
        return {
            "events": len(came) * n,
            "seconds": float(times.max() - times.min()) if len(times) > 1 else 1.0,
            "total": len(due_s) * n,
            "wrong": wrong,
            "missing": (len(due_s) - len(came)) * n,
            "latencies_s": (times - np.array(due_s)[came]).tolist() if row.open else [],
        }


if __name__ == "__main__":
    source = Source(**options())
    serve(source.answer, {"ready": True})
