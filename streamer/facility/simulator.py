"""A simulated detector: paced trains over the real wire format, of which it knows every id, label and byte.

Owns the account of what was sent, and the command that serves it. The content is in `simulated`, the faults
in `misbehave`, the sockets in `serve`, the times in `pacing`, the truth in `truth`.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, get_args

from streamer.errors import ConfigError, StageError
from streamer.facility.misbehave import Message, Schedule, messages, parse_schedule
from streamer.facility.pacing import Clock, Outgoing, send_paced
from streamer.facility.serve import Server, never
from streamer.facility.serve_command import add_server_arguments, run_command, server_options
from streamer.facility.simulated import HELD_OUT_SEED, NOISE_DTYPES, Kind, SimulatorOptions, Trains, make_bank
from streamer.facility.truth import TruthLog
from streamer.wire.types import Version

__all__ = ["SimulatorOptions", "SimulatorReport", "SimulatorThread", "simulate"]

# The simulation of a bank of events may take this long.
READY_S: Final = 120.0


@dataclass(frozen=True)
class SimulatorReport:
    """What was served. Events of refused messages count as sent: they left."""

    endpoint: str
    messages_sent: int
    messages_dropped: int
    events_sent: int
    # Offered, but there was no room or no peer.
    events_dropped: int
    # Left out on purpose.
    events_skipped: int
    bytes_sent: int
    bad_requests: int
    # Due times that passed while something else took time.
    late_trains: int
    duration_s: float


class _Account:
    """Knows each message until its fate is known, counts, and writes the log."""

    def __init__(self, log: TruthLog | None) -> None:
        self._log = log
        self._open: dict[int, tuple[int, Message]] = {}
        self._next = 0
        self.events = {"sent": 0, "dropped": 0, "skipped": 0}
        self.bytes_sent = 0

    def open(self, message: Message) -> int:
        """Write the records as offered; returns the ticket of the message."""
        ticket, self._next = self._next, self._next + 1
        self._open[ticket] = (self._log.append(message.rows) if self._log else 0, message)
        return ticket

    def settle(self, ticket: int, sent: bool) -> None:
        place, message = self._open.pop(ticket)
        if self._log:
            self._log.settle(place, message.rows.copy(), sent)
        fate = "sent" if sent else "dropped" if message.parts else "skipped"
        self.events[fate] += len(message.rows)
        if sent:
            self.bytes_sent += sum(memoryview(part).nbytes for part in message.parts)


def _outgoing(
    trains: Trains, schedule: Schedule, options: SimulatorOptions, account: _Account
) -> Iterator[Outgoing]:
    for step in schedule.steps(options.trains):
        for message in messages(trains.train(step.index), step, options.version):
            ticket = account.open(message)
            if message.parts:
                yield Outgoing(message.parts, ticket, step.stall_s)
            else:
                account.settle(ticket, False)


def simulate(
    options: SimulatorOptions,
    stop: Callable[[], bool] = never,
    on_ready: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> SimulatorReport:
    """Serve simulated trains until all are sent or `stop()` is true. Raises ConfigError.

    `on_ready(endpoint)` is called when the socket is bound. `clock` replaces the machine's (tests). A stop is
    seen within `serve.SLICE_S`; what ZeroMQ holds is flushed for at most `linger_s`.
    """
    trains = Trains(options, make_bank(options))
    log = TruthLog(options.log) if options.log else None
    account = _Account(log)
    try:
        with Server(options.server, trains.train_bytes, stop, account.settle) as server:
            if on_ready:
                on_ready(server.endpoint)
            if options.wait_for_peer:
                server.wait_for_peer(None)
            started_s = time.monotonic()
            outgoing = _outgoing(trains, parse_schedule(options.misbehave), options, account)
            clock = clock or Clock(time.monotonic, server.wait)
            late = send_paced(server, outgoing, options.rate_hz, stop, clock)
            duration_s = time.monotonic() - started_s
    finally:
        if log:
            log.close()
    return _report(server, account, late, duration_s)


def _report(server: Server, account: _Account, late: int, duration_s: float) -> SimulatorReport:
    return SimulatorReport(
        endpoint=server.endpoint,
        messages_sent=server.sent,
        messages_dropped=server.dropped,
        events_sent=account.events["sent"],
        events_dropped=account.events["dropped"],
        events_skipped=account.events["skipped"],
        bytes_sent=account.bytes_sent,
        bad_requests=server.bad_requests,
        late_trains=late,
        duration_s=duration_s,
    )


class SimulatorThread:
    """A simulator in a thread, with its own ZeroMQ context.

    with SimulatorThread(SimulatorOptions(kind="noise", trains=10)) as simulator:
        client = Client(simulator.endpoint)
    simulator.report
    """

    def __init__(self, options: SimulatorOptions) -> None:
        self._options = options
        self._stopped, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulator")
        self._error: BaseException | None = None
        self._report: SimulatorReport | None = None
        self.endpoint = ""

    def _run(self) -> None:
        try:
            self._report = simulate(self._options, self._stopped.is_set, self._on_ready)
        except BaseException as error:  # handed to the thread that waits
            self._error = error
        finally:
            self._ready.set()

    def _on_ready(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._ready.set()

    @property
    def report(self) -> SimulatorReport:
        """What was served; only after the end. Raises what the simulator raised."""
        if self._error:
            raise self._error
        if self._report is None:
            raise StageError("the simulator has not ended yet; leave its context or call join first")
        return self._report

    def stop(self) -> None:
        """Ask for the end; returns at once."""
        self._stopped.set()

    def join(self, timeout_s: float) -> SimulatorReport:
        """Wait until all trains are sent. Raises StageError when it takes longer."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise StageError(f"the simulator is still sending after {timeout_s} s; is its peer reading?")
        return self.report

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(READY_S):
            self.stop()
            raise StageError(f"the simulator did not start within {READY_S} s")
        if self._error:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streamer simulate", description="Serve simulated trains.")
    add_server_arguments(parser)
    parser.add_argument("--kind", choices=get_args(Kind), default="droplets")
    parser.add_argument("--version", choices=get_args(Version), default="2.2", help="of the Karabo Bridge")
    parser.add_argument("--rate", type=float, default=10.0, help="trains per second; 0: no limit")
    parser.add_argument("--pulses", type=int, default=16, help="pulses per train")
    parser.add_argument("--trains", type=int, default=None, help="how many; default: until stopped")
    parser.add_argument("--first-train-id", type=int, default=10_000)
    parser.add_argument("--modules", type=int, default=1, help="detector modules, each its own source")
    parser.add_argument("--shape", default="128x128", help="of one frame of noise, as in 512x1024")
    parser.add_argument("--dtype", choices=NOISE_DTYPES, default="uint16", help="of noise")
    parser.add_argument("--bank", type=int, default=512, help="different events to simulate")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--evenness", type=float, default=0.0, help="of droplet labels: 0 measured, 1 equal")
    parser.add_argument("--misbehave", default="", help="faults, as in gap@10:3,duplicate@20")
    parser.add_argument("--log", type=Path, default=None, help="write what was sent to this file")
    parser.add_argument("--no-wait", action="store_true", help="send also while no peer is there")
    return parser


def _options(arguments: argparse.Namespace) -> SimulatorOptions:
    axes = arguments.shape.split("x")
    if not all(axis.isdecimal() for axis in axes):
        raise ConfigError(f"--shape: expected numbers with x between them, got {arguments.shape!r}")
    return SimulatorOptions(
        kind=arguments.kind,
        server=server_options(arguments),
        version=arguments.version,
        rate_hz=arguments.rate,
        pulses=arguments.pulses,
        trains=arguments.trains,
        first_train_id=arguments.first_train_id,
        modules=arguments.modules,
        shape=tuple(int(axis) for axis in axes),
        dtype=arguments.dtype,
        bank_events=arguments.bank,
        seed=arguments.seed,
        evenness=arguments.evenness,
        misbehave=arguments.misbehave,
        log=arguments.log,
        wait_for_peer=not arguments.no_wait,
    )


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    arguments = _parser().parse_args(argv)

    def run(stop: Callable[[], bool], ready: Callable[[str], None]) -> SimulatorReport:
        options = _options(arguments)
        if options.kind != "noise":  # physics takes seconds, on a busy machine many
            print(f"simulating {options.bank_events} events ...", file=sys.stderr, flush=True)
        return simulate(options, stop, ready)

    return run_command(run, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
