"""Karabo Bridge 1.0, and the error text that a server sends in place of a train: messages of one frame.

Owns their decoder. The frame is a msgpack map {source: {key: value, 'metadata': map}}; arrays in it are the
maps with bytes keys of the package msgpack-numpy. That package is not used: it unpickles arrays of kind 'O',
and so runs the sender's code.
"""

from typing import Any

from streamer.errors import FrameError
from streamer.wire.arrays import array_form, show
from streamer.wire.msgpack_guard import MessageGuard
from streamer.wire.types import Array, Buffer, Limits, SourceData, Train


def decode_single_frame(frame: Buffer, limits: Limits) -> Train:
    """The train of a 1.0 message; its arrays are read-only views of copies that msgpack made.

    Raises FrameError.
    """
    if bytes(frame[:5]) == b"Error":
        text = bytes(frame[:200]).decode(errors="replace")
        raise FrameError("server_error", f"the server sent {text!r}, not a train; check the socket type")
    message = _unpack(frame, limits)
    if type(message) is not dict:
        raise FrameError(
            "bad_payload", f"version 1.0: expected a map of sources, got {type(message).__name__}"
        )
    return Train({source: _source(source, properties, limits) for source, properties in message.items()})


def _unpack(frame: Buffer, limits: Limits) -> Any:
    guard = MessageGuard(limits)
    try:
        properties_bytes = guard.walk(frame)
        if properties_bytes > limits.max_properties_bytes:
            raise ValueError(f"above {limits.max_properties_bytes} bytes of properties")
        return guard.unpack_walked(frame)
    except ValueError as error:
        raise FrameError("bad_payload", f"version 1.0: {error}") from None


def _source(source: Any, properties: Any, limits: Limits) -> SourceData:
    if type(source) is not str or type(properties) is not dict:
        raise FrameError(
            "bad_payload",
            f"version 1.0: expected a map of properties per source, got {show(source)}: {show(properties)}",
        )
    metadata = properties.pop("metadata", {})
    if type(metadata) is not dict:
        raise FrameError("bad_header", f"metadata of source {show(source)} is not a map: {show(metadata)}")
    data = SourceData({}, {}, metadata)
    for key, value in properties.items():
        if type(key) is not str:
            raise FrameError("bad_payload", f"source {show(source)}: keys must be text, got {show(key)}")
        _place(data, key, value, f"{source[:80]}[{key[:80]}]", limits)
    return data


def _place(data: SourceData, key: str, value: Any, where: str, limits: Limits) -> None:
    if not _is_numpy_map(value):
        _refuse_nested_objects(value, where)
        data.values[key] = value
        return
    array = _array(value, where, limits)
    if value[b"nd"]:
        data.arrays[key] = array
    else:
        data.values[key] = array.item()


def _is_numpy_map(value: Any) -> bool:
    return type(value) is dict and b"nd" in value


def _array(fields: dict[bytes, Any], where: str, limits: Limits) -> Array:
    """The array of a msgpack-numpy map; a scalar (nd false) has neither shape nor kind."""
    if fields.get(b"kind") in (b"O", "O"):
        raise FrameError("pickle_refused", f"{where}: object arrays are pickles, which can execute code")
    data = fields.get(b"data")
    if type(data) is not bytes:
        raise FrameError("bad_payload", f"{where}: array data must be bytes, got {type(data).__name__}")
    shape = fields.get(b"shape") if fields[b"nd"] else []
    return array_form(fields.get(b"type"), shape, where, limits).view(data)


def _refuse_nested_objects(value: Any, where: str) -> None:
    """Arrays deeper in a value stay undecoded maps; pickles are refused wherever they are."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            if _is_numpy_map(value) and value.get(b"kind") in (b"O", "O"):
                raise FrameError("pickle_refused", f"{where}: a nested object array is a pickle")
            waiting += value.values()
        elif type(value) is list:
            waiting += value
