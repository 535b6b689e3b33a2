"""Serve recorded data like a live detector: European XFEL runs, plain HDF5, npz.

Owns the order and the ids of the trains, and the command. Reading is in `recordings` and `tables`, sockets
are in `serve`, times in `pacing`.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.progress import track

from streamer.errors import ConfigError
from streamer.facility.pacing import Clock, Outgoing, send_paced
from streamer.facility.recordings import Recording, RunRecording, is_run_file, open_file
from streamer.facility.serve import Server, ServerOptions, never
from streamer.facility.serve_command import add_server_arguments, run_command, server_options
from streamer.facility.stamp import stamp
from streamer.facility.tables import TableOptions, TableRecording, parse_column
from streamer.wire.karabo_bridge_encode import encode
from streamer.wire.types import Version

# (the trains, their number or None) -> the trains.
Progress = Callable[[Iterator[Outgoing], int | None], Iterator[Outgoing]]


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed, and how it becomes trains."""

    # A run directory, run files, or other HDF5 and npz files, which follow each other.
    paths: tuple[Path, ...]
    server: ServerOptions = field(default_factory=ServerOptions)
    # Version of the Karabo Bridge protocol.
    version: Version = "2.2"
    # Trains per second; 0: as fast as the peer takes them.
    rate_hz: float = 10.0
    # Begin again at the end; train ids go on growing.
    loop: bool = False
    # Trains to send; None: all.
    trains: int | None = None
    # Runs: 'source' or 'source[key]', * and ? allowed; none: all INSTRUMENT sources.
    select: tuple[str, ...] = ()
    # Runs: keep the first axis of values that come once per train.
    keep_first_axis: bool = False
    # Other files: 'DATASET=SOURCE[key]' for each dataset to send.
    datasets: tuple[str, ...] = ()
    # Other files: a row is one event, or all events of one train.
    axis: Literal["event", "train"] = "event"
    # Other files: events in a train.
    pulses: int = 1
    # Other files: dataset with the train id of each row; empty: trains are numbered.
    train_ids: str = ""
    # The number of the first train, where the file has no ids.
    first_train_id: int = 10_000
    # Send nothing before the first peer is there.
    wait_for_peer: bool = True

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ConfigError("replay: " + "; ".join(problems))


def _problems(options: ReplayOptions) -> Iterator[str]:
    if not options.paths:
        yield "name at least one file or run directory"
    if options.version not in get_args(Version):
        yield f"version: expected one of {', '.join(get_args(Version))}, got {options.version!r}"
    if options.axis not in ("event", "train"):
        yield f"axis: expected event or train, got {options.axis!r}"
    if options.pulses < 1:
        yield f"pulses must be at least 1, got {options.pulses}"
    if not (math.isfinite(options.rate_hz) and options.rate_hz >= 0):
        yield f"rate_hz must be 0 (as fast as possible) or more, got {options.rate_hz}"
    if options.trains is not None and options.trains < 0:
        yield f"trains must be 0 or more, got {options.trains}"
    if options.select and options.datasets:
        yield "select is for runs, datasets for other files; give one of them"


@dataclass(frozen=True)
class ReplayReport:
    endpoint: str
    # Trains in the recordings; with a loop more may be sent.
    trains_recorded: int
    messages_sent: int
    messages_dropped: int
    bad_requests: int
    late_trains: int
    duration_s: float


def open_recordings(options: ReplayOptions) -> list[Recording]:
    """Open all files. Raises ConfigError."""
    files = [file for path in options.paths for file in _files_of(path)]
    if not options.datasets and all(file.suffix != ".npz" and _is_run(file) for file in files):
        return [RunRecording(files, options.select, options.keep_first_axis)]
    if options.select:
        raise ConfigError(f"select is for runs, but {', '.join(map(str, options.paths))} is not one")
    columns = tuple(parse_column(text) for text in options.datasets)
    table = TableOptions(columns, options.axis, options.pulses, options.train_ids)
    return [TableRecording(file, table) for file in files]


def _files_of(path: Path) -> Sequence[Path]:
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.h5"))
    if not files:
        raise ConfigError(f"{path} has no .h5 files; expected a run directory")
    return files


def _is_run(path: Path) -> bool:
    with open_file(path) as file:
        return is_run_file(file)


