"""Ray Serve: one replica for each route, @serve.batch without a wait, raw bodies through Starlette.

It sets its throughput options by RAY_SERVE_THROUGHPUT_OPTIMIZED=1 (the harness does).
"""

import os
import time

import ray  # type: ignore[import-not-found]  # only in its own environment
from ray import serve
from starlette.requests import Request  # type: ignore[import-not-found]
from starlette.responses import Response  # type: ignore[import-not-found]

from benchmarks.helper import ROOT
from benchmarks.peers.model import MAX_EVENTS, Model

# Requests that one replica may hold: the client's most.
ONGOING = 256
SLEEP_S = 3600.0


class Replica:
    def __init__(self, network: str, mode: str) -> None:
        self.model = Model(network, mode or None)  # type: ignore[arg-type]  # a word of Network

    @serve.batch(max_batch_size=MAX_EVENTS, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def answer(self, bodies: list[bytes]) -> list[bytes]:
        return self.model.answer_bytes(bodies)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.answer(await request.body()))


# Zero processors: on a small machine Ray would wait for free ones.
route = serve.deployment(max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 0})(Replica)

if __name__ == "__main__":
    ray.init(
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["BENCH_FOLDER"],
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 << 20,  # requests go past it; the default takes a third of the memory
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    for network in os.environ["BENCH_ROUTES"].split():
        serve.run(route.bind(network, os.environ["BENCH_MODE"]), name=network, route_prefix=f"/{network}")
    while True:
        time.sleep(SLEEP_S)
