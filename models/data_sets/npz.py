"""Events in an .npz: one array [N, *event], and the arrays train_id and pulse_id [N] if they are known.

Owns the reading of headers: shape and type of an array are known and checked before it is unpacked. The
format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from models.data_sets.found import Array, Found, Ids, Rows, Where, as_ids, check_ids_form, may_be, meant
from models.data_sets.hdf5 import NUMBERS, SHOWN, readable
from models.manifest import ModelError

_MAX_HEADER: Final = 1 << 16  # bytes: what a header of version 1 can have; one of plain numbers has 118
_ENCRYPTED: Final = 1  # bit of a member's flags

Form = tuple[tuple[int, ...], np.dtype[Any]]


def find_npz(where: Where, event_shape: tuple[int, ...] | None) -> Found:
    """The events of an .npz. Raises ModelError."""
    path, forms = where.path, _forms(where.path)
    listed = ", ".join(
        f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in list(forms.items())[:SHOWN]
    )
    fitting = [where.dataset] if where.dataset else [n for n in forms if may_be(forms[n][0], event_shape)]
    if len(fitting) != 1 or fitting[0] not in forms or len(forms[fitting[0]][0]) < 2:
        raise ModelError(
            f"events {path}: expected one array {meant(event_shape)}, got {fitting[:SHOWN]}; "
            f"name it with --dataset; there are: {listed or 'no arrays'}"
        )
    name = fitting[0]
    (count, *shape), dtype = forms[name]

    def ids(part: str) -> Ids | None:
        if part not in forms:
            return None
        what = f"array {part!r} of {path}"
        check_ids_form(*forms[part], count, what)
        return as_ids(_array(path, part, forms[part]), what)

    def read(rows: Rows) -> Array:
        return _array(path, name, forms[name])[rows]

    train_id, pulse_id = ids("train_id"), ids("pulse_id")
    what = f"{path}, array {name}"
    return Found(what, tuple(shape), dtype, count, read, train_id, pulse_id, partly=False)


def _array(path: Path, name: str, form: Form) -> Array:
    """Raises ModelError if it is not what its header said."""
    with readable(path), np.load(path, allow_pickle=False) as file:
        array: Array = file[name]
    if (array.shape, array.dtype) != form:
        raise ModelError(f"array {name!r} of {path}: expected {form}, got another; write the file again")
    return array


def _forms(path: Path) -> dict[str, Form]:
    """Shape and type of every array of numbers, from their headers alone."""
    found: dict[str, Form] = {}
    try:
        with readable(path), zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in found or member.flag_bits & _ENCRYPTED:
                    raise ValueError(f"{name[:64]!r} twice, or encrypted")
                with archive.open(member) as file:
                    shape, dtype = _header(file)
                if dtype.kind in NUMBERS:
                    found[name] = shape, dtype
    except ModelError as error:
        raise ModelError(f"expected an .npz of plain arrays; {error}") from error
    return found


def _header(file: IO[bytes]) -> Form:
    """Raises ValueError for what numpy does not write."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version}, expected 1.0 or 2.0")
    if version == (2, 0):
        length = int.from_bytes(file.read(4), "little")
        if length > _MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        file.seek(-4, 1)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = reader[version](file)
    if min(shape, default=0) < 0 or prod(shape) >= 1 << 62:
        raise ValueError(f"an array of shape {shape}")
    return shape, dtype
