"""Notes when each block of verdicts arrives: a subscriber as any other, in its own process.

`{"events": n, "limit_s": s}` listens until so many have come and is answered with (train id, moment, seconds)
of each: CLOCK_MONOTONIC in ns, taken before the message is decoded, and how long before that ingest had
received the last byte.
"""

import time
from collections.abc import Mapping
from typing import Any

import zmq

from benchmarks.helper import options, serve
from streamer.results import decode


class Subscriber:
    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context().socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, 100_000)
        self._socket.set(zmq.SUBSCRIBE, b"")
        self._socket.connect(endpoint)

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        give_up_s = time.monotonic() + float(request["limit_s"])
        seen: list[tuple[int, int, float]] = []
        while len(seen) < request["events"]:
            if not self._socket.poll(max(0, round((give_up_s - time.monotonic()) * 1e3))):
                break
            parts, now_ns, now_s = self._socket.recv_multipart(), time.monotonic_ns(), time.time()
            block = decode(parts)
            after_s = now_s - block.header.received_at
            seen += [(train_id, now_ns, after_s) for train_id in block.column("train_id").tolist()]
        return {"seen": seen}


if __name__ == "__main__":
    serve(Subscriber(**options()).answer, {"ready": True})
