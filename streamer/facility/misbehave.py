"""Faults on request: what a detector's server can do wrong, done on purpose and written down.

Owns the schedule of faults (`"gap@10:3,duplicate@20,truncated@30"`: kind @ index of the train : argument) and
pure functions that turn a good train into the messages of a bad one. Opens no socket and knows no time;
silence is a number in the answer.

    kind       argument (default)       what is sent
    gap        trains (1)               nothing; the ids go on
    duplicate  copies (1)               the train, then the same again
    reorder    -                        the next train first
    shape      -                        frames that lack the last element of the last axis
    dtype      -                        frames as float64
    truncated  bytes (1)                an array payload that ends early
    oversized  bytes (1)                an array payload that goes on
    odd        -                        a header without its payload
    content    -                        an array under a content type that does not exist (2.x only)
    pickle     -                        pickled content, harmless
    object     -                        an array of dtype object
    bomb       empty maps (1 000 000)   properties that take 64 times their size in memory
    deep       levels (100 000)         properties nested without end
    unknown    -                        one more source, which nobody asked for
    module     module (0)               all modules but this one
    nan        pulses (1)               NaN and Inf in the first frames (float data only)
    empty      -                        no frames: every array of the detector has length 0
    stall      seconds (1)              the train, after a silence
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # ships no types
import numpy as np

from streamer.errors import ConfigError
from streamer.facility.truth import Array, Mark, checksums
from streamer.wire.karabo_bridge_encode import encode

Part = bytes | memoryview
Sources = dict[str, dict[str, Any]]

# Pickle of None, protocol 2: content that a receiver must not even look at.
PICKLED_NONE: Final = b"\x80\x02N."
UNKNOWN_SOURCE: Final = "SIM_UNKNOWN/NOT/CONFIGURED:output"


@dataclass(frozen=True, slots=True)
class SimTrain:
    """One train before encoding, with the truth about it."""

    train_id: int
    sources: Sources
    metadata: Sources
    # The sources that carry frames, in the order of modules, and the key of the frames in each.
    detectors: tuple[str, ...]
    key: str
    # truth.RECORD [pulse]
    rows: Array


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    index: int
    argument: float


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to the train of this index. `skipped` trains are only written down."""

    index: int
    fault: Fault | None = None
    copies: int = 1
    skipped: bool = False
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """The parts of one message, and the records of its events. No parts: nothing is sent."""

    parts: list[Part]
    rows: Array


@dataclass(frozen=True)
class Schedule:
    """Faults by index of the train, at most one for each train."""

    faults: tuple[Fault, ...] = ()

    def steps(self, trains: int | None) -> Iterator[Step]:
        """The trains 0, 1, ... in the order of sending; `trains` None: without end."""
        at = {fault.index: fault for fault in self.faults}
        indices = iter(range(trains)) if trains is not None else count()
        for index in indices:
            fault = at.get(index)
            if fault is None:
                yield Step(index)
            elif fault.kind == "gap":
                yield Step(index, fault, skipped=True)
                for _, skipped in zip(range(int(fault.argument) - 1), indices, strict=False):
                    yield Step(skipped, fault, skipped=True)
            elif fault.kind == "reorder":
                for following in indices:  # at most one: the pair is complete then
                    yield Step(following, fault)
                    break
                yield Step(index, fault)
            else:
                yield _single(index, fault)


def _single(index: int, fault: Fault) -> Step:
    copies = 1 + int(fault.argument) if fault.kind == "duplicate" else 1
    return Step(index, fault, copies, stall_s=fault.argument if fault.kind == "stall" else 0.0)


def parse_schedule(text: str) -> Schedule:
    """`kind@index[:argument]`, separated by commas. Raises ConfigError."""
    faults = tuple(_parse_fault(word.strip()) for word in text.split(",") if word.strip())
    taken: dict[int, Fault] = {}
    for fault in faults:
        width = {"gap": int(fault.argument), "reorder": 2}.get(fault.kind, 1)
        for index in range(fault.index, fault.index + width):
            if index in taken:
                raise ConfigError(
                    f"misbehaviour: {fault.kind}@{fault.index} and {taken[index].kind}@{taken[index].index} "
                    f"both want train {index}; move one of them"
                )
            taken[index] = fault
    return Schedule(faults)


