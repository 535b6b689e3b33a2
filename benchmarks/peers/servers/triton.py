"""Triton through PyTriton: its Python back end, dynamic batching without a wait, binary tensors over HTTP.

Since 0.7 it protects endpoints with a token; the benchmark needs none on 127.0.0.1.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch  # type: ignore[import-not-found]  # only in its own environment
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found]
from pytriton.triton import (  # type: ignore[import-not-found]
    Triton,
    TritonConfig,
    TritonSecurityConfig,
)

from benchmarks.peers.inputs import Array
from benchmarks.peers.model import MAX_EVENTS, SHAPES, Model
from benchmarks.peers.rows import Network

WIDTHS = {"cnn": 12, "null": 1}


def function(network: Network) -> Callable[..., Any]:
    model = Model(network, os.environ["BENCH_MODE"] or None)

    @batch  # type: ignore[untyped-decorator]  # a decorator without types
    def infer(events: Array) -> dict[str, Array]:
        return {"packed": model.answer([events])}

    return infer  # type: ignore[no-any-return]  # what the decorator gives


def bind(triton: Any, network: Network) -> None:
    triton.bind(
        model_name=network,
        infer_func=function(network),
        inputs=[Tensor(name="events", dtype=np.uint16, shape=SHAPES["frames"])],
        outputs=[Tensor(name="packed", dtype=np.float32, shape=(WIDTHS[network],))],
        config=ModelConfig(max_batch_size=MAX_EVENTS, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        strict=False,
    )


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(os.environ["BENCH_PORT"]),
        allow_grpc=False,
        allow_metrics=False,
        allow_sagemaker=False,
        allow_vertex_ai=False,
    )
    with Triton(config=config, security_config=TritonSecurityConfig(restricted_endpoints=[])) as triton:
        for network in os.environ["BENCH_ROUTES"].split():
            bind(triton, network)  # type: ignore[arg-type]  # words of Network, from our own table
        triton.serve()
