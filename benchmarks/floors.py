"""What this machine can do at all, measured in the same run as what is compared with it.

Copies in memory; single-part messages between two processes, over raw TCP and over bare ZeroMQ, into the
slots of a shared memory; the wake-up of a sleeping process; the hand-over through shared memory; the network
alone at its best batch. Nothing here decodes, counts, or answers. The loops are in `floor_streams` and
`floor_wakes`, the network in `bare`.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.config import Options
from benchmarks.events import threads
from benchmarks.floor_streams import RING_BYTES, WALK_BYTES
from benchmarks.helper import Helper
from benchmarks.network import CLASSIFIER, classifier
from benchmarks.table import Line, measured, quantiles_ms, show
from streamer import memory

SIZES_BYTES: Final = {
    "2.56 kB": 2560,
    "32 kB": 1 << 15,
    "128 kB": 1 << 17,
    "1 MiB": 1 << 20,
    "8 MiB": 8 << 20,
}
# Blocks of the copies: 2.56 kB measure numpy's call, not the memory.
COPIED: Final = ("32 kB", "128 kB", "1 MiB", "8 MiB")
# Name, role of the sender, role of the receiver.
WIRES: Final = (
    ("raw TCP, recv_into a slot", "tcp", "tcp"),
    ("pyzmq recv, copy to a slot", "zmq", "zmq_copy"),
    ("pyzmq recv_into a slot", "zmq", "zmq_into"),
)
# Floors are steadier than what stands on them, and there are many: at most so long, to stay below 90 s.
TURNS: Final = 3
TURN_S: Final = 0.5
WARM_S: Final = 0.1
# Far enough apart for the receiver to sleep in between, close enough for some hundred in half a second.
WAKES_HZ: Final = 500.0
WARM_WAKES: Final = 10
HANDED: Final = ("32 kB", "1 MiB")
BATCHES: Final = (1, 8, 32, 64)
# The first batches of a size choose memory and kernels, and say how many fit the time.
TRIAL_BATCHES: Final = 3
Turn = Mapping[str, Any]


def rows(options: Options) -> Iterator[Line]:
    options = replace(
        options,
        repeats=min(options.repeats, TURNS),
        seconds=min(options.seconds, TURN_S),
        warm_s=min(options.warm_s, WARM_S),
    )
    yield from copies(options)
    for name in _some(tuple(SIZES_BYTES), options):
        yield from messages(name, options)
    yield from wakes(options)
    yield from hand_overs(options)
    yield from network(options)


def _some(names: Sequence[Any], options: Options) -> Sequence[Any]:
    return names if options.every_load else (names[0], names[-1])


# --- memory -------------------------------------------------------------------------------------------


def copies(options: Options) -> Iterator[Line]:
    """One process; bytes are counted once, though each is read and written."""
    places = {"same block again": False, f"walking {WALK_BYTES >> 20} MiB": True}
    cases = [(name, place) for place in places for name in _some(COPIED, options)]
    found: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    with Helper("benchmarks.floor_streams", {"role": "copy"}) as helper:
        for _ in range(options.repeats):
            for name, place in cases:
                request = {"block_bytes": SIZES_BYTES[name], "walk": places[place]}
                counts = helper.ask(request | {"seconds": options.seconds})
                found[name, place].append(counts["bytes"] / counts["seconds"] / 1e9)
    for (name, place), rates in found.items():
        yield Line("floor: numpy copy", f"{name}, {place}", "GB/s", measured(rates))


# --- messages -----------------------------------------------------------------------------------------


def messages(name: str, options: Options) -> Iterator[Line]:
    """Single-part messages of one size; each way has a sender of its own."""
    runs: dict[str, list[Turn]] = {wire: [] for wire, _, _ in WIRES}
    with ExitStack() as stack:
        pairs = {wire: _pair(stack, SIZES_BYTES[name], send, receive) for wire, send, receive in WIRES}
        for _ in range(options.repeats):
            for wire, (sender, receiver) in pairs.items():
                with sender.running():
                    runs[wire].append(receiver.ask({"warm_s": options.warm_s, "seconds": options.seconds}))
    for wire, turns in runs.items():
        yield _message_line(name, wire, turns)


def _pair(stack: ExitStack, message_bytes: int, send: str, receive: str) -> tuple[Helper, Helper]:
    how: dict[str, Any] = {"message_bytes": message_bytes}
    sender = stack.enter_context(Helper("benchmarks.floor_streams", {"role": "send", "wire": send} | how))
    how |= {"role": receive, "endpoint": sender.hello["endpoint"]}
    receiver = stack.enter_context(Helper("benchmarks.floor_streams", how))
    with sender.running():
        pass  # from here on it stands still unless it is measured
    return sender, receiver


def _message_line(name: str, wire: str, turns: Sequence[Turn]) -> Line:
    rates = [turn["messages"] / turn["seconds"] for turn in turns]
    cpu_us = measured([1e6 * turn["cpu_s"] / max(1, turn["messages"]) for turn in turns]).median
    values = {"messages_per_s": measured(rates).median, "cpu_us_per_message": cpu_us}
    note = f"{show(values['messages_per_s'])} messages/s, CPU {show(cpu_us)} us/message"
    gigabytes = measured([rate * SIZES_BYTES[name] / 1e9 for rate in rates])
    return Line(f"floor: messages of {name}", wire, "GB/s", gigabytes, note, values)


# --- wake-ups -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How a sleeping process is woken: where both sides find it, and with what."""

    name: str
    sender: Mapping[str, Any]
    receiver: Mapping[str, Any]
    fds: tuple[int, ...] = ()