def _parse_fault(word: str) -> Fault:
    kind, at, place = word.partition("@")
    index, colon, argument = place.partition(":")
    if kind not in DEFAULTS or not at or not index.isdecimal():
        raise ConfigError(
            f"misbehaviour {word!r}: expected kind@train or kind@train:argument, as in gap@10:3, "
            f"with one of the kinds {', '.join(DEFAULTS)}"
        )
    try:
        number = float(argument) if colon else DEFAULTS[kind]
    except ValueError:
        number = math.nan
    limit = _LIMITS.get(kind, 1e6)
    if not (1 if kind in _COUNTS else 0) <= number <= limit:
        raise ConfigError(f"misbehaviour {word!r}: expected a number up to {limit:g}, got {argument!r}")
    return Fault(kind, int(index), number)


def messages(train: SimTrain, step: Step, version: str) -> list[Message]:
    """The messages that leave for this train, with marked records."""
    if step.fault is None:
        return [Message(encode(train.sources, train.metadata, version), train.rows)]
    if step.skipped:
        return [Message([], _marked(train.rows, Mark.GAP))]
    return _faulty(train, step.fault, step.copies, version)


def _faulty(train: SimTrain, fault: Fault, copies: int, version: str) -> list[Message]:
    change = _CHANGES.get(fault.kind)
    if change is not None:
        train = change(train, int(fault.argument))
    parts = encode(train.sources, train.metadata, version)
    edit = _EDITS.get(fault.kind)
    if edit is not None:
        parts = edit(parts, train, int(fault.argument))
    mark = Mark[fault.kind.upper()]
    if fault.kind == "duplicate":
        first = Message(parts, train.rows)
        return [first, *(Message(parts, _marked(train.rows, mark)) for _ in range(copies - 1))]
    if fault.kind == "nan":
        return [Message(parts, train.rows)]  # marked where it was done
    return [Message(parts, _marked(train.rows, mark))]


def _marked(rows: Array, mark: Mark) -> Array:
    rows = rows.copy()
    rows["mark"] |= np.uint32(mark)
    return rows


# Changes of the content, before encoding.


def _with_frames(train: SimTrain, change: Callable[[Array], Array]) -> SimTrain:
    sources = dict(train.sources)
    for name in train.detectors:
        sources[name] = sources[name] | {train.key: change(sources[name][train.key])}
    return replace(train, sources=sources)


def _shape(train: SimTrain, _: int) -> SimTrain:
    return _with_frames(train, lambda frames: np.ascontiguousarray(frames[..., :-1]))


def _dtype(train: SimTrain, _: int) -> SimTrain:
    return _with_frames(train, lambda frames: frames.astype(np.float64))


def _unknown(train: SimTrain, _: int) -> SimTrain:
    extra = {UNKNOWN_SOURCE: {"data.value": np.arange(3.0), "note": "nobody asked for this"}}
    return replace(train, sources=train.sources | extra)


def _module(train: SimTrain, module: int) -> SimTrain:
    missing = train.detectors[module % len(train.detectors)]
    return replace(train, sources={name: data for name, data in train.sources.items() if name != missing})


def _nan(train: SimTrain, pulses: int) -> SimTrain:
    def spoil(frames: Array) -> Array:
        frames = frames.copy()
        flat = frames.reshape(len(frames), -1)
        flat[:pulses, 0] = np.nan
        flat[:pulses, -1] = np.inf
        return frames

    train = _with_frames(train, spoil)
    rows = train.rows.copy()
    rows["mark"][:pulses] |= np.uint32(Mark.NAN)
    per_module = [train.sources[name][train.key] for name in train.detectors]
    rows["crc"] = checksums(np.stack(per_module, axis=1))
    return replace(train, rows=rows)


def _empty(train: SimTrain, _: int) -> SimTrain:
    sources = dict(train.sources)
    for name in train.detectors:
        sources[name] = {
            key: value[:0] if isinstance(value, np.ndarray) else value for key, value in sources[name].items()
        }
    return replace(train, sources=sources, rows=train.rows[:0])


# Edits of the encoded message. A message of one part is version 1.0.


