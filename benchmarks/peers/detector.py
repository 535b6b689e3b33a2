"""A detector that pushes the events as trains of Karabo Bridge 2.2, from its own process.

`{"row": {...}, "seconds": s}` sends as fast as they are taken, or on the row's clock, and is answered with
the first train id, how many were sent, and on a clock the moment (CLOCK_MONOTONIC, s) when each was due.
Messages are built before; only the train id is written anew.
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
        # As of `benchmarks.sender`: a camera sends no axis of pulses and no ids of them.
        arrays = {KEY: payload, PULSE_KEY: pulse_ids} if len(payload) > 1 else {KEY: payload[0]}
        parts = encode(
            {SOURCE: arrays},
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

    def __init__(self, folder: str, row: dict[str, Any]) -> None:
        self._next = FIRST_TRAIN_ID
        self._trains = [Train(payload) for payload in payloads(Path(folder), Row(**row))]
        self._socket = zmq.Context().socket(zmq.PUSH)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.IMMEDIATE, 1)
        self._socket.set(zmq.SNDHWM, max(2, QUEUE_BYTES // self._trains[0].size_bytes))
        self._socket.set(zmq.SNDTIMEO, 60_000)  # ms; a loop that begins to read imports torch before
        self._socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        row = Row(**request["row"])
        first, due_s = self._next, []
        if row.open:
            due_s = self._paced(row.rate_hz, round(row.rate_hz * request["seconds"]))
        else:
            self._full(time.monotonic() + request["seconds"])
        return {"first": first, "sent": self._next - first, "due_s": due_s}

    def _full(self, end_s: float) -> None:
        step = 0
        while time.monotonic() < end_s:
            self._send(step)
            step += 1

    def _paced(self, rate_hz: float, count: int) -> list[float]:
        start_s = time.monotonic() + 0.01
        due_s = [start_s + step / rate_hz for step in range(count)]
        for step, at_s in enumerate(due_s):
            time.sleep(max(0.0, at_s - time.monotonic()))
            self._send(step)
        return due_s

    def _send(self, step: int) -> None:
        self._trains[step % len(self._trains)].send(self._socket, self._next)
        self._next += 1


if __name__ == "__main__":
    detector = Detector(**options())
    serve(detector.answer, {"endpoint": detector.endpoint})
