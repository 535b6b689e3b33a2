"""A detector that pushes the events as trains of Karabo Bridge 2.2, from its own process.

    {"row": {...}, "seconds": s}               as fast as they are taken
    {"row": {...}, "seconds": s, "rate_hz": r}  on a clock

is answered with the first train id, how many were sent, and on a clock the moment (CLOCK_MONOTONIC, s) when
each was due. Messages are built before; only the train id is written anew.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import zmq

from benchmarks.helper import options, serve
from benchmarks.peers.inputs import Array, payloads
from benchmarks.peers.rows import Row
from benchmarks.sender import FIRST_TRAIN_ID, KEY, PULSE_KEY, SOURCE
from streamer.facility.stamp import stamp
from streamer.wire.karabo_bridge import encode

# What may wait in front of the wire: enough that it never runs dry, and no second of a network's work.
QUEUE_BYTES: Final = 2 << 20
MARK: Final = b"\xce"  # msgpack: a big-endian number of four bytes follows


class Train:
    """One payload as a message whose train id is still open."""

    def __init__(self, payload: Array) -> None:
        self.size_bytes = payload.nbytes
        pulse_ids = np.arange(len(payload), dtype=np.uint64)
        parts = encode(
            {SOURCE: {KEY: payload, PULSE_KEY: pulse_ids}},
            {SOURCE: stamp(SOURCE, FIRST_TRAIN_ID, 1_700_000_000_000_000_000)},
        )
        self._before, _, self._after = bytes(parts[0]).partition(MARK + FIRST_TRAIN_ID.to_bytes(4, "big"))
        # A frame of ZeroMQ is a counted reference: sending it again copies nothing.
        self._rest = [zmq.Frame(bytes(part)) for part in parts[1:]]

    def send(self, socket: "zmq.Socket[bytes]", train_id: int) -> None:
        """zmq.Again when the queue is full for longer than the socket waits."""
        socket.send(self._before + MARK + train_id.to_bytes(4, "big") + self._after, zmq.SNDMORE)
        for part in self._rest[:-1]:
            socket.send(part, zmq.SNDMORE, copy=False)
        socket.send(self._rest[-1], copy=False)


class Detector:
    """One bound PUSH socket. Train ids go on from request to request, each starting at the first payload."""

    def __init__(self, folder: str) -> None:
        self._folder, self._next = Path(folder), FIRST_TRAIN_ID
        self._trains: dict[tuple[str, int], list[Train]] = {}
        self._socket = zmq.Context().socket(zmq.PUSH)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.IMMEDIATE, 1)
        self._socket.set(zmq.SNDTIMEO, 60_000)  # ms; a loop that begins to read imports torch before
        self._socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        row = Row(**request["row"])
        trains = self._of(row)
        self._socket.set(zmq.SNDHWM, max(2, QUEUE_BYTES // trains[0].size_bytes))
        first, due_s = self._next, []
        if row.open:
            due_s = self._paced(trains, row.rate_hz, round(row.rate_hz * request["seconds"]))
        else:
            self._full(trains, time.monotonic() + request["seconds"])
        return {"first": first, "sent": self._next - first, "due_s": due_s}

    def _of(self, row: Row) -> list[Train]:
        key = (row.events, row.per_request)
        if key not in self._trains:
            self._trains[key] = [Train(payload) for payload in payloads(self._folder, row)]
        return self._trains[key]

    def _full(self, trains: list[Train], end_s: float) -> None:
        step = 0
        while time.monotonic() < end_s:
            self._send(trains, step)
            step += 1

    def _paced(self, trains: list[Train], rate_hz: float, count: int) -> list[float]:
        start_s = time.monotonic() + 0.01
        due_s = [start_s + step / rate_hz for step in range(count)]
        for step, at_s in enumerate(due_s):
            time.sleep(max(0.0, at_s - time.monotonic()))
            self._send(trains, step)
        return due_s

    def _send(self, trains: list[Train], step: int) -> None:
        trains[step % len(trains)].send(self._socket, self._next)
        self._next += 1


if __name__ == "__main__":
    detector = Detector(**options())
    serve(detector.answer, {"endpoint": detector.endpoint})
