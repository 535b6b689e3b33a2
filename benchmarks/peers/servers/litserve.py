"""LitServe: a worker process for each route, requests through its ZeroMQ queue, 1 ms for a batch.

Without a wait its worker polls the queue without a pause, which costs more than the millisecond.
It parses JSON or forms only; raw bytes reach the worker through a FastAPI dependency that reads the body.
"""

import os
from typing import Annotated

import litserve as ls  # type: ignore[import-not-found]  # only in its own environment
from fastapi import Depends, Request, Response  # type: ignore[import-not-found]  # the same

from benchmarks.peers.model import MAX_EVENTS, Model

WAIT_S = 0.001


async def body(request: Request) -> bytes:
    content: bytes = await request.body()
    return content


class Cnn(ls.LitAPI):  # type: ignore[misc]  # a class without types
    network = "cnn"

    def setup(self, device: str) -> None:  # noqa: ARG002  (its interface)
        self.model = Model(self.network, os.environ["BENCH_MODE"] or None)  # type: ignore[arg-type]

    def decode_request(self, request: Annotated[bytes, Depends(body)]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        return self.model.answer_bytes(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output)


class Null(Cnn):
    network = "null"


if __name__ == "__main__":
    apis = [
        api(max_batch_size=MAX_EVENTS, batch_timeout=WAIT_S, api_path=path)
        for path, api in (("/cnn", Cnn), ("/null", Null))
        if path[1:] in os.environ["BENCH_ROUTES"].split()
    ]
    server = ls.LitServer(apis, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
