"""The least that tells another process something: it is woken from sleep, or it spins.

    pace, wake         one sends its clock at a steady rate, the other sleeps and notes the age of it
    produce, consume   both spin on two counters in shared memory, each on its own cache line

Every process has one of these roles. The way of a wake-up is a pipe, an eventfd, or a PUSH socket.
CLOCK_MONOTONIC is one clock for all processes of a machine.
"""

import os
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import zmq

from benchmarks.helper import options, serve
from benchmarks.receivers import TIMEOUT_S
from streamer import memory

STAMP: Final = struct.Struct("<q")  # ns
# The counters of the ring, in int64 of its memory: 128 bytes apart, as processors fetch lines in pairs.
HEAD, TAIL, STAMPED = 0, 16, 32
SLOTS_AT_BYTES: Final = 4096
ENDED: Final = 2**62  # above every count
# After so many looks (some 50 us) a spinning process asks the clock whether its partner died, and lets that
# one run if both were put on one core.
SPINS: Final = 1000


# --- wake-ups -----------------------------------------------------------------------------------------


def pace(send: Callable[[int], None], count: int, rate_hz: float) -> Mapping[str, float]:
    """Send the clock `count` times. Each time the receiver has slept since the last."""
    start_s = time.monotonic()
    for step in range(count):
        time.sleep(max(0.0, start_s + (step + 1) / rate_hz - time.monotonic()))
        send(time.monotonic_ns())
    return {"sent": count}


def wake(receive: Callable[[], int], count: int) -> Mapping[str, list[float]]:
    """Seconds from each stamp to the return of the call that waited for it."""
    seconds: list[float] = []
    taken = 0
    while taken < count:
        stamp_ns, now_ns = receive(), time.monotonic_ns()
        # An eventfd adds up what was written before it is read: two stamps, of which none is known.
        stamps = max(1, round(stamp_ns / now_ns))
        taken += stamps
        if stamps == 1:
            seconds.append((now_ns - stamp_ns) * 1e-9)
    return {"seconds": seconds}


def _sender(way: str, where: Any, message_bytes: int) -> tuple[Callable[[int], None], dict[str, Any]]:
    if way == "pipe":
        return (lambda ns: _ignore(os.write(where, STAMP.pack(ns)))), {}
    if way == "eventfd":
        return (lambda ns: os.eventfd_write(where, ns)), {}
    push: zmq.Socket[bytes] = zmq.Context().socket(zmq.PUSH)
    push.set(zmq.LINGER, 0)
    push.bind(where)
    message = bytearray(message_bytes)

    def send(ns: int) -> None:
        STAMP.pack_into(message, 0, ns)
        push.send(message)

    return send, {"endpoint": push.getsockopt_string(zmq.LAST_ENDPOINT)}


def _ignore(_: int) -> None:
    """A pipe takes eight bytes whole or blocks."""


def _receiver(way: str, where: Any) -> Callable[[], int]:
    if way == "pipe":
        return lambda: int(STAMP.unpack(os.read(where, STAMP.size))[0])
    if way == "eventfd":
        return lambda: os.eventfd_read(where)
    pull: zmq.Socket[bytes] = zmq.Context().socket(zmq.PULL)
    pull.set(zmq.RCVTIMEO, round(TIMEOUT_S * 1e3))
    pull.connect(where)
    return lambda: int(STAMP.unpack_from(pull.recv(copy=False).buffer)[0])


# --- the ring -----------------------------------------------------------------------------------------


class Ring:
    """Two counters and slots in one memory of zeros: one producer, one consumer, both in Python."""

    def __init__(self, fd: int, message_bytes: int) -> None:
        whole = memory.attach(fd)
        memory.populate(whole)
        self.words = whole[:SLOTS_AT_BYTES].cast("q")
        count = (len(whole) - SLOTS_AT_BYTES) // message_bytes
        slots = np.frombuffer(whole, np.uint8, count * message_bytes, SLOTS_AT_BYTES)
        self.slots = list(slots.reshape(count, message_bytes))

    def produce(self, kind: str, seconds: float) -> Mapping[str, float]:
        """Hand over messages for `seconds`; `kind` latency: only when the last was taken."""
        room = 1 if kind == "latency" else len(self.slots)
        words, message, sent = self.words, np.ones_like(self.slots[0]), 0
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s and self._above(TAIL, sent - room):
            if kind == "latency":
                words[STAMPED] = time.monotonic_ns()
            else:
                np.copyto(self.slots[sent % len(self.slots)], message)
            sent += 1
            words[HEAD] = sent  # after the data: the consumer looks at nothing else
        self._above(TAIL, sent - 1)
        words[HEAD] = ENDED
        return {"messages": sent}

    def consume(self, kind: str) -> Mapping[str, Any]:
        """Take messages until the producer ends: how many, in what time, and how old each was."""
        words, taken, ages_ns = self.words, 0, []
        self._above(HEAD, 0)
        start_s = time.perf_counter()
        while self._above(HEAD, taken) and (head := words[HEAD]) != ENDED:
            if kind == "latency":
                ages_ns.append(time.monotonic_ns() - words[STAMPED])
            taken = words[TAIL] = head  # everything that is there, in one look
        took_s = time.perf_counter() - start_s
        return {"messages": taken, "seconds": [ns * 1e-9 for ns in ages_ns], "took_s": took_s}

    def _above(self, word: int, value: int) -> bool:
        """Spin until the word is above `value`; False when that never came."""
        words, give_up_s = self.words, time.perf_counter() + TIMEOUT_S
        while time.perf_counter() < give_up_s:
            for _ in range(SPINS):
                if words[word] > value:
                    return True
            os.sched_yield()
        return False


def main(role: str, **how: Any) -> None:
    if role in ("produce", "consume"):
        method = getattr(Ring(**how), role)
        serve(lambda request: method(**request), {"ready": True})
    elif role == "pace":
        send, hello = _sender(**how)
        serve(lambda request: pace(send, **request), hello | {"ready": True})
    else:
        receive = _receiver(**how)
        serve(lambda request: wake(receive, **request), {"ready": True})


if __name__ == "__main__":
    main(**options())
