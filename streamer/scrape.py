"""The HTTP server of /metrics: a thread that answers scrapes, and nothing that a stranger can use up.

Owns the connections; what is told is `metrics`'. It runs in the supervisor's process, so an idle connection
is closed after some seconds, and no more than a few are open at once: each costs a thread and a descriptor.
"""

import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from streamer.errors import ConfigError

# Prometheus, a second one beside it, and some people with a browser.
MAX_CONNECTIONS: Final = 16
# Of silence, in the middle of a request or before it: a scrape takes milliseconds.
SILENCE_S: Final = 5.0


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, *_: Any) -> None:
        """Nothing: a line a scrape helps nobody, and a stranger must not fill the log."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread of its own, MAX_CONNECTIONS at once; more are closed unanswered."""

    daemon_threads = True

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments, **more)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, *_: Any) -> None:
        """Nothing: a connection that breaks off is its own loss."""


def serve(registry: CollectorRegistry, address: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve /metrics from a thread; returns the port and the function that stops it. Raises ConfigError."""
    try:
        server = make_server(address, port, make_wsgi_app(registry), _Server, _Handler)
    except OSError as error:
        raise ConfigError(
            f"metrics: cannot listen on {address}:{port}: {error.strerror}. Is another run using it? "
            "Choose another metrics.port, or 0 for any."
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return int(server.server_port), stop
