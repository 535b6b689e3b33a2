"""Reading a msgpack map from the network, field by field, every type checked.

Owns the caps of what may be unpacked, and the words of a refusal; knows nothing of what the fields mean.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]  # ships no types

from streamer.errors import FrameError

MAX_LABELS: Final = 4096  # of one column, as in a bundle
MAX_NAME_CHARS: Final = 4096


def unpack(header: memoryview) -> object:
    """A fresh unpacker for every header, with caps: a broken one must not poison the next."""
    try:
        unpacked: object = msgpack.unpackb(
            header,
            max_str_len=MAX_NAME_CHARS,
            max_bin_len=0,
            max_ext_len=0,
            max_array_len=MAX_LABELS,
            max_map_len=64,  # ours has 12 keys
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise FrameError("bad_header", f"not msgpack within the caps: {str(error)[:200]!r}") from None
    return unpacked


@dataclass(frozen=True)
class Fields:
    """A map from the network, read field by field with its type checked."""

    unpacked: object
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.unpacked, dict):
            raise FrameError("bad_header", f"{self.where} is {type(self.unpacked).__name__}, expected a map")

    @property
    def values(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.unpacked)

    def get(self, key: str, *types: type) -> Any:
        value = self.values.get(key)
        if type(value) not in types:  # exactly: True is no integer here
            expected = " or ".join(t.__name__ for t in types)
            raise FrameError(
                "bad_header", f"{self.where}: {key!r} is {type(value).__name__}, expected {expected}"
            )
        return value

    def integer(self, key: str, end: int = 2**64 - 1) -> int:
        value: int = self.get(key, int)
        if not 0 <= value <= end:
            raise FrameError("bad_header", f"{self.where}: {key!r} is {value}, expected 0 to {end}")
        return value

    def text(self, key: str) -> str:
        return cast(str, self.get(key, str))

    def number(self, key: str) -> float:
        value = float(self.get(key, float, int))
        if not math.isfinite(value):
            raise FrameError("bad_header", f"{self.where}: {key!r} is {value}, expected a finite number")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.get(key, list)
        if any(type(item) is not str for item in items):
            raise FrameError("bad_header", f"{self.where}: {key!r} holds something else than texts")
        return tuple(items)

    def maps(self, key: str, count: int) -> list["Fields"]:
        items = self.get(key, list)
        if len(items) > count:
            raise FrameError("bad_header", f"{self.where}: {len(items)} {key}, at most {count}")
        return [Fields(item, f"{self.where} {key}[{index}]") for index, item in enumerate(items)]
