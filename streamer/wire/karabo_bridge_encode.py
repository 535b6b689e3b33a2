"""Encoder of the Karabo Bridge wire format, versions 2.2, 2.1, 2.0 and 1.0.

Owns: one train to the frames of one multipart message, for whoever serves data. The format is that of
`karabo_bridge.serializer.serialize` (European-XFEL/karabo-bridge-py), which writes 2.2 and 1.0 only; 2.1 and
2.0 place the metadata as the `containize` of its commit feefcbb did.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # ships no types
import numpy as np

from streamer.wire.arrays import DTYPES
from streamer.wire.types import Array

Properties = Mapping[str, Any]


def encode(
    sources: Mapping[str, Properties], metadata: Mapping[str, Properties], version: str = "2.2"
) -> list[bytes | memoryview]:
    """One train as the frames of a multipart message.

    sources[source][key] is a numpy array or a value that msgpack can pack; metadata[source] may be absent.
    Frames of 2.x are (header, payload) pairs in sorted order of sources; C-contiguous arrays are not copied:
    keep them unchanged until the frames are sent. 1.0 is one frame. Raises ValueError for an unknown version
    and for dtypes that have no place on the wire (objects, strings, records).
    """
    if version == "1.0":
        return [_encode_v1(sources, metadata)]
    place = _PLACE_METADATA.get(version)
    if place is None:
        raise ValueError(
            f"Karabo Bridge version {version!r}: expected one of 1.0, {', '.join(_PLACE_METADATA)}"
        )
    frames: list[bytes | memoryview] = []
    for source in sorted(sources):
        arrays, values = _split(sources[source])
        header: dict[str, Any] = {"source": source, "content": "msgpack"}
        place(header, values, dict(metadata.get(source, {})))
        frames += (_pack(header), _pack(values))
        for key, array in arrays.items():
            frames += (_array_header(source, key, array), _raw_bytes(array))
    return frames


def _metadata_in_header(header: dict[str, Any], _: dict[str, Any], metadata: dict[str, Any]) -> None:
    header["metadata"] = metadata


def _metadata_flattened(_: dict[str, Any], values: dict[str, Any], metadata: dict[str, Any]) -> None:
    values.update((f"metadata.{key}", value) for key, value in metadata.items())


def _metadata_nested(_: dict[str, Any], values: dict[str, Any], metadata: dict[str, Any]) -> None:
    values["metadata"] = metadata


_Place = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], None]
_PLACE_METADATA: Final[dict[str, _Place]] = {
    "2.2": _metadata_in_header,
    "2.1": _metadata_flattened,
    "2.0": _metadata_nested,
}


def _split(properties: Properties) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays, C-contiguous and of a dtype on the allow-list, and all other values."""
    arrays: dict[str, Array] = {}
    values: dict[str, Any] = {}
    for key, value in properties.items():
        if isinstance(value, np.ndarray):
            if str(value.dtype) not in DTYPES:
                raise ValueError(
                    f"array {key!r} of dtype {value.dtype}: expected booleans, integers or floats"
                )
            arrays[key] = value if value.flags.c_contiguous else np.ascontiguousarray(value)
        else:
            values[key] = value.item() if isinstance(value, np.generic) else value
    return arrays, values


def _array_header(source: str, key: str, array: Array) -> bytes:
    return _pack(
        {
            "source": source,
            "content": "array",
            "path": key,
            "dtype": str(array.dtype),
            "shape": array.shape,
        }
    )


def _raw_bytes(array: Array) -> memoryview:
    """A C-contiguous array as flat bytes (memoryview.cast refuses empty and byte-swapped ones)."""
    return array.reshape(-1).view(np.uint8).data


def _encode_v1(sources: Mapping[str, Properties], metadata: Mapping[str, Properties]) -> bytes:
    train: dict[str, dict[str, Any]] = {}
    for source, properties in sources.items():
        arrays, values = _split(properties)
        train[source] = values | {key: _numpy_map(array) for key, array in arrays.items()}
        train[source]["metadata"] = dict(metadata.get(source, {}))
    return _pack(train)


def _numpy_map(array: Array) -> dict[bytes, Any]:
    """An array as the package msgpack-numpy writes it: a map with bytes keys."""
    return {
        b"nd": True,
        b"type": array.dtype.str,
        b"kind": b"",
        b"shape": array.shape,
        b"data": _raw_bytes(array),
    }


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed
