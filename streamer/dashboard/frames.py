"""A map and an array over a pipe: how the page and the process of explain_worker.py talk.

Owns the format: 8 bytes of lengths (two big-endian u4: of the JSON, of the array's bytes), then both. The map
gets `dtype` and `shape` of the array. Both ends are ours; the sizes are checked all the same.
"""

import json
import struct
from math import prod
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

MAX_JSON_BYTES: Final = 1 << 16
MAX_ARRAY_BYTES: Final = 1 << 28  # a frame of 1 Mpixel has 4 MB; whole detectors some 10
DTYPES: Final = ("u1", "u2", "i2", "u4", "i4", "f4", "f8")


def write_frame(pipe: IO[bytes], told: dict[str, Any], array: npt.NDArray[Any] | None) -> None:
    """Write both and flush. ValueError for a type that is not in DTYPES."""
    if array is not None:
        code = array.dtype.str[1:]
        if code not in DTYPES:
            raise ValueError(f"an array of {array.dtype}; expected one of {', '.join(DTYPES)}")
        told = told | {"dtype": code, "shape": list(array.shape)}
    text = json.dumps(told).encode()
    content = b"" if array is None else np.ascontiguousarray(array).tobytes()
    pipe.write(struct.pack(">II", len(text), len(content)) + text + content)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> tuple[dict[str, Any], npt.NDArray[Any] | None]:
    """Both, or EOFError when the pipe ends, ValueError for what is not ours."""
    json_bytes, array_bytes = struct.unpack(">II", _exactly(pipe, 8))
    if json_bytes > MAX_JSON_BYTES or array_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"{json_bytes} and {array_bytes} bytes are more than a frame has")
    told = json.loads(_exactly(pipe, json_bytes))
    content = _exactly(pipe, array_bytes)
    if not array_bytes:
        return told, None
    dtype, shape = told["dtype"], tuple(told["shape"])
    if dtype not in DTYPES or prod(shape) * np.dtype(dtype).itemsize != array_bytes:
        raise ValueError(f"{array_bytes} bytes are no array of {dtype} {shape}")
    return told, np.frombuffer(content, dtype).reshape(shape)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    content = pipe.read(size)
    if len(content) != size:
        raise EOFError("the pipe ended")
    return content
