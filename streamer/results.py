"""Codec of our own results stream: one block of events to the frames of one ZeroMQ message, and back.

Owns the byte format. Knows no sockets and no clock. A message is

    topic      b'results.<stream>' or b'verdicts.<stream>', so that a SUB socket can choose
    header     msgpack map, at most MAX_HEADER_BYTES:
               version 1, run, stream, train_id (of the first event; 0 of none), n (events),
               publisher and sequence (it numbers its blocks of one topic from 0), received_at (unix s),
               bundles [{name, sha256}], rules_sha256, routes [names],
               columns [{name, dtype, shape, labels (of vector columns that have them)}]
    columns    one frame each, in the header's order: C-contiguous, little-endian, first axis = event

A block may span several trains: the column train_id is authoritative. Unknown header keys are ignored, so
that the format can grow; another version is refused. Verdict messages hold VERDICT_COLUMNS only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias, get_args

import msgpack  # type: ignore[import-untyped]  # ships no types
import numpy as np
import numpy.typing as npt

from streamer.errors import FrameError
from streamer.fields import Fields, unpack

Kind: TypeAlias = Literal["results", "verdicts"]
Array: TypeAlias = npt.NDArray[Any]
Buffer: TypeAlias = bytes | memoryview

VERSION: Final = 1
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
VERDICT_COLUMNS: Final = ("train_id", "pulse_id", "verdict", "route", "reason")

MAX_HEADER_BYTES: Final = 64 * 1024  # a real one has 1 to 2 kB; bounds what msgpack can blow up to about 5 MB
MAX_COLUMNS: Final = 128  # 64 of a bundle, our own and attached scalars; a real stream has about 15
MAX_EVENTS: Final = 1 << 20  # a block is one ring slot: thousands of events at most
MAX_NDIM: Final = 4
_contiguous = np.ascontiguousarray  # gives a contiguous array back as it is
DTYPES: Final = {
    np.dtype(code).newbyteorder("<").str: np.dtype(code).newbyteorder("<")
    for code in ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
}


@dataclass(frozen=True)
class BundleRef:
    """Which model answered."""

    name: str
    sha256: str


@dataclass(frozen=True)
class ResultHeader:
    """What is common to all events of a block."""

    run: int
    stream: str
    received_at: float  # unix s, of the first message that gave events to the block
    bundles: tuple[BundleRef, ...] = ()
    rules_sha256: str = ""
    routes: tuple[str, ...] = ()  # column `route` holds indices into it
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # element names by vector column
    publisher: str = ""  # random, one per publishing process
    sequence: int = 0  # number of the block among the publisher's of this topic


@dataclass(frozen=True)
class Block:
    """One decoded message. Arrays are read-only views of the received frames, first axis = event."""

    kind: Kind
    header: ResultHeader
    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.columns["train_id"])

    @property
    def stream(self) -> str:
        return self.header.stream

    @property
    def route_names(self) -> tuple[str, ...]:
        return self.header.routes

    def column(self, name: str) -> Array:
        """One column [n] or [n, width]; KeyError names the columns there are."""
        try:
            return self.columns[name]
        except KeyError:
            raise KeyError(
                f"no column {name!r} in {self.kind}.{self.stream}; it has {list(self.columns)}"
            ) from None

    def element(self, name: str, label: str) -> Array:
        """One element [n] of a vector column, by its label."""
        labels = self.header.labels.get(name, ())
        if label not in labels:
            raise KeyError(
                f"column {name!r} of {self.kind}.{self.stream} has no {label!r}; it has {list(labels)}"
            )
        return self.column(name)[:, labels.index(label)]

    def p(self, label: str) -> Array:
        """Probability [n] of one class."""
        return self.element("p", label)


def topic(kind: Kind, stream: str) -> bytes:
    return f"{kind}.{stream}".encode()


def encode(header: ResultHeader, columns: Mapping[str, Array], kind: Kind = "results") -> list[Buffer]:
    """The frames of one message. `columns` must hold train_id u8 [n] and pulse_id u8 [n].

    Contiguous little-endian columns are not copied: keep them unchanged until the frames are sent. ValueError
    for columns that `decode` would refuse: a programming fault here must not become a lost block there.
    """
    return Encoder(kind, header.publisher).frames(header, columns, header.sequence)


class Encoder:
    """Encodes one topic's blocks, one after the other, under a publisher's name.

    Almost all of a header is the same in the next block: those bytes are packed once, and compared with what
    they were made of each time.
    """

    def __init__(self, kind: Kind, publisher: str) -> None:
        self._kind, self._publisher = kind, publisher
        self._pack: Callable[[object], bytes] = msgpack.Packer().pack
        self._template: _Template | None = None

    def frames(self, header: ResultHeader, columns: Mapping[str, Array], sequence: int) -> list[Buffer]:
        """As `encode`; the numbers of publisher and block are not the header's."""
        train_id = columns["train_id"]
        n, template = len(train_id), self._template
        if len(columns) > MAX_COLUMNS or n > MAX_EVENTS:
            raise ValueError(f"{len(columns)} columns of {n} events; at most {MAX_COLUMNS} and {MAX_EVENTS}")
        made_of = (*_constants(header), [(name, c.dtype, c.shape[1:]) for name, c in columns.items()])
        if template is None or template.made_of != made_of:
            template = self._template = _template(self._kind, self._publisher, header, columns, made_of)
        if {column.shape[:1] for column in columns.values()} != {(n,)}:
            raise ValueError(_lengths_text(columns, n))
        pack = self._pack
        number = pack(n)
        before_train, before_n, before_sequence, before_received, *around_n = template.constant
        packed = b"".join(
            (
                *(before_train, pack(int(train_id[0]) if n else 0), before_n, number),
                *(before_sequence, pack(sequence), before_received, pack(header.received_at)),
                number.join(around_n),
            )
        )
        if len(packed) > MAX_HEADER_BYTES:
            raise ValueError(f"header of {len(packed)} bytes, at most {MAX_HEADER_BYTES}; shorten the labels")
        given = [_native(column) for column in columns.values()] if template.foreign else columns.values()
        return [template.topic, packed, *[_contiguous(c).data if c.size else b"" for c in given]]


