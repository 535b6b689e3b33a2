"""Headers of the Karabo Bridge, version 2.x: from bytes to what they say, checked.

Owns all checks that need no payload, and the memory of headers that have passed them: the header of an array
is the same bytes in every train, and reading it is most of the work on a small message. The header of a
source's properties holds the train id and is read each time.
"""

from dataclasses import dataclass
from typing import Any, Final

from streamer.errors import FrameError
from streamer.wire.arrays import ArrayForm, array_form, show
from streamer.wire.msgpack_guard import MessageGuard
from streamer.wire.types import Buffer, Limits

# Real headers of arrays have 100 to 200 bytes; longer ones are read each time.
REMEMBERED_BYTES: Final = 512
# 16 modules with 16 arrays each. At some 3 kB for the longest names this is below 1 MB, whoever sends.
REMEMBERED_HEADERS: Final = 256


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """Announces an array; its form is checked."""

    source: str
    path: str
    form: ArrayForm


@dataclass(slots=True)
class PropertiesHeader:
    """Announces the properties of a source; `metadata` is unchecked, None before version 2.2.

    Not frozen, like SourceData: one is made for each source of each train.
    """

    source: str
    metadata: Any


Header = ArrayHeader | PropertiesHeader


class HeaderReader:
    """Reads headers and remembers those of arrays.

    A sender of ever new headers gains nothing: what is remembered is bounded, and begins anew when full. For
    messages of one set of limits, as headers have been checked against them.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, ArrayHeader] = {}

    def read(self, frame: Buffer, index: int, guard: MessageGuard) -> Header:
        """The header in frame number `index` of a message. Raises FrameError."""
        size_bytes = len(frame)
        if size_bytes > REMEMBERED_BYTES:
            return _parse(frame, index, guard)
        key = bytes(frame)
        known = self._known.get(key)
        if known is not None and guard.passes_unread(size_bytes):
            return known
        header = _parse(key, index, guard)
        if isinstance(header, ArrayHeader):
            if len(self._known) >= REMEMBERED_HEADERS:
                self._known.clear()
            self._known[key] = header
        return header


def _parse(frame: Buffer, index: int, guard: MessageGuard) -> Header:
    limit_bytes = guard.limits.max_header_bytes
    if len(frame) > limit_bytes:
        raise FrameError(
            "header_too_large",
            f"frame {index}: header of {len(frame)} bytes, the limit is {limit_bytes}",
        )
    try:
        fields = guard.unpack(frame)
    except ValueError as error:
        raise FrameError("bad_header", f"frame {index}: {error}") from None
    if type(fields) is not dict:
        raise FrameError("bad_header", f"frame {index}: expected a map, got {type(fields).__name__}")
    source, content = fields.get("source"), fields.get("content")
    if type(source) is not str or type(content) is not str:
        raise FrameError(
            "bad_header",
            f"frame {index}: 'source' and 'content' must be text, got {show(source)} and {show(content)}",
        )
    if content == "msgpack":
        return PropertiesHeader(source, fields.get("metadata"))
    if content in _ARRAYS:
        return _array_header(source, fields, guard.limits)
    raise _content_error(source, content)


def _array_header(source: str, fields: dict[Any, Any], limits: Limits) -> ArrayHeader:
    path = fields.get("path")
    if type(path) is not str:
        raise FrameError("bad_header", f"array of {show(source)}: 'path' must be text, got {show(path)}")
    where = f"{source[:80]}[{path[:80]}]"
    return ArrayHeader(source, path, array_form(fields.get("dtype"), fields.get("shape"), where, limits))


# ImageData was sent until 2019 for camera images: an array with a map 'params' of its encoding, which nobody
# needs.
_ARRAYS: Final = ("array", "ImageData")


def _content_error(source: str, content: str) -> FrameError:
    if content.startswith("pickle"):
        return FrameError(
            "pickle_refused", f"source {show(source)} sends content {show(content)}, which can execute code"
        )
    expected = sorted(("msgpack", *_ARRAYS))
    return FrameError(
        "unknown_content", f"source {show(source)}: expected one of {expected}, got {show(content)}"
    )
