"""A subscriber of a stream's answers: notes when each came, and compares all of them afterwards.

    {"row": {...}, "first": train id, "sent": trains, "limit_s": s}

waits for the last verdict and the last answer of these trains, and is answered with wrong and missing events
and the moment (CLOCK_MONOTONIC, s) of each train's verdict. It reads from its start on: nothing is lost
between two requests. `results` None: the verdicts carry the answers (the loop of `servers.karabo`).
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zmq

from benchmarks.helper import options, say
from benchmarks.peers.inputs import Array, Expected, load, unpack
from benchmarks.peers.rows import Row
from streamer.results import Block, decode

# Messages that wait for this process: minutes of them.
HWM: Final = 1_000_000
WAIT_MS: Final = 100
Parts = list[bytes]
Ids = npt.NDArray[np.uint64]


@dataclass
class Heard:
    """What came since the last request, undecoded."""

    verdicts: list[tuple[float, Parts]] = field(default_factory=list)
    results: list[Parts] = field(default_factory=list)


class Listener:
    def __init__(self, folder: str, verdicts: str, results: str | None) -> None:
        self._folder, self._own = Path(folder), results is None
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._verdicts = _subscribe(context, verdicts)
        self._results = _subscribe(context, results) if results else None
        self._poller = zmq.Poller()
        for socket in filter(None, (self._verdicts, self._results)):
            self._poller.register(socket, zmq.POLLIN)
        self._heard = Heard()

    def run(self) -> None:
        """Until the harness closes the pipe."""
        self._poller.register(sys.stdin, zmq.POLLIN)
        say({"ready": True})
        while True:
            self._read(WAIT_MS)
            if sys.stdin.fileno() in dict(self._poller.poll(0)):
                line = sys.stdin.readline()
                if not line:
                    return
                say(self._answer(json.loads(line)))

    def _read(self, wait_ms: int) -> bool:
        """All that is there; whether anything was."""
        ready = dict(self._poller.poll(wait_ms))
        if self._verdicts in ready:
            self._heard.verdicts.append((time.monotonic(), self._verdicts.recv_multipart()))
        if self._results is not None and self._results in ready:
            self._heard.results.append(self._results.recv_multipart())
        return self._verdicts in ready or self._results in ready

    def _answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """Listen on until everything has come, or nothing for a moment."""
        give_up_s = time.monotonic() + request["limit_s"]
        while (self._read(WAIT_MS) or self._owed(request["sent"])) and time.monotonic() < give_up_s:
            pass
        heard, self._heard = self._heard, Heard()
        row = Row(**request["row"])
        return self._compare(heard, row, request["first"], request["sent"])

    def _owed(self, sent: int) -> bool:
        """The loop's answers to come: one message a train. Ours have all left when we are asked."""
        return self._own and len(self._heard.verdicts) < sent

    def _compare(self, heard: Heard, row: Row, first: int, sent: int) -> Mapping[str, Any]:
        expected = Expected.read(self._folder, row.network, row.events)
        count = len(load(self._folder, row.events))
        moments: dict[int, float] = {}
        verdicts = np.zeros((sent, row.per_request), np.int64)
        answers = np.zeros_like(verdicts)
        wrong = 0
        for at_s, parts in heard.verdicts:
            train, pulse, _ = self._decoded(parts, row)
            verdicts[train - first, pulse] += 1
            moments |= dict.fromkeys(train.tolist(), at_s)
        carriers = [parts for _, parts in heard.verdicts] if self._own else heard.results
        for parts in carriers:
            train, pulse, packed = self._decoded(parts, row)
            answers[train - first, pulse] += 1
            if packed.shape[1]:
                wrong += expected.wrong(((train - first) * row.per_request + pulse) % count, packed)
        once = (verdicts == 1) & (answers == 1)
        seen = sorted(moments.items())
        return {"wrong": wrong, "missing": int(np.count_nonzero(~once)), "seen": seen}

    def _decoded(self, parts: Parts, row: Row) -> tuple[Array, Array, Array]:
        """Train ids, pulse ids, packed answers [n, R]; R is 0 where the stream has no network."""
        if self._own:
            packed = unpack(parts[1], row.per_request)
            train = np.full(row.per_request, int.from_bytes(parts[0], "little"), np.int64)
            return train, np.arange(row.per_request), packed
        block = decode(parts)
        train, pulse = (block.column(name).astype(np.int64) for name in ("train_id", "pulse_id"))
        return train, pulse, _packed(block)


def _packed(block: Block) -> Array:
    if "p" not in block.columns:
        return np.empty((len(block), 0), np.float32)
    labels = block.column("labels").astype(np.float32)
    return np.concatenate([block.column("p"), labels[:, None]], axis=1)


def _subscribe(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.SUB)
    socket.set(zmq.RCVHWM, HWM)
    socket.set(zmq.SUBSCRIBE, b"")
    socket.connect(endpoint)
    return socket


if __name__ == "__main__":
    Listener(**options()).run()
