"""The bare ZeroMQ loop, work-conserving: all that wait are taken, up to a batch, and answered.

What a good programmer writes in half an hour; nothing is counted, published, stored or survives a fault.
"""

import sys

import zmq

from benchmarks.peers.model import MAX_EVENTS, Model
from benchmarks.peers.rows import Events, Network


def main(network: Network, events: Events, mode: str, endpoint: str) -> None:
    model = Model(network, mode or None)
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    while True:
        requests = _take(socket)
        answers = model.answer_bytes([body.buffer for _, _, body in requests], events)
        for (peer, tag, _), answer in zip(requests, answers, strict=True):
            socket.send_multipart([peer, tag, answer], copy=False)


def _take(socket: "zmq.Socket[bytes]") -> list[list[zmq.Frame]]:
    """All requests that wait, up to a batch; sleeps while there is none."""
    requests = [socket.recv_multipart(copy=False)]
    while len(requests) < MAX_EVENTS:
        try:
            requests.append(socket.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.Again:
            break
    return requests


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # the words of Network and Events, from our own table
