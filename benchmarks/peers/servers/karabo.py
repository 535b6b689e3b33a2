"""The loop around the facility's own client: karabo_bridge.Client.next(), the model, a PUB of the answers.

One train after the other: the client gives one at a time. Nothing is counted, stored or survives a fault.
"""

import sys

import zmq
from karabo_bridge import Client

from benchmarks.peers.model import SHAPES, Model
from benchmarks.peers.rows import Network
from benchmarks.sender import KEY, SOURCE

TIMEOUT_S = 1.0


def main(network: Network, mode: str, source: str, endpoint: str) -> None:
    model = Model(network, mode or None)
    socket = zmq.Context().socket(zmq.XPUB)
    socket.set(zmq.SNDHWM, 100_000)
    socket.bind(endpoint)
    socket.recv()  # the subscription: what is published before it is lost
    client = Client(source, sock="PULL", timeout=TIMEOUT_S)
    while True:
        try:
            data, metadata = client.next()
        except TimeoutError:
            continue
        train_id = int(metadata[SOURCE]["timestamp.tid"])
        packed = model.answer([data[SOURCE][KEY].reshape(-1, *SHAPES["frames"])])
        socket.send_multipart([train_id.to_bytes(8, "little"), packed.tobytes()])


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # a word of Network, from our own table
