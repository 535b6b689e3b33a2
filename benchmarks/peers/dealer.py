"""Requests by ZeroMQ: a DEALER, and at the other end a loop with a ROUTER."""

import select
from typing import Final

import zmq

from benchmarks.peers.inputs import Array

TAG_BYTES: Final = 8


class Dealer:
    """See client.Transport. One connection carries all requests."""

    def __init__(self, bodies: list[Array], connections: int, endpoint: str) -> None:
        self._bodies = [zmq.Frame(body.reshape(-1).view("u1")) for body in bodies]
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, 2 * connections)
        self._socket.set(zmq.SNDTIMEO, 5000)  # ms; a loop that takes nothing for so long is dead
        self._socket.connect(endpoint)

    def send(self, tag: int, index: int) -> None:
        self._socket.send(tag.to_bytes(TAG_BYTES, "little"), zmq.SNDMORE)
        self._socket.send(self._bodies[index], copy=False)

    def poll(self, wait_s: float) -> list[tuple[int, bytes]]:
        """select instead of a ZeroMQ poll: that one counts in milliseconds."""
        if not (found := self._waiting()) and wait_s > 0:
            select.select([self._socket.FD], [], [], wait_s)
            found = self._waiting()
        return found

    def _waiting(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                tag, answer = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return found
            found.append((int.from_bytes(tag, "little"), answer))

    def close(self) -> None:
        self._socket.close()
        self._context.term()
