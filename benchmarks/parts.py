"""What sending a block of results costs, by how its columns reach ZeroMQ: `python -m benchmarks.parts`.

A PUB socket with a subscriber in another process, messages of a block's parts; bursts with pauses, so that
nothing is dropped. us of processor time a message, medians of REPEATS: of the sending thread, and of all
threads, which is with libzmq's and the kernel's work. Belongs to docs/decisions/sink.md.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import zmq

from benchmarks.helper import Helper
from benchmarks.table import header, show
from streamer import memory
from streamer.publish import MORE, ResultsPublisher, send_part

PARTS: Final = 15  # topic, header and 13 columns
PART_BYTES: Final = (64, 2048, 8192, 32768, 131072)
REPEATS: Final = 9
# Of a burst: fewer than the publisher's queue holds, and soon read.
BURST: Final = 200
BURST_BYTES: Final = 4 << 20
PAUSE_S: Final = 0.03

Socket = zmq.Socket[bytes]
Send = Callable[[Socket, Sequence[memoryview]], object]


def multipart(socket: Socket, parts: Sequence[memoryview]) -> None:
    """As pyzmq's manual has it."""
    socket.send_multipart(parts, zmq.NOBLOCK)


def part_by_part(socket: Socket, parts: Sequence[memoryview]) -> None:
    """As `publish` does it."""
    for part in parts[:-1]:
        send_part(socket, part, MORE)
    send_part(socket, parts[-1], int(zmq.NOBLOCK))


def shared(socket: Socket, parts: Sequence[memoryview]) -> None:
    """Without a copy: libzmq reads the caller's memory."""
    for part in parts[:-1]:
        send_part(socket, part, MORE, False)
    send_part(socket, parts[-1], int(zmq.NOBLOCK), False)


WAYS: Final[dict[str, Send]] = {"send_multipart": multipart, "part by part": part_by_part, "shared": shared}


def cost_us(socket: Socket, send: Send, part_bytes: int) -> tuple[float, float]:
    """(of the sending thread, of all threads)."""
    parts = [memoryview(np.zeros(part_bytes, np.uint8)) for _ in range(PARTS)]  # type: ignore[arg-type]
    messages = max(5, min(BURST, BURST_BYTES // (PARTS * part_bytes)))
    found = []
    for _ in range(REPEATS):
        own_s, all_s = time.thread_time(), time.process_time()
        for _ in range(messages):
            send(socket, parts)
        own_s = time.thread_time() - own_s
        time.sleep(PAUSE_S)  # the I/O thread ends its work
        found.append((own_s / messages * 1e6, (time.process_time() - all_s) / messages * 1e6))
    own, everything = zip(*found, strict=True)
    return statistics.median(own), statistics.median(everything)


def main() -> None:
    memory.keep_freed_memory()  # as the sink does
    about = header()
    hardware = about["hardware"]
    print(f"{about['date']}, commit {about['commit']}, {hardware['cpu']}, {hardware['cores']} cores")
    print(f"us of processor time a message of {PARTS} parts: sending thread / all threads")
    print(f"\n| bytes a part | {' | '.join(WAYS)} |\n|{'---|' * (1 + len(WAYS))}")
    with ResultsPublisher("tcp://127.0.0.1:*") as publisher:
        publisher.socket.copy_threshold = 0  # else pyzmq copies what is below 64 kB whatever it is told
        with Helper("benchmarks.sink", {"endpoint": publisher.endpoint}):
            time.sleep(PAUSE_S)  # the subscription arrives
            for part_bytes in PART_BYTES:
                costs = [cost_us(publisher.socket, send, part_bytes) for send in WAYS.values()]
                cells = [f"{show(own)} / {show(everything)}" for own, everything in costs]
                print(f"| {part_bytes} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