def recorded_trains(recordings: Sequence[Recording], options: ReplayOptions) -> Iterator[Outgoing]:
    """All trains as messages, in order, again and again with `loop`; ids never come twice in a loop."""
    sent, shift = 0, 0
    while options.trains is None or sent < options.trains:
        first_id, last_id, number = None, -1, options.first_train_id
        for recording in recordings:
            for place in range(len(recording)):
                if sent == options.trains:
                    return
                train = recording.train(place)
                train_id = shift + (number if train.train_id is None else train.train_id)
                first_id, last_id, number = (
                    first_id if first_id is not None else train_id,
                    train_id,
                    number + 1,
                )
                time_ns = train.time_ns or time.time_ns()
                metadata = {source: stamp(source, train_id, time_ns) for source in train.values}
                yield Outgoing(encode(train.values, metadata, options.version), sent)
                sent += 1
        if not options.loop or first_id is None:
            return
        shift += last_id - first_id + 1


def unseen(trains: Iterator[Outgoing], number: int | None) -> Iterator[Outgoing]:
    """Progress that nobody is shown."""
    del number
    return trains


def shown(trains: Iterator[Outgoing], number: int | None) -> Iterator[Outgoing]:
    """A bar on a terminal's stderr, and nothing anywhere else."""
    bar = Console(stderr=True)
    return iter(track(trains, "replaying", total=number, console=bar, disable=not bar.is_terminal))


def _number(recordings: Sequence[Recording], options: ReplayOptions) -> int | None:
    recorded = None if options.loop else sum(map(len, recordings))
    return options.trains if recorded is None else min(recorded, options.trains or recorded)


def replay(
    options: ReplayOptions,
    stop: Callable[[], bool] = never,
    on_ready: Callable[[str], None] | None = None,
    clock: Clock | None = None,
    progress: Progress = unseen,
) -> ReplayReport:
    """Serve recorded trains until all are sent or `stop()` is true. Raises ConfigError.

    `on_ready(endpoint)` is called when the socket is bound. `clock` replaces the machine's (tests).
    `progress` gets the trains and their number, None without an end, and passes them on.
    """
    recordings = open_recordings(options)
    try:
        train_bytes = max(recording.train_bytes for recording in recordings)
        with Server(options.server, train_bytes, stop) as server:
            if on_ready:
                on_ready(server.endpoint)
            if options.wait_for_peer:
                server.wait_for_peer(None)
            started_s = time.monotonic()
            clock = clock or Clock(time.monotonic, server.wait)
            trains = progress(recorded_trains(recordings, options), _number(recordings, options))
            late = send_paced(server, trains, options.rate_hz, stop, clock)
            duration_s = time.monotonic() - started_s
    finally:
        for recording in recordings:
            recording.close()
    return ReplayReport(
        endpoint=server.endpoint,
        trains_recorded=sum(map(len, recordings)),
        messages_sent=server.sent,
        messages_dropped=server.dropped,
        bad_requests=server.bad_requests,
        late_trains=late,
        duration_s=duration_s,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streamer replay", description="Serve recorded trains.")
    parser.add_argument("paths", type=Path, nargs="+", help="run directory, run files, HDF5 or npz files")
    add_server_arguments(parser)
    parser.add_argument("--version", choices=get_args(Version), default="2.2", help="of the Karabo Bridge")
    parser.add_argument("--rate", type=float, default=10.0, help="trains per second; 0: no limit")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    parser.add_argument("--trains", type=int, default=None, help="how many; default: all")
    parser.add_argument("--select", action="append", default=[], help="of a run: source or source[key]")
    parser.add_argument("--keep-first-axis", action="store_true", help="also where it has length 1")
    parser.add_argument("--dataset", action="append", default=[], help="DATASET=SOURCE[key]")
    parser.add_argument("--axis", choices=("event", "train"), default="event", help="what a row is")
    parser.add_argument("--pulses", type=int, default=1, help="events in a train")
    parser.add_argument("--train-ids", default="", help="dataset with the train id of each row")
    parser.add_argument("--first-train-id", type=int, default=10_000, help="where the file has no ids")
    parser.add_argument("--no-wait", action="store_true", help="send also while no peer is there")
    return parser


def _options(arguments: argparse.Namespace) -> ReplayOptions:
    return ReplayOptions(
        paths=tuple(arguments.paths),
        server=server_options(arguments),
        version=arguments.version,
        rate_hz=arguments.rate,
        loop=arguments.loop,
        trains=arguments.trains,
        select=tuple(arguments.select),
        keep_first_axis=arguments.keep_first_axis,
        datasets=tuple(arguments.dataset),
        axis=arguments.axis,
        pulses=arguments.pulses,
        train_ids=arguments.train_ids,
        first_train_id=arguments.first_train_id,
        wait_for_peer=not arguments.no_wait,
    )


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run_command(
        lambda stop, ready: replay(_options(arguments), stop, ready, progress=shown), arguments.json
    )


if __name__ == "__main__":
    sys.exit(main())