def _edit_array(
    parts: list[Part], train: SimTrain, edit: Callable[[dict[Any, Any], bytes], tuple[dict[Any, Any], bytes]]
) -> list[Part]:
    """Replace header and payload of the first module's frames."""
    source, key = train.detectors[0], train.key
    if len(parts) == 1:
        whole = msgpack.unpackb(parts[0], strict_map_key=False)
        header, payload = edit(whole[source][key], whole[source][key][b"data"])
        whole[source][key] = header | {b"data": payload}
        return [msgpack.packb(whole)]
    for place in range(0, len(parts), 2):
        header = msgpack.unpackb(parts[place])
        if header["source"] == source and header.get("path") == key:
            header, payload = edit(header, bytes(parts[place + 1]))
            return [*parts[:place], msgpack.packb(header), payload, *parts[place + 2 :]]
    raise ConfigError(f"misbehaviour: the train has no array {source}[{key}]")


def _truncated(parts: list[Part], train: SimTrain, missing_bytes: int) -> list[Part]:
    return _edit_array(parts, train, lambda header, data: (header, data[: max(0, len(data) - missing_bytes)]))


def _oversized(parts: list[Part], train: SimTrain, extra_bytes: int) -> list[Part]:
    return _edit_array(parts, train, lambda header, data: (header, data + bytes(extra_bytes)))


def _content(parts: list[Part], train: SimTrain, _: int) -> list[Part]:
    return _edit_array(parts, train, lambda header, data: (header | {"content": "hologram"}, data))


def _pickle(parts: list[Part], train: SimTrain, _: int) -> list[Part]:
    # 1.0 has no content types: msgpack-numpy marks pickled arrays by their kind.
    told = {b"kind": b"O"} if len(parts) == 1 else {"content": "pickle.HIGHEST_PROTOCOL"}
    return _edit_array(parts, train, lambda header, _: (header | told, PICKLED_NONE))


def _object(parts: list[Part], train: SimTrain, _: int) -> list[Part]:
    told = {b"type": "|O"} if len(parts) == 1 else {"dtype": "object"}
    return _edit_array(parts, train, lambda header, data: (header | told, data))


def _odd(parts: list[Part], _train: SimTrain, _: int) -> list[Part]:
    return [*parts, b"", b""] if len(parts) == 1 else parts[:-1]


def _bomb(parts: list[Part], train: SimTrain, maps: int) -> list[Part]:
    return _with_properties(parts, train, b"\xdd" + maps.to_bytes(4, "big") + b"\x80" * maps)


def _deep(parts: list[Part], train: SimTrain, levels: int) -> list[Part]:
    return _with_properties(parts, train, b"\x91" * levels + b"\xc0")


def _with_properties(parts: list[Part], train: SimTrain, value: bytes) -> list[Part]:
    """Give the first module the one property 'bomb', of msgpack bytes `value`."""
    properties: bytes = b"\x81" + msgpack.packb("bomb") + value
    source = train.detectors[0]
    if len(parts) == 1:
        return [b"\x81" + msgpack.packb(source) + properties]
    for place in range(0, len(parts), 2):
        header = msgpack.unpackb(parts[place])
        if header["source"] == source and header["content"] == "msgpack":
            return [*parts[: place + 1], properties, *parts[place + 2 :]]
    raise ConfigError(f"misbehaviour: the train has no source {source}")


# Each kind with the default of its argument.
DEFAULTS: Final[dict[str, float]] = {
    "gap": 1,
    "duplicate": 1,
    "reorder": 0,
    "shape": 0,
    "dtype": 0,
    "truncated": 1,
    "oversized": 1,
    "odd": 0,
    "content": 0,
    "pickle": 0,
    "object": 0,
    "bomb": 1_000_000,
    "deep": 100_000,
    "unknown": 0,
    "module": 0,
    "nan": 1,
    "empty": 0,
    "stall": 1.0,
}
# Arguments that count something, of which there must be one.
_COUNTS: Final = ("gap", "duplicate", "truncated", "oversized", "bomb", "deep", "nan")
# A bomb of this many bytes is larger than any limit on properties; other arguments are at most a million.
_LIMITS: Final[dict[str, float]] = {"bomb": 1e8}
_CHANGES: Final[dict[str, Callable[[SimTrain, int], SimTrain]]] = {
    "shape": _shape,
    "dtype": _dtype,
    "unknown": _unknown,
    "module": _module,
    "nan": _nan,
    "empty": _empty,
}
_EDITS: Final[dict[str, Callable[[list[Part], SimTrain, int], list[Part]]]] = {
    "truncated": _truncated,
    "oversized": _oversized,
    "odd": _odd,
    "content": _content,
    "pickle": _pickle,
    "object": _object,
    "bomb": _bomb,
    "deep": _deep,
}
