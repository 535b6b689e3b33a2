"""Messages that look like the one before: read without taking them apart again.

A source sends the same headers, the same pulse ids and the same sizes train after train; only the train id,
the time stamp and the frames change. What `assemble` found in one message holds for the next if all that it
was found in is the same, byte for byte. Comparing costs a fraction of reading (docs/decisions/ingest.md).

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
# All that is compared: 2700 pulse ids are 22 kB. Comparing more than this could cost more than reading.
MAX_COMPARED_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class _Likeness:
    """What a message must be to give the same events but for the train id and the frames."""

    count: int  # of parts
    frames: int  # number of the part that holds them
    frames_bytes: int
    same: list[tuple[int, bytes]]  # all other parts but the first, with their content
    header: dict[str, Any]  # of part 0, without what changes
    events: Events


class Express:
    """Remembers one message of one stream; `read` compares the next one with it."""

    def __init__(self, spec: SourceSpec, limits: Limits) -> None:
        self._possible = len(spec.sources) == 1 and not spec.attach
        self._key = spec.key
        self._guard = MessageGuard(limits)
        self._like: _Likeness | None = None

    def read(self, parts: Sequence[Buffer]) -> Events | None:
        """The events of a message that is like the one learned last, else None. Parts as for the decoder."""
        like = self._like
        if like is None or len(parts) != like.count or len(parts[like.frames]) != like.frames_bytes:
            return None
        for index, content in like.same:
            if bytes(parts[index]) != content:
                return None
        train_id = self._train_id(parts[0], like.header)
        return None if train_id is None else like.events.again(train_id, parts[like.frames])

    def expected(self, index: int, size_bytes: int) -> int:
        """How many events part `index` will hold if the message is like the last one; 0 if it cannot be."""
        like = self._like
        if like is None or index != like.frames or size_bytes != like.frames_bytes:
            return 0
        return like.events.n

    def learn(self, parts: Sequence[Buffer], events: Events) -> None:
        """Remember a message that decoder and `assemble` have read, if another can be like it."""
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
        others = [i for i in range(1, len(parts)) if i != frames[0]]
        if sum(len(parts[i]) for i in others) > MAX_COMPARED_BYTES:
            return None
        same = [(i, bytes(parts[i])) for i in others]
        frames_bytes = len(parts[frames[0]])
        return _Likeness(len(parts), frames[0], frames_bytes, same, _fixed(header), events.again(0, b""))

    def _header(self, part: Buffer) -> dict[str, Any] | None:
        """The header of a source's properties with its metadata, as version 2.2 has it; None for another."""
        if len(part) > MAX_HEADER_BYTES:
            return None
        try:
            fields = self._guard.unpack_walked(part)
        except ValueError:
            return None
        if type(fields) is not dict or type(fields.get("metadata")) is not dict:
            return None
        return fields

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