@dataclass(frozen=True)
class _Template:
    """What one block's message has in common with the next one's."""

    made_of: tuple[object, ...]  # the template holds as long as this is equal
    topic: bytes
    constant: list[bytes]  # before train_id, n, sequence, received_at, then around n in each column's shape
    foreign: bool  # some column is not little-endian


def _constants(header: ResultHeader) -> tuple[object, ...]:
    labels = dict(header.labels)  # a copy: the caller's may change
    return header.run, header.stream, header.bundles, header.rules_sha256, header.routes, labels


def _template(
    kind: Kind,
    publisher: str,
    header: ResultHeader,
    columns: Mapping[str, Array],
    made_of: tuple[object, ...],
) -> _Template:
    """Raises ValueError for columns of another type than `decode` takes."""
    around_n = [_descriptions_before(header, len(columns))]
    for name, column in columns.items():
        before, after = _describe(name, column, header.labels.get(name))
        around_n[-1] += before
        around_n.append(after)
    start = msgpack.Packer().pack_map_header(12) + _pairs(
        version=VERSION, run=header.run, stream=header.stream
    )
    constant = [
        start + _packb("train_id"),
        _packb("n"),
        _pairs(publisher=publisher) + _packb("sequence"),
        _packb("received_at"),
        *around_n,
    ]
    foreign = any(column.dtype.str not in DTYPES for column in columns.values())
    return _Template(made_of, topic(kind, header.stream), constant, foreign)


def _descriptions_before(header: ResultHeader, columns: int) -> bytes:
    bundles = [{"name": bundle.name, "sha256": bundle.sha256} for bundle in header.bundles]
    fields = _pairs(bundles=bundles, rules_sha256=header.rules_sha256, routes=header.routes)
    return fields + _packb("columns") + _array_header(columns)


def _describe(name: str, column: Array, labels: tuple[str, ...] | None) -> tuple[bytes, bytes]:
    """A column's description, {name, dtype, shape, labels if it has some}: before n, and after it."""
    dtype = _native_dtype(column)
    if dtype.str not in DTYPES or not 1 <= column.ndim <= MAX_NDIM:
        raise ValueError(_column_text(name, column, "events"))
    before: bytes = msgpack.Packer().pack_map_header(4 if labels else 3)
    before += _pairs(name=name, dtype=dtype.str) + _packb("shape") + _array_header(column.ndim)
    after = b"".join(_packb(size) for size in column.shape[1:])
    return before, after + (_pairs(labels=labels) if labels else b"")


