"""Subscribers to published results, several sockets in one process: they read and count.

    python -m benchmarks.readers '{"endpoint": "tcp://127.0.0.1:45450", "sockets": 4, "decode": false}'

`decode` true does with every block what a dashboard does first; false leaves all but the last unread. With
`pause_s` each turn takes one block of a socket and then sleeps: a reader that does not keep up. Any line on
stdin is answered with the blocks that each socket got, and how many were published meanwhile by the numbers
in their headers: a PUB socket drops what a slow reader does not take.
"""

import sys
import time
from typing import Any, Final

import zmq

from benchmarks.helper import options, say
from streamer.client import HWM_BLOCKS
from streamer.results import decode, topic

POLL_MS: Final = 1000
# Blocks of one socket in a row, so that one with much to read does not starve the others.
AT_ONCE: Final = 64


class Reader:
    """One SUB socket and what came through it."""

    def __init__(self, endpoint: str, decodes: bool) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self.socket.set(zmq.RCVHWM, HWM_BLOCKS)
        self.socket.set(zmq.SUBSCRIBE, topic("results", ""))
        self.socket.connect(endpoint)
        self._decodes = decodes
        self._blocks, self._first, self._last = 0, -1, -1
        self._parts: list[bytes] = []

    def read(self, at_once: int = AT_ONCE) -> None:
        for _ in range(at_once):
            try:
                self._parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._blocks += 1
            if self._first < 0:
                self._first = self._sequence()
            elif self._decodes:
                self._last = self._sequence()

    def counts(self) -> dict[str, int]:
        """Blocks that came, and blocks that were published between the first and the last of them."""
        if not self._blocks:
            return {"blocks": 0, "published": 0}
        return {"blocks": self._blocks, "published": self._sequence() - self._first + 1}

    def _sequence(self) -> int:
        return decode(self._parts).header.sequence


def main(endpoint: str, sockets: int, decode: bool, pause_s: float = 0.0) -> None:
    readers = {reader.socket: reader for reader in (Reader(endpoint, decode) for _ in range(sockets))}
    poller = zmq.Poller()
    poller.register(sys.stdin, zmq.POLLIN)
    for socket in readers:
        poller.register(socket, zmq.POLLIN)
    say({"ready": True})
    while True:
        ready = dict(poller.poll(POLL_MS))
        for socket in ready.keys() & readers.keys():
            readers[socket].read(1 if pause_s else AT_ONCE)
        time.sleep(pause_s)
        if sys.stdin.fileno() in ready and not _answer(readers):
            return


def _answer(readers: dict[Any, Reader]) -> bool:
    """False when the harness has closed the pipe."""
    if not sys.stdin.readline():
        return False
    counts = [reader.counts() for reader in readers.values()]
    say({"readers": counts, "cpu_s": time.process_time()})
    return True


if __name__ == "__main__":
    main(**options())
