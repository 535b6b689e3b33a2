"""Unpacks msgpack from strangers without letting a small message take much memory or time.

Owns the calls of the msgpack package for reading. msgpack bounds each length but not their sum: 10 MB of
empty maps become 700 MB of dicts, and 1000 nested lists that each claim 65536 items reserve 500 MB before
anyone sees that the items are missing. So payloads that could do that are walked first, without building
anything.
The format is https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from typing import Any, Final, NoReturn

import msgpack  # type: ignore[import-untyped]  # ships no types

from streamer.wire.types import Buffer, Limits

# A reserved item of a list takes 8 bytes: n bytes with at most m containers can reserve n * m items
# before it fails. 2**18 of them are 2 MiB, which is not worth a walk; payloads to 512 bytes never reach that.
_UNWALKED_ITEMS: Final = 2**18
_UNWALKED_PAYLOAD_BYTES: Final = 512
# Beyond this all payloads of a message are walked: empty maps make 20 MB of it. 16 modules with 20 arrays
# each are 50 kB.
_UNWALKED_MESSAGE_BYTES: Final = 2**18

_NOT_CONTAINERS: Final = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xDC <= b <= 0xDF))


def _refuse_extension(code: int, _: bytes) -> NoReturn:
    raise ValueError(f"msgpack extension type {code} is not part of the format")


_LEAF, _CONTAINER, _BYTES, _ITEMS, _PAIRS, _INVALID = range(6)


def _marker(byte: int) -> tuple[int, int]:
    """(kind, number) of a first byte: bytes after a leaf, items of a container, or width of a length."""
    if byte < 0x80 or byte >= 0xE0:
        return _LEAF, 0
    if byte < 0x90:
        return _CONTAINER, 2 * (byte - 0x80)
    if byte < 0xA0:
        return _CONTAINER, byte - 0x90
    if byte < 0xC0:
        return _LEAF, byte - 0xA0
    return _OTHER_MARKERS.get(byte, (_INVALID, 0))  # 0xC1 is unused; extensions are refused


_OTHER_MARKERS: Final = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (_LEAF, 0)),  # nil, false, true
    **{0xC4 + i: (_BYTES, 1 << i) for i in range(3)},  # bin 8, 16, 32
    **{0xCA + i: (_LEAF, 4 << i) for i in range(2)},  # float 32, 64
    **{0xCC + i: (_LEAF, 1 << i) for i in range(4)},  # uint 8, 16, 32, 64
    **{0xD0 + i: (_LEAF, 1 << i) for i in range(4)},  # int 8, 16, 32, 64
    **{0xD9 + i: (_BYTES, 1 << i) for i in range(3)},  # str 8, 16, 32
    **{0xDC + i: (_ITEMS, 2 << i) for i in range(2)},  # array 16, 32
    **{0xDE + i: (_PAIRS, 2 << i) for i in range(2)},  # map 16, 32
}
_MARKERS: Final = [_marker(byte) for byte in range(256)]


class MessageGuard:
    """Unpacks the payloads of one message and keeps count of what they take together."""

    __slots__ = ("_containers", "_items", "_size_bytes", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._size_bytes = self._items = self._containers = 0

    def unpack(self, data: Buffer) -> Any:
        """The value of a payload; maps have str or bytes keys. Raises ValueError with the cause."""
        size_bytes = len(data)
        if not self.passes_unread(size_bytes):
            self._size_bytes += size_bytes
            if self._size_bytes > self.limits.max_properties_bytes:
                raise ValueError(f"above {self.limits.max_properties_bytes} bytes of headers and properties")
            if not self._surely_small(data):
                self.walk(data)
        return self.unpack_walked(data)

    def passes_unread(self, size_bytes: int) -> bool:
        """True, and counted, for a payload so small that `unpack` neither refuses nor walks it.

        If its value is known from an earlier message, it need not be unpacked again.
        """
        total_bytes = self._size_bytes + size_bytes
        if size_bytes > _UNWALKED_PAYLOAD_BYTES or total_bytes > _UNWALKED_MESSAGE_BYTES:
            return False
        if total_bytes > self.limits.max_properties_bytes:
            return False
        self._size_bytes = total_bytes
        return True

    def _surely_small(self, data: Buffer) -> bool:
        """True if even the worst reading of these bytes stays within the limits (found at the speed of C)."""
        size_bytes = len(data)
        if self._size_bytes > _UNWALKED_MESSAGE_BYTES:
            return False
        containers = len(bytes(data).translate(None, _NOT_CONTAINERS))
        return containers <= self.limits.max_containers and containers * size_bytes <= _UNWALKED_ITEMS

    def unpack_walked(self, data: Buffer) -> Any:
        """The same for a payload that `walk` has passed. Texts are at most as long as `data` anyway."""
        try:
            return msgpack.unpackb(
                data,
                ext_hook=_refuse_extension,
                max_array_len=self.limits.max_items,
                max_map_len=self.limits.max_items,
                max_ext_len=0,
            )
        except msgpack.StackError:
            raise ValueError("nested too deeply") from None
        except msgpack.FormatError:
            raise ValueError("not msgpack") from None

    def walk(self, data: Buffer) -> int:
        """Number of bytes outside long strings and binaries; builds nothing. Takes about 0.1 us per item.

        Raises ValueError as soon as items or containers are too many or more are claimed than bytes remain.
        """
        limits = self.limits
        position = long_bytes = 0
        end, pending = len(data), 1
        while pending:
            if pending > end - position:
                raise ValueError(f"truncated: {pending} more items claimed, {end - position} bytes left")
            kind, number = _MARKERS[data[position]]
            position += 1
            if kind > _CONTAINER:
                if kind == _INVALID:
                    raise ValueError(f"byte 0x{data[position - 1]:02x} has no place in the format")
                width, number = number, int.from_bytes(data[position : position + number], "big")
                position += width
            if kind in (_LEAF, _BYTES):
                position += number
                pending -= 1
                long_bytes += number if kind == _BYTES else 0
            else:
                self._containers += 1
                pending += (2 * number if kind == _PAIRS else number) - 1
            self._items += 1
            if self._items > limits.max_items or self._containers > limits.max_containers:
                raise ValueError(f"above {limits.max_items} items or {limits.max_containers} maps and lists")
        return end - long_bytes