def _packb(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _pairs(**fields: object) -> bytes:
    """Keys and values of a map, without its head."""
    return b"".join(_packb(key) + _packb(value) for key, value in fields.items())


def _array_header(size: int) -> bytes:
    packed: bytes = msgpack.Packer().pack_array_header(size)
    return packed


def _lengths_text(columns: Mapping[str, Array], n: int) -> str:
    name = next(name for name, column in columns.items() if column.shape[:1] != (n,))
    return _column_text(name, columns[name], f"{n} events")


def _column_text(name: str, column: Array, first: str) -> str:
    return (
        f"column {name!r} is {column.dtype} {column.shape}; expected {first} first, at most {MAX_NDIM} axes, "
        f"and one of {', '.join(DTYPES)}"
    )


def _native_dtype(column: Array) -> np.dtype[Any]:
    return column.dtype if column.dtype.str in DTYPES else column.dtype.newbyteorder("<")


def _native(column: Array) -> Array:
    return column.astype(_native_dtype(column), copy=False)


def decode(frames: Sequence[Any]) -> Block:
    """One message, as bytes, memoryviews or zmq Frames. Raises FrameError and nothing else.

    Every size is checked against the frames before it is used; nothing is copied.
    """
    if not 2 <= len(frames) <= 2 + MAX_COLUMNS:
        raise FrameError("too_many_frames" if len(frames) > 2 else "bad_header", _count_text(len(frames)))
    first, second, *payloads = (memoryview(frame) for frame in frames)
    if second.nbytes > MAX_HEADER_BYTES:
        raise FrameError("header_too_large", f"{second.nbytes} bytes of header, at most {MAX_HEADER_BYTES}")
    fields = Fields(unpack(second), "header")
    if (version := fields.integer("version")) != VERSION:
        raise FrameError("bad_header", f"version {version}, expected {VERSION}; use one release on both ends")
    kind = _kind(first, fields.text("stream"))
    specs = fields.maps("columns", MAX_COLUMNS)
    if len(specs) != len(payloads):
        raise FrameError("size_mismatch", f"{len(specs)} columns announced, {len(payloads)} frames came")
    n = fields.integer("n", MAX_EVENTS)
    columns: dict[str, Array] = {}
    labels: dict[str, tuple[str, ...]] = {}
    for spec, payload in zip(specs, payloads, strict=True):
        name = spec.text("name")
        if name in columns:
            raise FrameError("bad_header", f"column {name[:80]!r} comes twice")
        columns[name] = _column(name, spec, payload, n)
        if "labels" in spec.values:
            labels[name] = _labels(name, spec, columns[name].shape)
    _check_ids(columns, n, fields.integer("train_id"))
    return Block(kind, _header(fields, labels), columns)


def _count_text(count: int) -> str:
    return f"{count} frames; expected a topic, a header and at most {MAX_COLUMNS} columns"


def _kind(first: memoryview, stream: str) -> Kind:
    for kind in KINDS:
        if first.nbytes < MAX_HEADER_BYTES and bytes(first) == topic(kind, stream):
            return kind
    raise FrameError(
        "bad_header",
        f"topic {bytes(first[:80])!r} is not results or verdicts of the header's stream {stream[:80]!r}",
    )


def _column(name: str, spec: Fields, payload: memoryview, n: int) -> Array:
    code, shape = spec.text("dtype"), spec.get("shape", list)
    dtype = DTYPES.get(code)
    if dtype is None:
        raise FrameError(
            "bad_dtype", f"column {name[:80]!r} has {code[:20]!r}, expected one of {', '.join(DTYPES)}"
        )
    if (
        not 1 <= len(shape) <= MAX_NDIM
        or any(type(size) is not int or size < 0 for size in shape)
        or shape[0] != n
    ):
        raise FrameError(
            "bad_shape",
            f"column {name[:80]!r} has {str(shape)[:80]}, expected {n} events first, {MAX_NDIM} axes at most",
        )
    expected_bytes = math.prod(shape) * dtype.itemsize  # Python integers: cannot overflow
    if expected_bytes != payload.nbytes:
        raise FrameError(
            "size_mismatch",
            f"column {name[:80]!r}: {code} {shape} is {expected_bytes} bytes, got {payload.nbytes}",
        )
    return _view(name, payload, dtype, shape)


def _view(name: str, payload: memoryview, dtype: np.dtype[Any], shape: list[int]) -> Array:
    try:
        array = np.frombuffer(payload, dtype).reshape(shape)
    except (ValueError, OverflowError):  # an axis beyond 2**63 beside an empty one
        raise FrameError("bad_shape", f"column {name[:80]!r} has {str(shape)[:80]}: too large") from None
    array.flags.writeable = False
    return array


def _labels(name: str, spec: Fields, shape: tuple[int, ...]) -> tuple[str, ...]:
    labels = spec.texts("labels")
    if len(shape) != 2 or len(labels) != shape[1]:
        raise FrameError("bad_header", f"column {name[:80]!r}: {len(labels)} labels for shape {shape}")
    return labels


def _check_ids(columns: dict[str, Array], n: int, train_id: int) -> None:
    for name in ("train_id", "pulse_id"):
        if name not in columns:
            raise FrameError("key_missing", f"column {name!r} is missing")
        if columns[name].dtype != np.uint64:
            raise FrameError("bad_dtype", f"column {name!r} is {columns[name].dtype}, expected uint64")
        if columns[name].shape != (n,):
            raise FrameError("bad_shape", f"column {name!r} has shape {columns[name].shape}, expected ({n},)")
    if n and int(columns["train_id"][0]) != train_id:
        raise FrameError("train_id_mismatch", f"header says {train_id}, column {int(columns['train_id'][0])}")


def _header(fields: Fields, labels: dict[str, tuple[str, ...]]) -> ResultHeader:
    return ResultHeader(
        run=fields.integer("run"),
        stream=fields.text("stream"),
        received_at=fields.number("received_at"),
        bundles=tuple(BundleRef(b.text("name"), b.text("sha256")) for b in fields.maps("bundles", 64)),
        rules_sha256=fields.text("rules_sha256"),
        routes=fields.texts("routes"),
        labels=labels,
        publisher=fields.text("publisher"),
        sequence=fields.integer("sequence"),
    )


def trains(train_id: npt.NDArray[np.uint64]) -> Iterator[tuple[int, slice]]:
    """The runs of events of one train in a block: (train id, where)."""
    if not len(train_id):
        return
    edges = [0, *(np.flatnonzero(train_id[1:] != train_id[:-1]) + 1).tolist(), len(train_id)]
    for start, end in pairwise(edges):
        yield int(train_id[start]), slice(start, end)