def _ways(folder: Path) -> list[Way]:
    """The caller closes `fds`."""
    (read, write), event = os.pipe(), os.eventfd(0)
    zmq = [
        Way(name, {"way": "zmq", "where": where, "message_bytes": size}, {"way": "zmq"})
        for name, where, size in (
            ("pyzmq tcp, 32 kB", "tcp://127.0.0.1:0", SIZES_BYTES["32 kB"]),
            ("pyzmq tcp, 16 bytes", "tcp://127.0.0.1:0", 16),
            ("pyzmq ipc, 16 bytes", f"ipc://{folder}/wake", 16),
        )
    ]
    how: dict[str, Any] = {"way": "pipe", "message_bytes": 8}
    pipe = Way("pipe", how | {"where": write}, {"way": "pipe", "where": read}, (read, write))
    how = {"way": "eventfd", "where": event}
    return [*zmq, pipe, Way("eventfd", how | {"message_bytes": 8}, how, (event,))]


def wakes(options: Options) -> Iterator[Line]:
    """One way, from before the sending call to after the receiving call, the receiver asleep in between."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        ways = _ways(Path(folder))
        for fd in [fd for way in ways for fd in way.fds]:
            stack.callback(os.close, fd)
        pairs = {way.name: _wake_pair(stack, way) for way in ways}
        turns = [
            {name: _wake(*pair, options) for name, pair in pairs.items()} for _ in range(options.repeats)
        ]
    for name in pairs:
        yield _latency_line("floor: wake-up", name, [turn[name] for turn in turns])


def _wake_pair(stack: ExitStack, way: Way) -> tuple[Helper, Helper]:
    sender = stack.enter_context(Helper("benchmarks.floor_wakes", {"role": "pace", **way.sender}, way.fds))
    how = {"role": "wake", "where": sender.hello.get("endpoint"), **way.receiver}
    return sender, stack.enter_context(Helper("benchmarks.floor_wakes", how, way.fds))


def _wake(sender: Helper, receiver: Helper, options: Options) -> list[float]:
    count = WARM_WAKES + max(WARM_WAKES, round(WAKES_HZ * options.seconds))
    receiver.tell({"count": count})
    sender.ask({"count": count, "rate_hz": WAKES_HZ})
    seconds: list[float] = receiver.read()["seconds"]
    return seconds[WARM_WAKES:]


def _latency_line(row: str, name: str, turns: Sequence[Sequence[float]]) -> Line:
    """Medians of the turns; quantiles over all of them."""
    everything = [s for turn in turns for s in turn]
    us = {quantile: ms * 1e3 for quantile, ms in quantiles_ms(everything).items()}
    note = f"p99 {show(us['p99'])} of {len(everything)}"
    medians = measured([float(np.median(turn)) * 1e6 for turn in turns])
    return Line(row, name, "us (p50)", medians, note, us | {"n": float(len(everything))})


# --- shared memory ------------------------------------------------------------------------------------


def hand_overs(options: Options) -> Iterator[Line]:
    """A ring between two processes that both spin: how late a message is seen, and how many bytes pass."""
    ages: list[list[float]] = []
    rates: dict[str, list[float]] = {name: [] for name in _some(HANDED, options)}
    for _ in range(options.repeats):
        for name, found in rates.items():
            found.append(_hand_over(SIZES_BYTES[name], "copy", options)["rate"])
        ages.append(_hand_over(SIZES_BYTES["32 kB"], "latency", options)["seconds"])
    yield _latency_line("floor: ring in shared memory", "hand-over, both spinning", ages)
    for name, found in rates.items():
        gigabytes = measured([rate * SIZES_BYTES[name] / 1e9 for rate in found])
        note = f"{show(measured(found).median)} messages/s"
        yield Line("floor: ring in shared memory", f"{name} written, view taken", "GB/s", gigabytes, note)


def _hand_over(message_bytes: int, kind: str, options: Options) -> dict[str, Any]:
    fd = memory.create("floor", RING_BYTES)
    how = {"fd": fd, "message_bytes": message_bytes}
    with ExitStack() as stack:
        stack.callback(os.close, fd)
        producer, consumer = (
            stack.enter_context(Helper("benchmarks.floor_wakes", {"role": role} | how, [fd]))
            for role in ("produce", "consume")
        )
        consumer.tell({"kind": kind})
        producer.ask({"kind": kind, "seconds": options.seconds})
        taken = consumer.read()
    return taken | {"rate": taken["messages"] / taken["took_s"]}


# --- the network --------------------------------------------------------------------------------------


def network(options: Options) -> Iterator[Line]:
    """The classifier on prebuilt frames, batch after batch, in the mode that it chooses here."""
    rates: dict[int, list[float]] = {batch: [] for batch in _some(BATCHES, options)}
    how: dict[str, Any] = {"threads": threads(), "batch": max(BATCHES), "mode": None, "endpoint": None}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        how["bundle"] = str(classifier(Path(folder)))
        with Helper("benchmarks.bare", how) as bare:
            for _ in range(options.repeats):
                for batch, found in rates.items():
                    found.append(_batches_per_s(bare, batch, options) * batch)
            mode = bare.hello["mode"]
    best = max(rates, key=lambda batch: measured(rates[batch]).median)
    for batch, found in rates.items():
        note = f"{mode}, {threads()} threads" + ("; the best of these" if batch == best else "")
        yield Line(f"floor: {CLASSIFIER} alone", f"batch {batch}", "events/s", measured(found), note)


def _batches_per_s(bare: Helper, batch: int, options: Options) -> float:
    request = {"kind": "latency", "n": batch, "rate_hz": 0.0}
    trial = bare.ask(request | {"batches": TRIAL_BATCHES})["seconds"]
    count: int = max(TRIAL_BATCHES, round(options.seconds / min(trial)))
    seconds: list[float] = bare.ask(request | {"batches": count})["seconds"]
    return count / sum(seconds)
