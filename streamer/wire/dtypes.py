"""The element types that may come and go on the wire: booleans, integers and floats of both byte orders.

Owns the allow-list. All else (objects, strings, records, complex numbers, dates) is refused: object arrays can
execute code, and a dtype string from the network never reaches numpy's parser.
"""

from typing import Any, Final

import numpy as np

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
