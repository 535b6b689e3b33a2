"""Messages that look like the one before: read without taking them apart again.

A source sends the same headers, the same pulse ids and the same sizes train after train; only the train id,
the time stamp, properties and the content of arrays change. What `assemble` found in one message holds for
the next if all that it was found in is the same, byte for byte, and the rest has the form that the decoder
asks for. Comparing costs a fraction of reading (docs/decisions/ingest.md).

Owns that comparison and nothing of the format's meaning: it takes a message only where it gives what decoder
and `assemble` would give (tests/test_express.py), and leaves every other one, and every error, to them. It
serves the plain case: Karabo Bridge 2.2, one source in message and stream, no attached scalars. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from streamer.assemble import Events, SourceSpec
from streamer.wire.msgpack_guard import MessageGuard
from streamer.wire.types import TRAIN_ID_END, Buffer, Limits

# The first header holds the train id and is read each time. Real ones have 200 to 400 bytes, and to 512 the
# decoder would read it unwalked too (wire/msgpack_guard.py).
MAX_HEADER_BYTES: Final = 512
# After so many messages in a row that were not like the last one, only one in SELDOM is remembered.
PATIENCE: Final = 8
SELDOM: Final = 64
# All that is compared: 2700 pulse ids are 22 kB. Comparing more than this could cost more than reading.
MAX_COMPARED_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class _Likeness:
    """What a message must be to give the same events but for the train id and the frames."""

    count: int  # of parts
    frames: int  # number of the part that holds them
    frames_bytes: int
    same: list[tuple[int, bytes]]  # parts by number, with their content
    sizes: list[tuple[int, int]]  # parts that nobody reads, with their bytes
    header: dict[str, Any]  # of part 0, without what changes
    properties: bytes
    events: Events


class Express:
    """Remembers one message of one stream; `read` compares the next one with it."""

    def __init__(self, spec: SourceSpec, limits: Limits) -> None:
        self._possible = len(spec.sources) == 1 and not spec.attach
        self._key, self._pulse_key = spec.key, spec.pulse_key
        self._guard = MessageGuard(limits)
        self._like: _Likeness | None = None
        self._misses = 0

    def read(self, parts: Sequence[Buffer]) -> Events | None:
        """The events of a message that is like the one learned last, else None. Parts as for the decoder."""
        like = self._like
        if like is None or len(parts) != like.count or len(parts[like.frames]) != like.frames_bytes:
            return None
        for index, content in like.same:
            if bytes(parts[index]) != content:
                return None
        for index, size_bytes in like.sizes:
            if len(parts[index]) != size_bytes:
                return None
        train_id = self._train_id(parts[0], like.header)
        if train_id is None or (parts[1] != like.properties and not self._are_properties(parts[1])):
            return None
        self._misses = 0
        return like.events.again(train_id, parts[like.frames])

    def expected(self, index: int, size_bytes: int) -> int:
        """How many events part `index` will hold if the message is like the last one; 0 if it cannot be."""
        like = self._like
        if like is None or index != like.frames or size_bytes != like.frames_bytes:
            return 0
        return like.events.n

    def learn(self, parts: Sequence[Buffer], events: Events) -> None:
        """Remember a message that decoder and `assemble` have read, if another can be like it."""
        self._misses += 1
        if self._misses > PATIENCE and self._misses % SELDOM:
            return
        self._like = None
        if self._possible and events.raw is not None:
            self._like = self._likeness(parts, events)

    def _likeness(self, parts: Sequence[Buffer], events: Events) -> _Likeness | None:
        header = self._header(parts[0])
        arrays = {i: self._guard.unpack_walked(parts[i]) for i in range(2, len(parts), 2)}
        frames = [i + 1 for i, array in arrays.items() if array.get("path") == self._key]
        if header is None or len(frames) != 1:
            return None
        if any(array["source"] != header["source"] for array in arrays.values()):
            return None
        read = [i + 1 for i, array in arrays.items() if array.get("path") == self._pulse_key]
        same = [*arrays, *read]
        if sum(len(parts[i]) for i in same) > MAX_COMPARED_BYTES:
            return None
        return _Likeness(
            count=len(parts),
            frames=frames[0],
            frames_bytes=len(parts[frames[0]]),
            same=[(i, bytes(parts[i])) for i in same],
            sizes=[(i + 1, len(parts[i + 1])) for i in arrays if i + 1 not in (*read, *frames)],
            header=_fixed(header),
            properties=bytes(parts[1]),
            events=events.again(0, b""),
        )

    def _are_properties(self, part: Buffer) -> bool:
        """Other properties than last time, which the decoder would take, and of which nothing is read."""
        if len(part) > MAX_HEADER_BYTES:
            return False
        try:
            values = self._guard.unpack_walked(part)
        except ValueError:
            return False
        return type(values) is dict and self._pulse_key not in values and all(type(k) is str for k in values)

    def _header(self, part: Buffer) -> dict[str, Any] | None:
        """The header of a source's properties with its metadata, as version 2.2 has it; None for another."""
        if len(part) > MAX_HEADER_BYTES:
            return None
        try:
            fields = self._guard.unpack_walked(part)
        except ValueError:
            return None
        if type(fields) is not dict or fields.get("content") != "msgpack":
            return None
        return fields if type(fields.get("metadata")) is dict else None

    def _train_id(self, part: Buffer, fixed: dict[str, Any]) -> int | None:
        """The train id that the header states, if it is one and all else of the header is as `fixed` says."""
        header = self._header(part)
        if header is None:
            return None
        metadata = header["metadata"]
        header["metadata"] = metadata.keys()
        if header != fixed:
            return None
        train_id = metadata.get("timestamp.tid")
        return train_id if type(train_id) is int and 0 < train_id < TRAIN_ID_END else None


def _fixed(header: dict[str, Any]) -> dict[str, Any]:
    """What must be the same: all but the metadata's values, of which only the train id is read."""
    return header | {"metadata": set(header["metadata"])}
