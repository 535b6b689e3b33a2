"""Arrays on the wire: the element types that may come and go, and checked views of received bytes.

Owns the allow-list of dtypes: booleans, integers and floats of both byte orders. All else (objects, strings,
records, complex numbers, dates) is refused: object arrays can execute code, and a dtype string from the
network never reaches numpy's parser.
"""

from dataclasses import dataclass
from reprlib import Repr
from typing import Any, Final

import numpy as np

from streamer.errors import FrameError
from streamer.wire.types import Array, Buffer, Limits

_CODES: Final = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


def _spellings(code: str) -> dict[str, np.dtype[Any]]:
    """Every way to write one type: 'uint16', 'u2', '<u2', '=u2', '>u2' ('|u1' for single bytes)."""
    native = np.dtype(code)
    spelled = {native.name: native, code: native, "=" + code: native}
    if native.itemsize == 1:
        spelled["|" + code] = native
    for order in "<>":
        spelled[order + code] = np.dtype(order + code)
    return spelled


DTYPES: Final[dict[str, np.dtype[Any]]] = {
    name: dtype for code in _CODES for name, dtype in _spellings(code).items()
}

_shown = Repr()
_shown.maxstring = 80  # the longest source names have some 60 characters


def show(value: Any) -> str:
    """The repr of a value from the network, short however large the value is."""
    return _shown.repr(value)


@dataclass(frozen=True, slots=True)
class ArrayForm:
    """What a header says of an array, checked; only its bytes are still to come."""

    where: str  # names the array in messages
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size_bytes: int

    def view(self, data: Buffer) -> Array:
        """A read-only array over the bytes of `data`, which are neither copied nor read.

        Raises FrameError('size_mismatch').
        """
        view = memoryview(data)
        if view.nbytes != self.size_bytes:
            raise FrameError(
                "size_mismatch",
                f"{self.where}: shape {list(self.shape)} of {self.dtype} takes {self.size_bytes} bytes, "
                f"got {view.nbytes}",
            )
        return np.ndarray(self.shape, self.dtype, view.toreadonly())


def array_form(dtype_name: Any, shape: Any, where: str, limits: Limits) -> ArrayForm:
    """The form of an array from its header; `dtype_name` and `shape` are unchecked values from the wire.

    Raises FrameError: 'bad_dtype', 'pickle_refused', 'bad_shape'.
    """
    dtype = DTYPES.get(dtype_name) if type(dtype_name) is str else None
    if dtype is None:
        raise _dtype_error(dtype_name, where)
    if type(shape) is not list or len(shape) > limits.max_ndim:
        raise FrameError(
            "bad_shape", f"{where}: expected a list of at most {limits.max_ndim} sizes, got {show(shape)}"
        )
    size_bytes = extent_bytes = dtype.itemsize
    for size in shape:
        if type(size) is not int or size < 0:
            raise FrameError("bad_shape", f"{where}: sizes must be integers >= 0, got {show(shape)}")
        size_bytes *= size
        extent_bytes *= size or 1  # numpy refuses axes whose product overflows even if the array is empty
    if extent_bytes > limits.max_array_bytes:
        raise FrameError(
            "bad_shape", f"{where}: shape {show(shape)} is above the limit of {limits.max_array_bytes} bytes"
        )
    return ArrayForm(where, dtype, tuple(shape), size_bytes)


def _dtype_error(name: Any, where: str) -> FrameError:
    if name in ("object", "O", "|O"):
        return FrameError("pickle_refused", f"{where}: object arrays are pickles, which can execute code")
    return FrameError("bad_dtype", f"{where}: expected a boolean, integer or float type, got {show(name)}")
