"""A detector that is never the slow one: trains built before the start, sent from their own process.

    python -m benchmarks.sender '{"shape": [128, 128], "dtype": "uint16", "pulses": 32}'

Karabo Bridge 2.2 over PUSH, one source with image.data, and image.pulseId where a train has several pulses (a
camera sends none). Only the four bytes of the train id change between messages; the frames are a bank of 64
different ones, as in the published measurement of the peers, and are never copied here. Requests:
`{"trains": n, "rate_hz": r}` sends n trains on a clock, and is answered with the moment each was given to
ZeroMQ, with "pulses" in trains of another length; `{"trains": null}` sends as fast as they are taken, until
the process is stopped.
"""

import time
from collections.abc import Mapping
from itertools import count
from typing import Any, Final

import numpy as np
import zmq

from benchmarks.helper import options, say, serve
from streamer.facility.stamp import stamp
from streamer.wire.karabo_bridge import encode

SOURCE: Final = "BENCH/DET/CAM:output"
KEY: Final = "image.data"
PULSE_KEY: Final = "image.pulseId"
# In 2**31 .. 2**32 every train id has the same five bytes of msgpack: a mark and a big-endian number.
FIRST_TRAIN_ID: Final = 2**31
# Different frames that are sent in turn. More would measure how fast the sender reads its own memory; data
# of a detector come from a network card, which writes them to the cache.
BANK_FRAMES: Final = 64
# What may wait in front of the wire.
QUEUE_BYTES: Final = 64 << 20


class Messages:
    """Trains 0, 1, 2 ... as the parts of their messages."""

    def __init__(self, shape: tuple[int, ...], dtype: str, pulses: int, in_trains: bool) -> None:
        """`in_trains`: frames have an axis of pulses, and come with their ids."""
        event_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.message_bytes = event_bytes * pulses
        rows = max(2, BANK_FRAMES // pulses)
        bank = _noise((rows, pulses, *shape), np.dtype(dtype))
        pulse_ids = np.arange(pulses, dtype=np.uint64)
        arrays = {KEY: bank[0], PULSE_KEY: pulse_ids} if in_trains else {KEY: bank[0, 0]}
        template = encode(
            {SOURCE: arrays},
            {SOURCE: stamp(SOURCE, FIRST_TRAIN_ID, 1_700_000_000_000_000_000)},
        )
        mark = b"\xce" + FIRST_TRAIN_ID.to_bytes(4, "big")
        self._before, _, self._after = bytes(template[0]).partition(mark)
        # Frames of ZeroMQ are counted references: sending one again copies nothing.
        before, after = map(bytes, template[1:3]), [zmq.Frame(bytes(part)) for part in template[4:]]
        fixed = [zmq.Frame(part) for part in before]
        self._rest = [(*fixed, zmq.Frame(train.reshape(-1).view(np.uint8)), *after) for train in bank]

    def send(self, socket: "zmq.Socket[bytes]", index: int) -> None:
        train_id = (FIRST_TRAIN_ID + index).to_bytes(4, "big")
        socket.send(self._before + b"\xce" + train_id + self._after, zmq.SNDMORE)
        *parts, last = self._rest[index % len(self._rest)]
        for part in parts:
            socket.send(part, zmq.SNDMORE, copy=False)
        socket.send(last, copy=False)


def _noise(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Counts of a few hundred, as a detector that works."""
    return np.random.default_rng(0).integers(0, 500, shape, np.uint16).astype(dtype)


class Sender:
    """One bound PUSH socket. Train ids go on from request to request."""

    def __init__(self, shape: list[int], dtype: str, pulses: int) -> None:
        self._shape, self._dtype, self._in_trains = tuple(shape), dtype, pulses > 1
        self._messages = Messages(self._shape, dtype, pulses, self._in_trains)
        self._socket = zmq.Context().socket(zmq.PUSH)
        self._socket.set(zmq.SNDHWM, max(2, min(1000, QUEUE_BYTES // self._messages.message_bytes)))
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.IMMEDIATE, 1)
        self._socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._next = 0

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        if "pulses" in request:
            self._messages = Messages(self._shape, self._dtype, request["pulses"], self._in_trains)
        if request["trains"] is None:
            say({"started": True})
            for index in count(self._next):
                self._messages.send(self._socket, index)
        return {"sent": self._paced(int(request["trains"]), float(request["rate_hz"]))}

    def _paced(self, trains: int, rate_hz: float) -> list[tuple[int, int]]:
        """(train id, CLOCK_MONOTONIC in ns before the first byte of it was given away)."""
        sent, start_s = [], time.monotonic()
        for step in range(trains):
            time.sleep(max(0.0, start_s + step / rate_hz - time.monotonic()))
            sent.append((FIRST_TRAIN_ID + self._next, time.monotonic_ns()))
            self._messages.send(self._socket, self._next)
            self._next += 1
        return sent


if __name__ == "__main__":
    sender = Sender(**options())
    serve(sender.answer, {"endpoint": sender.endpoint})
