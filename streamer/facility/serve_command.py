"""What the commands of the simulator and the replay share: arguments of the server, signals, the last line.

Owns nothing that other code should call; `streamer.cli` has its own arguments.
"""

import argparse
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from streamer.errors import StreamerError
from streamer.facility.serve import ServerOptions

# run(stop, on_ready) -> a report, which is a dataclass.
Run = Callable[[Callable[[], bool], Callable[[str], None]], Any]


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    default = ServerOptions()
    parser.add_argument("--endpoint", default=default.endpoint, help="where to bind; port 0: any")
    parser.add_argument("--socket", choices=("REP", "PUB", "PUSH"), default=default.socket)
    parser.add_argument("--queue-bytes", type=int, default=default.queue_bytes, help="trains that may wait")
    parser.add_argument(
        "--send-timeout", type=float, default=None, help="seconds until a train without room is dropped"
    )
    parser.add_argument("--linger", type=float, default=default.linger_s, help="seconds to flush at the end")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")


def server_options(arguments: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        endpoint=arguments.endpoint,
        socket=arguments.socket,
        queue_bytes=arguments.queue_bytes,
        send_timeout_s=arguments.send_timeout,
        linger_s=arguments.linger,
    )


def run_command(run: Run, as_json: bool) -> int:
    """Run until done or until SIGINT or SIGTERM; print the report. 0, or 2 for an error of ours."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        report = run(
            stopped.is_set, lambda endpoint: print(f"serving {endpoint}", file=sys.stderr, flush=True)
        )
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    fields = dataclasses.asdict(report)
    print(json.dumps(fields) if as_json else "\n".join(f"{key}: {value}" for key, value in fields.items()))
    return 0
