"""The loops that the ingest stage is compared with, each alone in its process.

bare      pyzmq recv_multipart(copy=False), and one memcpy of the frames into the next slot of a preallocated
          shared memory: the least that any receiver into a ring can do. No decoding, no counting.
official  karabo_bridge.Client.next(), pattern PULL: decodes, and copies nothing.
"""

import time
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any, Final

import zmq

from benchmarks.helper import options, serve
from streamer import memory

# Position of the frames in a message of `benchmarks.sender`.
FRAMES_PART: Final = 3
# More than that only hides a queue.
HWM: Final = 8
TIMEOUT_S: Final = 10.0


def bare(endpoint: str, message_bytes: int, ring_bytes: int) -> Callable[[], None]:
    socket = zmq.Context().socket(zmq.PULL)
    socket.set(zmq.RCVHWM, HWM)
    socket.set(zmq.RCVTIMEO, round(TIMEOUT_S * 1e3))
    socket.connect(endpoint)
    memory.keep_freed_memory()  # as our own stage does
    ring = memory.attach(memory.create("bench", ring_bytes))
    ring[:] = bytes(ring_bytes)  # claim the pages now
    starts = range(0, ring_bytes - message_bytes + 1, message_bytes)
    slots = cycle([ring[start : start + message_bytes] for start in starts])

    def receive() -> None:
        next(slots)[:] = socket.recv_multipart(copy=False)[FRAMES_PART].buffer

    return receive


def official(endpoint: str, message_bytes: int, ring_bytes: int) -> Callable[[], None]:  # noqa: ARG001  (one interface)
    from karabo_bridge import Client

    client = Client(endpoint, sock="PULL", timeout=TIMEOUT_S)

    def receive() -> None:
        client.next()

    return receive


def measure(receive: Callable[[], None], warm_s: float, seconds: float) -> Mapping[str, float]:
    """Messages in `seconds` after `warm_s`, the exact time, and the processor time of this process."""
    _until(receive, time.perf_counter() + warm_s)
    start_s, cpu_s = time.perf_counter(), time.process_time()
    messages = _until(receive, start_s + seconds)
    return {
        "messages": messages,
        "seconds": time.perf_counter() - start_s,
        "cpu_s": time.process_time() - cpu_s,
    }


def _until(receive: Callable[[], None], end_s: float) -> int:
    messages = 0
    while time.perf_counter() < end_s:
        receive()
        messages += 1
    return messages


def main(contender: str, **how: Any) -> None:
    receive = {"bare": bare, "official": official}[contender](**how)
    serve(lambda request: measure(receive, request["warm_s"], request["seconds"]), {"ready": True})


if __name__ == "__main__":
    main(**options())
