"""Karabo Bridge, the protocol of European XFEL: frames of one multipart message to a train, and back.

Owns the decoder of versions 2.2, 2.1 and 2.0; their headers, the encoder and version 1.0 are modules of
their own. The format is that of `karabo_bridge.serializer` (European-XFEL/karabo-bridge-py): (header,
payload) pairs, a msgpack map of properties per source and one pair per array. The version is not on the
wire: one frame is 1.0 or an error text, more are 2.x. The order of an array's axes is not on the wire either.

Stricter than that client: an odd number of frames, sizes that disagree and pickled content are refused.
"""

from collections.abc import Sequence
from typing import Any

from streamer.errors import FrameError
from streamer.wire.arrays import show
from streamer.wire.karabo_bridge_encode import encode
from streamer.wire.karabo_bridge_headers import ArrayHeader, HeaderReader, PropertiesHeader
from streamer.wire.karabo_bridge_v1 import decode_single_frame
from streamer.wire.msgpack_guard import MessageGuard
from streamer.wire.types import DEFAULT_LIMITS, Buffer, Limits, SourceData, Train

__all__ = ["Decoder", "Limits", "SourceData", "Train", "decode", "encode"]


class Decoder:
    """Decodes message after message of one sender, whose array headers it remembers."""

    __slots__ = ("_headers", "_limits")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._headers = HeaderReader()

    def decode(self, frames: Sequence[Buffer]) -> Train:
        """The train in the frames of one message, of any version. Arrays are read-only views of the frames.

        Raises FrameError and nothing else, whatever the bytes.
        """
        limits = self._limits
        if len(frames) == 1:
            return decode_single_frame(frames[0], limits)
        if len(frames) % 2 or not frames:
            raise FrameError(
                "odd_frame_count",
                f"expected pairs of header and payload, got {len(frames)} frames; a part was lost",
            )
        if len(frames) > limits.max_frames:
            raise FrameError("too_many_frames", f"got {len(frames)} frames, the limit is {limits.max_frames}")
        return Train(self._decode_pairs(frames))

    def _decode_pairs(self, frames: Sequence[Buffer]) -> dict[str, SourceData]:
        sources: dict[str, SourceData] = {}
        guard = MessageGuard(self._limits)
        for index in range(0, len(frames), 2):
            header, payload = self._headers.read(frames[index], index, guard), frames[index + 1]
            data = sources.get(header.source)
            if data is None:  # an array may come before its source's properties
                data = sources[header.source] = SourceData({}, {}, {})
            if isinstance(header, ArrayHeader):
                if header.path in data.arrays:
                    raise _array_twice(header)
                data.arrays[header.path] = header.form.view(payload)
            else:
                _place_properties(data, header, payload, guard)
        return sources


def decode(frames: Sequence[Buffer], limits: Limits = DEFAULT_LIMITS) -> Train:
    """The same for a single message."""
    return Decoder(limits).decode(frames)


def _array_twice(header: ArrayHeader) -> FrameError:
    return FrameError("bad_header", f"array {show(header.path)} of source {show(header.source)} comes twice")


def _place_properties(
    data: SourceData, header: PropertiesHeader, payload: Buffer, guard: MessageGuard
) -> None:
    source = header.source
    try:
        values = guard.unpack(payload)
    except ValueError as error:
        raise FrameError("bad_payload", f"properties of source {show(source)}: {error}") from None
    problem = _not_text_keys(values)
    if problem:
        raise FrameError("bad_payload", f"properties of source {show(source)}: {problem}")
    if data.values or data.metadata:
        raise FrameError("bad_header", f"source {show(source)} comes twice in one message")
    data.values = values
    data.metadata = _take_metadata(header, values)


def _take_metadata(header: PropertiesHeader, values: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a source: in the header (2.2), or flattened in the properties (2.1), or nested (2.0)."""
    metadata = header.metadata
    if metadata is None:
        flat = [key for key in values if key.startswith("metadata.")]
        if flat:
            return {key.removeprefix("metadata."): values.pop(key) for key in flat}
        if type(values.get("metadata")) is dict:
            metadata = values.pop("metadata")
        else:
            return {}
    problem = _not_text_keys(metadata)
    if problem:
        raise FrameError("bad_header", f"metadata of source {show(header.source)}: {problem}")
    return metadata  # type: ignore[no-any-return]  # a map with str keys, just checked


def _not_text_keys(value: Any) -> str | None:
    """What keeps `value` from being a map with text keys."""
    if type(value) is not dict:
        return f"expected a map, got {type(value).__name__}"
    for key in value:
        if type(key) is not str:
            return f"keys must be text, got {show(key)}"
    return None
