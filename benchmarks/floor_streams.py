"""The least that moves bytes here: copies within a process, and single-part messages between two.

    copy        numpy copies of blocks, in a cache or walking through more memory than any cache holds
    send        prebuilt messages over raw TCP or a PUSH socket, as fast as they are taken, without end
    tcp         socket.recv_into the next slot of a shared memory
    zmq_copy    pyzmq recv(copy=False), and one copy to the slot
    zmq_into    pyzmq recv_into the slot

Every process has one of these roles. Owns no clock beyond its own loop; what is compared is in `floors`.
"""

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any, Final

import numpy as np
import zmq

from benchmarks.helper import BenchmarkError, options, say, serve
from benchmarks.receivers import TIMEOUT_S, measure
from streamer import memory

# As the ring of the pipelines that are measured beside it.
RING_BYTES: Final = 64 << 20
# More than any cache holds.
WALK_BYTES: Final = 512 << 20
# Messages that are sent in turn, as `sender` does: 64 frames of 128 x 128. They stay in a cache, where a
# network card would put them; with more the sender's memory would be measured.
BANK_BYTES: Final = 2 << 20
BANK_ROWS: Final = 64
# What may wait in front of the wire.
QUEUE_BYTES: Final = 64 << 20
# Beyond it a queue of small messages hides nothing more; ZeroMQ's own default.
MAX_HWM: Final = 1000
# One look at the clock for so many bytes copied: some 100 us, beside which it costs nothing.
COPY_BYTES: Final = 1 << 20


class Copies:
    """Sources and targets, half the memory each."""

    def __init__(self) -> None:
        self._bytes = np.ones((2, WALK_BYTES // 2), np.uint8)  # written: a page of zeros has no memory yet

    def run(self, block_bytes: int, walk: bool, seconds: float) -> Mapping[str, float]:
        """Copy blocks one by one for `seconds`: the next each time, or always the same."""
        blocks = self._bytes.shape[1] // block_bytes
        sources, targets = self._bytes[:, : blocks * block_bytes].reshape(2, blocks, block_bytes)
        pairs = cycle(list(zip(targets, sources, strict=True)) if walk else [(targets[0], sources[0])])
        at_once, copied = max(1, COPY_BYTES // block_bytes), 0
        start_s = time.perf_counter()
        while time.perf_counter() < start_s + seconds:
            for _ in range(at_once):
                np.copyto(*next(pairs))
            copied += at_once * block_bytes
        return {"bytes": copied, "seconds": time.perf_counter() - start_s}


# --- sending ------------------------------------------------------------------------------------------


def _bank(message_bytes: int) -> list[memoryview]:
    rows = max(2, min(BANK_ROWS, BANK_BYTES // message_bytes))
    noise = np.random.default_rng(0).integers(0, 256, (rows, message_bytes), np.uint8)
    return [row.data for row in noise]


def _send_tcp(message_bytes: int) -> None:
    bank = _bank(message_bytes)
    with socket.create_server(("127.0.0.1", 0)) as server:
        say({"endpoint": server.getsockname()[1]})
        peer, _ = server.accept()
        for row in cycle(bank):
            peer.sendall(row)


def _send_zmq(message_bytes: int) -> None:
    frames = [zmq.Frame(row) for row in _bank(message_bytes)]
    push: zmq.Socket[bytes] = zmq.Context().socket(zmq.PUSH)
    push.set(zmq.SNDHWM, _hwm(message_bytes))
    push.set(zmq.LINGER, 0)
    push.bind("tcp://127.0.0.1:0")
    say({"endpoint": push.getsockopt_string(zmq.LAST_ENDPOINT)})
    for frame in cycle(frames):
        push.send(frame, copy=False)


def _hwm(message_bytes: int) -> int:
    return max(2, min(MAX_HWM, QUEUE_BYTES // message_bytes))


# --- receiving ----------------------------------------------------------------------------------------


def _slots(message_bytes: int) -> Iterator[memoryview]:
    ring = memory.attach(memory.create("floor", RING_BYTES))
    memory.populate(ring)
    starts = range(0, RING_BYTES - message_bytes + 1, message_bytes)
    return cycle([ring[start : start + message_bytes] for start in starts])


def tcp(endpoint: int, message_bytes: int) -> Callable[[], None]:
    peer = socket.create_connection(("127.0.0.1", endpoint), TIMEOUT_S)
    peer.settimeout(None)  # with a timeout Python polls before every read
    slots = _slots(message_bytes)

    def receive() -> None:
        _check(peer.recv_into(next(slots), message_bytes, socket.MSG_WAITALL), message_bytes)

    return receive


def zmq_copy(endpoint: str, message_bytes: int) -> Callable[[], None]:
    pull, slots = _pull(endpoint, message_bytes), _slots(message_bytes)

    def receive() -> None:
        next(slots)[:] = pull.recv(copy=False).buffer

    return receive


def zmq_into(endpoint: str, message_bytes: int) -> Callable[[], None]:
    pull, slots = _pull(endpoint, message_bytes), _slots(message_bytes)

    def receive() -> None:
        _check(pull.recv_into(next(slots)), message_bytes)

    return receive


def _check(got_bytes: int, message_bytes: int) -> None:
    if got_bytes != message_bytes:
        raise BenchmarkError(f"a message of {got_bytes} bytes, expected {message_bytes}: did the sender end?")


def _pull(endpoint: str, message_bytes: int) -> "zmq.Socket[bytes]":
    pull: zmq.Socket[bytes] = zmq.Context().socket(zmq.PULL)
    pull.set(zmq.RCVHWM, _hwm(message_bytes))
    pull.set(zmq.RCVTIMEO, round(TIMEOUT_S * 1e3))
    pull.connect(endpoint)
    return pull


SENDERS: Final = {"tcp": _send_tcp, "zmq": _send_zmq}
RECEIVERS: Final[dict[str, Callable[..., Callable[[], None]]]] = {
    "tcp": tcp,
    "zmq_copy": zmq_copy,
    "zmq_into": zmq_into,
}


def main(role: str, **how: Any) -> None:
    memory.keep_freed_memory()  # as the ingest stage: a floor without it would be none
    if role == "copy":
        copies = Copies()
        serve(lambda request: copies.run(**request), {"ready": True})
    elif role == "send":
        SENDERS[how.pop("wire")](**how)
    else:
        receive = RECEIVERS[role](**how)
        serve(lambda request: measure(receive, request["warm_s"], request["seconds"]), {"ready": True})


if __name__ == "__main__":
    main(**options())
