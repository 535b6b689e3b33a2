"""mosec: a worker for each route, raw bytes in and out (its Worker passes bytes if told to).

It takes no waiting time below 1 ms.
"""

import os

from mosec import Runtime, Server, Worker  # type: ignore[import-not-found]  # only in its own environment

from benchmarks.peers.model import MAX_EVENTS, Model

WAIT_MS = 1


class Raw(Worker):  # type: ignore[misc]  # a class without types
    """Bytes as they are, both ways."""

    network, events = "null", "frames"

    def __init__(self) -> None:
        self.model = Model(self.network, os.environ["BENCH_MODE"] or None)  # type: ignore[arg-type]

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        return self.model.answer_bytes(data, self.events)  # type: ignore[arg-type]


class Cnn(Raw):
    network = "cnn"


class Null(Raw):
    pass


class Spectra(Raw):
    events = "spectra"


if __name__ == "__main__":
    server = Server()
    routes = {"/cnn": Cnn, "/null": Null, "/spectra": Spectra}
    server.register_runtime(
        {
            path: [Runtime(worker, max_batch_size=MAX_EVENTS, max_wait_time=WAIT_MS)]
            for path, worker in routes.items()
        }
    )
    server.run()
