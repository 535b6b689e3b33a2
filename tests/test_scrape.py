"""The server of /metrics: nothing that a stranger can use up."""

import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from streamer import scrape
from streamer.errors import ConfigError


@pytest.fixture
def port() -> Iterator[int]:
    registry = CollectorRegistry()
    Gauge("answer", "of everything", registry=registry).set(42)
    port, stop = scrape.serve(registry, "127.0.0.1", 0)
    yield port
    stop()


def asked(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_it_is_served(port: int) -> None:
    assert "answer 42.0" in asked(port)


def test_idle_connections_are_few_and_end(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape._Handler, "timeout", 0.5)
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * scrape.MAX_CONNECTIONS)]
    try:
        for connection in idle[-scrape.MAX_CONNECTIONS :]:
            connection.settimeout(10)
            assert connection.recv(1) == b"", "those beyond the limit are closed at once"
        end_s = time.monotonic() + 20
        while True:
            try:
                assert "answer 42.0" in asked(port)
                break
            except OSError:
                assert time.monotonic() < end_s
                time.sleep(0.1)
    finally:
        for connection in idle:
            connection.close()


def test_a_port_that_is_taken_is_told(port: int) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        scrape.serve(CollectorRegistry(), "127.0.0.1", port)
