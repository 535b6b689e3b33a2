"""Requests by HTTP/1.1 over plain sockets: connections that stay, one request under way on each.

As little as HTTP can cost a Python client (about 20 us a request), so that what is measured is the server.
A status other than 200 is an empty answer, which is a wrong one.
"""

import json
import re
import select
import socket
from collections import deque
from typing import Final

from benchmarks.peers.inputs import Array

PIECE_BYTES: Final = 1 << 20
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TENSOR_HEADER: Final = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)


class Http:
    """See client.Transport. `tensors` speaks Triton's binary tensor extension of the KServe protocol."""

    def __init__(
        self, bodies: list[Array], connections: int, port: int, path: str, tensors: bool = False
    ) -> None:
        make = _tensor_request if tensors else _request
        self._requests = [make(path, body) for body in bodies]
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Connection] = {}
        for _ in range(connections):
            connection = _Connection(port)
            self._by_fd[connection.fd] = connection
            self._epoll.register(connection.fd, select.EPOLLIN)
        self._free = deque(self._by_fd.values())

    def send(self, tag: int, index: int) -> None:
        """IndexError when as many requests are under way as there are connections."""
        connection = self._free.popleft()
        if not connection.begin(tag, self._requests[index]):
            self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def poll(self, wait_s: float) -> list[tuple[int, bytes]]:
        """select on the epoll: epoll itself counts in milliseconds."""
        if wait_s > 0:
            select.select([self._epoll.fileno()], [], [], wait_s)
        found: list[tuple[int, bytes]] = []
        for fd, events in self._epoll.poll(0):
            connection = self._by_fd[fd]
            if events & select.EPOLLOUT and connection.push():
                self._epoll.modify(fd, select.EPOLLIN)
            if events & ~select.EPOLLOUT and (answer := connection.take()) is not None:
                found.append((connection.tag, answer))
                self._free.append(connection)
        return found

    def close(self) -> None:
        self._epoll.close()
        for connection in self._by_fd.values():
            connection.socket.close()


class _Connection:
    """One socket, and the request that is under way on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self.tag = -1
        self._left = memoryview(b"")
        self._got = b""

    def begin(self, tag: int, request: bytes) -> bool:
        self.tag, self._left = tag, memoryview(request)
        return self.push()

    def push(self) -> bool:
        """Write what the socket takes; whether that was all."""
        try:
            while self._left:
                self._left = self._left[self.socket.send(self._left) :]
        except BlockingIOError:
            return False
        return True

    def take(self) -> bytes | None:
        """The whole answer, or None while it is not there. ConnectionError if the server hangs up."""
        try:
            part = self.socket.recv(PIECE_BYTES)
        except BlockingIOError:
            return None
        if not part:
            raise ConnectionError(f"the server closed a connection after {self._got[:200]!r}")
        self._got += part
        answer = parse(self._got)
        if answer is not None:
            self._got = b""
        return answer


def parse(got: bytes) -> bytes | None:
    """Body of a complete response (of a tensor response: its raw tensors); None of an incomplete one."""
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, start = got[:end], end + 4
    length = _LENGTH.search(head)
    if length is None:
        raise ConnectionError(f"a response without a length: {head[:200]!r}")
    if len(got) < start + int(length[1]):
        return None
    if not head.startswith(b"HTTP/1.1 200"):
        return b""
    skip = _TENSOR_HEADER.search(head)
    return got[start + (int(skip[1]) if skip else 0) :]


def _request(path: str, body: Array, more: str = "", before: bytes = b"") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
        f"{more}Content-Length: {len(before) + body.nbytes}\r\n\r\n"
    )
    return head.encode() + before + body.tobytes()


def _tensor_request(path: str, body: Array) -> bytes:
    """KServe's version 2 protocol: JSON that describes the tensors, then their bytes."""
    tensor = {
        "name": "events",
        "shape": list(body.shape),
        "datatype": "UINT16",
        "parameters": {"binary_data_size": body.nbytes},
    }
    output = {"name": "packed", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    return _request(path, body, f"Inference-Header-Content-Length: {len(header)}\r\n", header)
