"""A detector that is never the slow one: messages built before the start, sent from their own process.

    python -m benchmarks.sender '{"shape": [128, 128], "dtype": "uint16", "pulses": 32}'

Karabo Bridge 2.2 as a PUSH socket sends it, one source with image.data, and image.pulseId where a train
has several pulses (a camera sends none). The bytes on the wire are built once, as ZMTP frames, and given to
the kernel some megabytes at a time; only the four bytes of the train ids change. A PUSH socket of libzmq
would take more processor time for a message than a receiver needs, and both share the cores.

Requests: `{"trains": n, "rate_hz": r}` sends n trains on a clock, and is answered with the moment each was
given to the kernel, with "pulses" in trains of another length; `{"trains": null}` sends as fast as they are
taken, until the process is stopped. One receiver at a time; the next one begins with a whole message.
"""

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

import numpy as np

from benchmarks.helper import BenchmarkError, options, say, serve
from streamer import zmtp
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
# A receiver that is started by the harness comes within seconds.
CONNECT_S: Final = 30.0


class Messages:
    """Trains 0, 1, 2 ... as they go over the wire."""

    def __init__(self, shape: tuple[int, ...], dtype: str, pulses: int, in_trains: bool) -> None:
        """`in_trains`: frames have an axis of pulses, and come with their ids."""
        rows = max(2, BANK_FRAMES // pulses)
        bank = _noise((rows, pulses, *shape), np.dtype(dtype))
        pulse_ids = np.arange(pulses, dtype=np.uint64)
        metadata = {SOURCE: stamp(SOURCE, FIRST_TRAIN_ID, 1_700_000_000_000_000_000)}
        messages = []
        for train in bank:
            arrays = {KEY: train, PULSE_KEY: pulse_ids} if in_trains else {KEY: train[0]}
            messages.append(framed([bytes(part) for part in encode({SOURCE: arrays}, metadata)]))
        self.size_bytes = len(messages[0])
        self.rows = rows
        self._wire = bytearray(b"".join(messages))
        mark = b"\xce" + FIRST_TRAIN_ID.to_bytes(4, "big")
        self._train_id_at = messages[0].index(mark) + 1

    def of(self, first: int, trains: int) -> memoryview:
        """The bytes of trains first .. first + trains, at most `rows`; valid until the next call."""
        start = first % self.rows * self.size_bytes
        if start + trains * self.size_bytes > len(self._wire):
            start = 0
        for step in range(trains):
            at = start + step * self.size_bytes + self._train_id_at
            struct.pack_into(">I", self._wire, at, FIRST_TRAIN_ID + first + step)
        return memoryview(self._wire)[start : start + trains * self.size_bytes]


def framed(parts: Sequence[bytes]) -> bytes:
    """One multipart message as ZMTP frames."""
    frames = []
    for index, part in enumerate(parts):
        more = index < len(parts) - 1
        long = len(part) > 255
        size = len(part).to_bytes(8 if long else 1, "big")
        frames += [bytes([more | long << 1]), size, part]
    return b"".join(frames)


def _noise(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Counts of a few hundred, as a detector that works."""
    return np.random.default_rng(0).integers(0, 500, shape, np.uint16).astype(dtype)


class Sender:
    """A PUSH server of one receiver after the other. Train ids go on from request to request."""

    def __init__(self, shape: list[int], dtype: str, pulses: int) -> None:
        self._shape, self._dtype, self._in_trains = tuple(shape), dtype, pulses > 1
        self._messages = Messages(self._shape, dtype, pulses, self._in_trains)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=8)
        self._listener.settimeout(CONNECT_S)
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._receiver: socket.socket | None = None
        self._next = 0

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        if "pulses" in request:
            self._messages = Messages(self._shape, self._dtype, request["pulses"], self._in_trains)
        if request["trains"] is None:
            say({"started": True})
            for first in count(self._next, self._messages.rows):
                self._give(first, self._messages.rows)
        return {"sent": self._paced(int(request["trains"]), float(request["rate_hz"]))}

    def _paced(self, trains: int, rate_hz: float) -> list[tuple[int, int]]:
        """(train id, CLOCK_MONOTONIC in ns before the first byte of it was given away)."""
        self._greet_newest()
        sent, start_s = [], time.monotonic()
        for step in range(trains):
            time.sleep(max(0.0, start_s + step / rate_hz - time.monotonic()))
            sent.append((FIRST_TRAIN_ID + self._next, time.monotonic_ns()))
            self._give(self._next, 1)
            self._next += 1
        return sent

    def _give(self, first: int, trains: int) -> None:
        """Send, to the next receiver if this one has gone: it gets the whole of it."""
        while True:
            receiver = self._receiver or self._greet_newest()
            try:
                receiver.sendall(self._messages.of(first, trains))
            except OSError:
                receiver.close()
                self._receiver = None
            else:
                return

    def _greet_newest(self) -> socket.socket:
        """The receiver that came last, after the handshake; waits for one if there is none."""
        self._listener.settimeout(0.0 if self._receiver is not None else CONNECT_S)
        try:
            made, _ = self._listener.accept()
        except (BlockingIOError, TimeoutError):
            if self._receiver is None:
                raise BenchmarkError(f"no receiver within {CONNECT_S:g} s") from None
            return self._receiver
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = _greeted(made)
        return self._greet_newest()


def _greeted(receiver: socket.socket) -> socket.socket:
    """The handshake: what the other side says is read and not judged, it is one of our contenders."""
    receiver.settimeout(CONNECT_S)
    receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    receiver.sendall(zmtp.greeting("PUSH"))
    _read(receiver, zmtp.GREETING_BYTES)
    _read(receiver, _read(receiver, 2)[1])  # READY
    return receiver


def _read(receiver: socket.socket, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        part = receiver.recv(size_bytes - len(data))
        if not part:
            raise BenchmarkError("the receiver went away during the handshake")
        data += part
    return data


if __name__ == "__main__":
    sender = Sender(**options())
    serve(sender.answer, {"endpoint": sender.endpoint})
