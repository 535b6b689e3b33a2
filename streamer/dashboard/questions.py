"""Asking the control socket from a loop that must not wait.

Owns one question at a time over a socket of its own; what is asked, and how often, is the caller's. Steering,
which may wait, goes through `streamer.control.request`.
"""

from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships no types
import zmq

from streamer.sockets import MAX_ANSWER_BYTES

Context = zmq.Context[zmq.Socket[bytes]]


class Questions:
    """One question to `endpoint`, again and again. One without an answer after `timeout_s` is given up."""

    def __init__(self, context: Context, endpoint: str, question: dict[str, Any], timeout_s: float) -> None:
        self._context, self._endpoint, self._timeout_s = context, endpoint, timeout_s
        self._question = msgpack.packb(question)
        self._socket: zmq.Socket[bytes] | None = None
        self._asked_s = 0.0

    @property
    def waiting(self) -> bool:
        """A question is open."""
        return self._socket is not None

    def ask(self, now_s: float) -> None:
        """Put the question; `now_s` on any steady clock."""
        self.close()
        self._socket = socket = self._context.socket(zmq.REQ)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, MAX_ANSWER_BYTES)
        socket.connect(self._endpoint)
        # With a peer or without: the socket holds one message, so this never waits.
        socket.send(self._question, zmq.NOBLOCK)
        self._asked_s = now_s

    def answer(self, now_s: float) -> dict[str, Any] | str | None:
        """The answer; a text if none will come or it is a refusal; None if it may still come."""
        if self._socket is None:
            return None
        if self._socket.poll(0):
            raw = self._socket.recv()
            self.close()
            return _unpacked(raw)
        if now_s - self._asked_s > self._timeout_s:
            self.close()
            return f"no answer from the run within {self._timeout_s:g} s: it is starting, busy or gone"
        return None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None


def _unpacked(raw: bytes) -> dict[str, Any] | str:
    try:
        answer = msgpack.unpackb(raw)
    except (ValueError, msgpack.UnpackException):
        return "the run's answer cannot be read; are page and run of one release?"
    if not isinstance(answer, dict) or not answer.get("ok"):
        error = answer.get("error", "refused without a reason") if isinstance(answer, dict) else "no map"
        return str(error)[:500]
    return answer
