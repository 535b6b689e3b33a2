"""A client of everything that answers requests: one process, one thread, for all peers the same.

    {"where": {...}, "row": {...}, "seconds": s, "warm_s": w}

is answered with events in the time, the exact time, events in all, wrong and missing answers and, in an open
loop, the seconds of each request from the moment it was due. Answers are compared when the clock has stopped.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.helper import options, serve
from benchmarks.peers.dealer import Dealer
from benchmarks.peers.http import Http
from benchmarks.peers.inputs import Array, Expected, payloads, unpack
from benchmarks.peers.rows import Row

# A request that is not answered so long after the last was sent is missing.
LATE_S: Final = 5.0
# Before an open loop: caches, connections, the first batch of a network.
FIRST: Final = 32
# Requests that an open loop has under way at most; beyond, they wait and their time goes on.
OPEN_IN_FLIGHT: Final = 256


class Transport(Protocol):
    """Sends request number `tag` with the payload `index`, and gives back (tag, answer) of what came."""

    def send(self, tag: int, index: int) -> None: ...

    def poll(self, wait_s: float) -> list[tuple[int, bytes]]: ...

    def close(self) -> None: ...


TRANSPORTS: Final[dict[str, Callable[..., Transport]]] = {"http": Http, "zmq": Dealer}


@dataclass
class Log:
    """What was sent and what came, by tag: the moment, and the answer."""

    sent: int = 0
    answers: dict[int, tuple[float, bytes]] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        return self.sent - len(self.answers)

    def send(self, transport: Transport, count: int) -> None:
        transport.send(self.sent, self.sent % count)
        self.sent += 1

    def take(self, transport: Transport, wait_s: float) -> int:
        """Answers that came now."""
        found = transport.poll(wait_s)
        now_s = time.perf_counter()
        for tag, answer in found:
            self.answers[tag] = (now_s, answer)
        return len(found)


def closed_loop(transport: Transport, count: int, in_flight: int, end_s: float) -> Log:
    """`in_flight` requests under way until `end_s`, then wait for the last."""
    log = Log()
    for _ in range(in_flight):
        log.send(transport, count)
    while time.perf_counter() < end_s:
        for _ in range(log.take(transport, 0.2)):
            log.send(transport, count)
    _drain(log, transport)
    return log


def open_loop(transport: Transport, count: int, rate_hz: float, requests: int) -> tuple[Log, list[float]]:
    """Requests on a clock; gives the moments when they were due as well."""
    log = Log()
    start_s = time.perf_counter() + 0.01
    due_s = [start_s + step / rate_hz for step in range(requests)]
    while log.sent < requests:
        if (wait_s := due_s[log.sent] - time.perf_counter()) <= 0 and log.in_flight < OPEN_IN_FLIGHT:
            log.send(transport, count)
            wait_s = 0.0
        elif wait_s <= 0:
            wait_s = 0.2
        log.take(transport, wait_s)
        if time.perf_counter() > due_s[-1] + LATE_S:
            break
    _drain(log, transport)
    return log, due_s


def _drain(log: Log, transport: Transport) -> None:
    give_up_s = time.perf_counter() + LATE_S
    while log.in_flight and time.perf_counter() < give_up_s:
        log.take(transport, 0.2)


class Client:
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        row = Row(**request["row"])
        bodies = payloads(self._folder, row)
        how = dict(request["where"])
        connections = min(row.in_flight or OPEN_IN_FLIGHT, OPEN_IN_FLIGHT)
        connect = partial(TRANSPORTS[how.pop("kind")], bodies=bodies, connections=connections, **how)
        transport = connect()
        try:
            measure = self._open if row.open else self._closed
            return measure(transport, row, bodies, request)
        finally:
            transport.close()

    def _closed(
        self, transport: Transport, row: Row, bodies: list[Array], request: dict[str, Any]
    ) -> Mapping[str, Any]:
        begin_s = time.perf_counter() + request["warm_s"]
        end_s = begin_s + request["seconds"]
        log = closed_loop(transport, len(bodies), row.in_flight, end_s)
        within = sum(begin_s <= at_s <= end_s for at_s, _ in log.answers.values())
        return self._checked(log, row, len(bodies)) | {
            "events": within * row.per_request,
            "seconds": end_s - begin_s,
        }

    def _open(
        self, transport: Transport, row: Row, bodies: list[Array], request: dict[str, Any]
    ) -> Mapping[str, Any]:
        first = closed_loop(transport, len(bodies), 1, time.perf_counter() + FIRST / row.rate_hz)
        log, due_s = open_loop(transport, len(bodies), row.rate_hz, round(row.rate_hz * request["seconds"]))
        log.sent = len(due_s)  # one that could not even be sent is missing too
        latencies = [at_s - due_s[tag] for tag, (at_s, _) in log.answers.items()]
        checked = self._checked(log, row, len(bodies))
        return checked | {
            "total": checked["total"] + first.sent * row.per_request,
            "events": len(latencies),
            "seconds": request["seconds"],
            "latencies_s": latencies,
        }

    def _checked(self, log: Log, row: Row, count: int) -> dict[str, Any]:
        """Every answer beside the right one."""
        expected, n, wrong = Expected.read(self._folder, row.network, row.events), row.per_request, 0
        for tag, (_, answer) in log.answers.items():
            first = tag % count * n
            wrong += expected.wrong(range(first, first + n), unpack(answer, n))
        return {"total": log.sent * n, "wrong": wrong, "missing": log.in_flight * n}


if __name__ == "__main__":
    serve(Client(**options()).answer, {"ready": True})
