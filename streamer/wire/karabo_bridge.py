"""Karabo Bridge, the protocol of European XFEL: frames of one multipart message to a train, and back.

Owns the decoder of versions 2.2, 2.1 and 2.0; the encoder and version 1.0 are modules of their own. The
format is that of `karabo_bridge.serializer` (European-XFEL/karabo-bridge-py): (header, payload) pairs, a
msgpack map of properties per source and one pair per array. The version is not on the wire: one frame is
1.0 or an error text, more are 2.x. The order of an array's axes is not on the wire either.

Stricter than that client: an odd number of frames, sizes that disagree and pickled content are refused.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from streamer.errors import FrameError
from streamer.wire.arrays import show, view_array
from streamer.wire.karabo_bridge_encode import encode
from streamer.wire.karabo_bridge_v1 import decode_single_frame
from streamer.wire.msgpack_guard import MessageGuard
from streamer.wire.types import DEFAULT_LIMITS, Buffer, Limits, SourceData, Train

__all__ = ["Limits", "SourceData", "Train", "decode", "encode"]

_Header = dict[str, Any]


def decode(frames: Sequence[Buffer], limits: Limits = DEFAULT_LIMITS) -> Train:
    """The train in the frames of one message, of any version. Arrays are read-only views of the frames.

    Raises FrameError and nothing else, whatever the bytes.
    """
    if len(frames) == 1:
        return decode_single_frame(frames[0], limits)
    if len(frames) % 2 or not frames:
        raise FrameError(
            "odd_frame_count",
            f"expected pairs of header and payload, got {len(frames)} frames; a part was lost",
        )
    if len(frames) > limits.max_frames:
        raise FrameError("too_many_frames", f"got {len(frames)} frames, the limit is {limits.max_frames}")
    return Train(_decode_pairs(frames, limits))


def _decode_pairs(frames: Sequence[Buffer], limits: Limits) -> dict[str, SourceData]:
    sources: dict[str, SourceData] = {}
    guard = MessageGuard(limits)
    for index in range(0, len(frames), 2):
        header = _read_header(frames[index], index, guard)
        source, content, payload = header.get("source"), header.get("content"), frames[index + 1]
        if type(source) is not str or type(content) is not str:
            raise FrameError(
                "bad_header",
                f"frame {index}: 'source' and 'content' must be text, got {show(source)} and {show(content)}",
            )
        read = _READERS.get(content)
        if read is None:
            raise _content_error(source, content)
        data = sources.get(source)
        if data is None:  # an array may come before its source's properties
            data = sources[source] = SourceData({}, {}, {})
        read(data, header, payload, guard)
    return sources


def _read_header(frame: Buffer, index: int, guard: MessageGuard) -> _Header:
    limit_bytes = guard.limits.max_header_bytes
    if len(frame) > limit_bytes:
        raise FrameError(
            "header_too_large",
            f"frame {index}: header of {len(frame)} bytes, the limit is {limit_bytes}",
        )
    try:
        header = guard.unpack(frame)
    except ValueError as error:
        raise FrameError("bad_header", f"frame {index}: {error}") from None
    if type(header) is not dict:
        raise FrameError("bad_header", f"frame {index}: expected a map, got {type(header).__name__}")
    return header


def _read_properties(data: SourceData, header: _Header, payload: Buffer, guard: MessageGuard) -> None:
    source = header["source"]
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


def _take_metadata(header: _Header, values: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a source: in the header (2.2), or flattened in the properties (2.1), or nested (2.0)."""
    metadata = header.get("metadata")
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
        raise FrameError("bad_header", f"metadata of source {show(header['source'])}: {problem}")
    return metadata  # type: ignore[no-any-return]  # a map with str keys, just checked


def _not_text_keys(value: Any) -> str | None:
    """What keeps `value` from being a map with text keys."""
    if type(value) is not dict:
        return f"expected a map, got {type(value).__name__}"
    for key in value:
        if type(key) is not str:
            return f"keys must be text, got {show(key)}"
    return None


def _read_array(data: SourceData, header: _Header, payload: Buffer, guard: MessageGuard) -> None:
    source, path = header["source"], header.get("path")
    if type(path) is not str:
        raise FrameError("bad_header", f"array of {show(source)}: 'path' must be text, got {show(path)}")
    if path in data.arrays:
        raise FrameError("bad_header", f"array {show(path)} of source {show(source)} comes twice")
    where = f"{source[:80]}[{path[:80]}]"
    data.arrays[path] = view_array(header.get("dtype"), header.get("shape"), payload, where, guard.limits)


_READERS: Final[dict[str, Callable[[SourceData, _Header, Buffer, MessageGuard], None]]] = {
    "msgpack": _read_properties,
    "array": _read_array,
    # Sent until 2019 for camera images: an array with a map 'params' of its encoding, which nobody needs.
    "ImageData": _read_array,
}


def _content_error(source: str, content: str) -> FrameError:
    if content.startswith("pickle"):
        return FrameError(
            "pickle_refused", f"source {show(source)} sends content {show(content)}, which can execute code"
        )
    return FrameError(
        "unknown_content", f"source {show(source)}: expected one of {sorted(_READERS)}, got {show(content)}"
    )
