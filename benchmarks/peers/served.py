"""The contenders that answer requests: the bare ZeroMQ loop, mosec, LitServe, Ray Serve, Triton.

Owns how each is started and where its routes are; what runs in their processes is in `servers`.
"""

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.config import free_endpoint
from benchmarks.helper import Helper
from benchmarks.peers.contender import Contender, Measure, Setting, ask
from benchmarks.peers.environments import python_of
from benchmarks.peers.http import Http
from benchmarks.peers.inputs import payloads
from benchmarks.peers.processes import Tree
from benchmarks.peers.rows import ROWS, Outcome, Row

# Ray starts a dozen processes, each of which imports.
READY_S: Final = 120.0
# For the first answer of a route that listens: the first batch of a network.
PATIENCE_S: Final = 5.0


@dataclass(frozen=True)
class HttpPeer:
    """A model server with one route for each network."""

    name: str
    module: str
    note: str
    environment: Mapping[str, str]
    path: str = "/{route}"
    tensors: bool = False
    # A server for each route: an idle worker of LitServe looks at its queue all the time.
    apart: bool = False

    def arguments(self, port: int) -> list[str]:
        """What mosec reads from its command line; the others are told by environment variables."""
        return ["--port", str(port), "--address", "127.0.0.1"] if self.module == "mosec" else []


PEERS: Final = (
    HttpPeer("mosec", "mosec", "waits 1 ms for a batch, its least", {}),
    HttpPeer("LitServe", "litserve", "fast_queue, waits 1 ms for a batch, its best", {}, apart=True),
    HttpPeer(
        "Ray Serve",
        "ray",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED, no wait for a batch",
        {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"},
    ),
    HttpPeer(
        "Triton (PyTriton)",
        "triton",
        "Python back end, HTTP with binary tensors, no wait for a batch",
        {},
        path="/v2/models/{route}/infer",
        tensors=True,
    ),
)
WITH_SPECTRA: Final = ("mosec",)


def http_contender(peer: HttpPeer) -> Contender:
    return Contender(
        peer.name,
        peer.note,
        partial(_http, peer),
        lambda row: row.events == "frames" or peer.module in WITH_SPECTRA,
        partial(python_of, peer.module),
    )


@contextmanager
def _http(peer: HttpPeer, setting: Setting) -> Iterator[Measure]:
    server = _Server(peer, setting)
    try:
        yield server.measure
    finally:
        server.close()


class _Server:
    """One life for all routes, or one for each where the peer's workers disturb each other."""

    def __init__(self, peer: HttpPeer, setting: Setting) -> None:
        self._peer, self._setting, self._stack = peer, setting, ExitStack()
        self._all = list(dict.fromkeys(_route(row) for row in filter(http_contender(peer).runs, ROWS)))
        self._routes: list[str] = []

    def measure(self, row: Row) -> Outcome:
        route = _route(row)
        if route not in self._routes:
            self.close()
            self._start([route] if self._peer.apart else self._all)
        where = {"kind": "http", "port": self._port, "path": self._peer.path.format(route=route)}
        where["tensors"] = self._peer.tensors
        return ask(self._client, self._tree, row, where, self._setting)

    def _start(self, routes: list[str]) -> None:
        """Until each route has given an answer."""
        peer, self._routes, self._port = self._peer, routes, int(free_endpoint().rpartition(":")[2])
        more = {"BENCH_MODE": self._setting.mode or "", "BENCH_PORT": str(self._port)}
        more |= {
            "BENCH_ROUTES": " ".join(routes),
            "BENCH_FOLDER": str(self._setting.folder),
            **peer.environment,
        }
        argv = [str(python_of(peer.module)), "-m", f"benchmarks.peers.servers.{peer.module}"]
        self._tree = self._stack.enter_context(Tree([*argv, *peer.arguments(self._port)], more))
        how = {"folder": str(self._setting.folder)}
        self._client = self._stack.enter_context(Helper("benchmarks.peers.client", how))
        for row in {_route(row): row for row in ROWS if _route(row) in routes}.values():
            self._tree.wait(partial(_answers, peer, self._port, row, self._setting), READY_S)

    def close(self) -> None:
        self._stack.close()
        self._routes = []


def _answers(peer: HttpPeer, port: int, row: Row, setting: Setting) -> bool:
    """Whether the route gives an answer to a request."""
    try:
        client = Http(
            payloads(setting.folder, row)[:1], 1, port, peer.path.format(route=_route(row)), peer.tensors
        )
    except OSError:  # nobody listens yet
        return False
    with closing(client):
        client.send(0, 0)
        try:
            return any(answer for _, answer in client.poll(PATIENCE_S))
        except OSError:  # it listens, and hangs up: not ready
            return False


def _route(row: Row) -> str:
    return "spectra" if row.events == "spectra" else row.network


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- the bare loop ------------------------------------------------------------------------------------


@contextmanager
def _bare(setting: Setting) -> Iterator[Measure]:
    """One loop for each network, all in one life."""
    with ExitStack() as stack:
        client = stack.enter_context(Helper("benchmarks.peers.client", {"folder": str(setting.folder)}))
        loops: dict[str, tuple[Tree, str]] = {}
        for network, events in (("cnn", "frames"), ("null", "frames"), ("null", "spectra")):
            endpoint = free_endpoint()
            argv = [sys.executable, "-m", "benchmarks.peers.servers.bare"]
            tree = stack.enter_context(Tree([*argv, network, events, setting.mode or "", endpoint]))
            loops[network if events == "frames" else events] = (tree, endpoint)

        def measure(row: Row) -> Outcome:
            tree, endpoint = loops[_route(row)]
            return ask(client, tree, row, {"kind": "zmq", "endpoint": endpoint}, setting)

        for tree, endpoint in loops.values():
            tree.wait(partial(_listens, int(endpoint.rpartition(":")[2])), READY_S)
        yield measure


BARE: Final = Contender("bare ZeroMQ loop", "ROUTER, takes what waits", _bare, lambda _: True)
