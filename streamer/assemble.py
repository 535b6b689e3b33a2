"""From a decoded train to the events of one configured stream.

Owns what the wire leaves open: which frame belongs to which pulse, how modules that come as separate sources
are put together, which scalars go with an event. The order of axes is configuration, read by `wire.axes`.

Pure: no sockets, no clock, no torch. Frames are copied once, by `Events.copy_into`, from the received
message to where the caller wants them.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamer.attach import Attach, attached
from streamer.errors import FLAG_MODULE_MISSING, FrameError
from streamer.ids import MAX_PULSES
from streamer.wire.axes import Axes, fitting_axes, parse_axes
from streamer.wire.types import TRAIN_ID_END, Array, SourceData, Train

__all__ = ["Attach", "Axes", "Events", "SourceSpec", "assemble", "parse_axes"]

MAX_MODULE_SOURCES: Final = 64  # bits in the mask of missing modules; the largest detectors have 16

# Half of a first-level cache. Where pulses are the last axis on the wire, tiles make the copy of a train of
# 134 MB 3 times as fast as one np.copyto (190 against 560 ms on one core).
_TILE_BYTES: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where one stream's events are in a train. Raises ValueError where its fields contradict each other."""

    sources: tuple[str, ...]  # one, or one per module in module order
    key: str
    pulse_key: str | None  # None: pulses are numbered from 0
    axes: str  # tokens pulse, module, slow, fast, bin in the order of the wire
    event_shape: tuple[int, ...]  # (modules, slow, fast), (slow, fast) or (bins,)
    dtype: np.dtype[Any]
    attach: tuple[Attach, ...] = ()
    wire_axes: Axes = field(init=False, repr=False, compare=False)
    stacks: bool = field(init=False, repr=False, compare=False)  # each source is one module of the event
    part_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)  # of an event in one source
    group: str = field(init=False, repr=False, compare=False)  # 'image.' of 'image.data', '' of 'data'

    def __post_init__(self) -> None:
        axes = parse_axes(self.axes, self.event_shape)
        expected = 1 if axes.has_modules or len(self.event_shape) < 3 else self.event_shape[0]
        if len(self.sources) != expected:
            raise ValueError(
                f"axes {self.axes!r} and event shape {self.event_shape} need {expected} sources, "
                f"got {len(self.sources)}; add 'module' to axes if one source holds all modules"
            )
        if expected > MAX_MODULE_SOURCES:
            raise ValueError(f"{expected} sources for one stream, the limit is {MAX_MODULE_SOURCES}")
        object.__setattr__(self, "wire_axes", axes)
        stacks = len(self.event_shape) == 3 and not axes.has_modules
        object.__setattr__(self, "stacks", stacks)
        object.__setattr__(self, "part_shape", self.event_shape[1:] if stacks else self.event_shape)
        object.__setattr__(self, "group", self.key[: self.key.rfind(".") + 1])


@dataclass(slots=True, eq=False)
class _Part:
    """What one source has for the events: frames [P, *source event axes] in wire order, pulse ids [P] u8.

    `rows` [n] says which frame an event takes, -1 for none; None says that they are the same, one by one.
    """

    frames: Array
    pulse_ids: NDArray[np.uint64]
    rows: NDArray[np.intp] | None = None

    def copy_into(self, out: Array, start: int, stop: int) -> None:
        """Frames of events start .. stop to out [stop - start, ...]; zeros where there is none."""
        if self.rows is None:
            _copy(out, self.frames[start:stop])
            return
        for target, row in zip(out, self.rows[start:stop], strict=True):
            if row < 0:
                target[...] = 0
            else:
                np.copyto(target, self.frames[row], casting="equiv")


def _copy(out: Array, frames: Array) -> None:
    """Frames [N, (modules,) slow, fast] or [N, bins] to `out`; tiles keep to the cache where axes change."""
    if frames.flags.c_contiguous or frames.ndim < 3:
        np.copyto(out, frames, casting="equiv")
    elif frames.ndim == 4:
        for module in range(frames.shape[1]):
            _copy(out[:, module], frames[:, module])
    else:
        rows = max(1, _TILE_BYTES // max(1, out[:, :1].nbytes))
        for row in range(0, frames.shape[1], rows):
            np.copyto(out[:, row : row + rows], frames[:, row : row + rows], casting="equiv")


@dataclass(slots=True, eq=False)
class Events:
    """The events of one stream in one train; their frames stay in the message until `copy_into`.

    pulse_ids [n] u8, flags [n] u4 (FLAG_* of errors), attached [n, len(spec.attach)] f8 with NaN for what did
    not come, missing_modules [n] u8 with bit m set where module m did not come.
    """

    train_id: int
    pulse_ids: NDArray[np.uint64]
    flags: NDArray[np.uint32]
    attached: NDArray[np.float64]
    missing_modules: NDArray[np.uint64]
    duplicates: int  # frames left out because their pulse had come before in this message
    source_present: bool  # False: none of the stream's sources is in the message
    n: int
    _spec: SourceSpec
    _parts: list[_Part | None]  # one, or one per module; None for a module that did not come

    def copy_into(self, out: Array, start: int, stop: int) -> None:
        """Copies the frames of events start .. stop to out[: stop - start], [at least that, *event_shape].

        Missing modules become 0. `out` may have any strides. Raises ValueError where they do not fit.
        """
        fit = len(out) >= stop - start and out.shape[1:] == self._spec.event_shape
        if not fit or not 0 <= start <= stop <= self.n:
            raise ValueError(
                f"events {start} .. {stop} of {self.n}, each {self._spec.event_shape}, "
                f"do not fit into {out.shape}"
            )
        out = out[: stop - start]
        for module, part in enumerate(self._parts):
            target = out[:, module] if self._spec.stacks else out
            if part is None:
                target[...] = 0
            else:
                part.copy_into(target, start, stop)


def assemble(train: Train, spec: SourceSpec) -> Events:
    """The events of one stream in a train; none if its sources are absent or have no pulses.

    Raises FrameError: 'train_id_missing', 'train_id_mismatch', 'key_missing', 'shape_changed',
    'dtype_changed', 'pulse_ids_mismatch', 'pulse_id_range', and 'bad_header' for a train id that is not one.
    """
    train_id = _train_id(train, spec)
    if train_id == 0:
        raise FrameError(
            "train_id_missing",
            f"the train id of {spec.sources[0]} is 0, which means 'none' in European XFEL files; "
            "expected 1 or more: number the trains from 1 at the sender",
        )
    parts = [_part(source, train.sources.get(source), spec) for source in spec.sources]
    pulse_ids, duplicates = _align(parts)
    n = len(pulse_ids)
    flags, missing_modules = np.zeros(n, np.uint32), np.zeros(n, np.uint64)
    if spec.stacks:
        _mark_missing_modules(parts, missing_modules)
        flags[missing_modules != 0] |= np.uint32(FLAG_MODULE_MISSING)
    rows = parts[0].rows if len(parts) == 1 and parts[0] is not None else None
    return Events(
        train_id=train_id,
        pulse_ids=pulse_ids,
        flags=flags,
        attached=attached(train, spec.attach, n, rows, flags),
        missing_modules=missing_modules,
        duplicates=duplicates,
        source_present=parts.count(None) < len(parts),
        n=n,
        _spec=spec,
        _parts=parts,
    )


def absent(train: Train, spec: SourceSpec) -> str:
    """Why a train gives no event: legal in single trains, from the first one on perhaps a wrong name."""
    name = spec.sources[0]
    source = train.sources.get(name)
    there = sorted(train.sources if source is None else [*source.arrays, *source.values])
    where = "the message" if source is None else f"source {name}"
    return (
        f"no event of {name}[{spec.key}] in this train; {where} holds: {', '.join(there[:20]) or 'nothing'}"
    )


def _train_id(train: Train, spec: SourceSpec) -> int:
    """The one train id of the stream's sources; the latest of all sources when none of those is present."""
    first = train.train_id(spec.sources[0])
    if first is not None and len(spec.sources) == 1:
        return first
    present = [source for source in spec.sources if source in train.sources]
    stated = {source: train.train_id(source) for source in present or train.sources}
    ids = {train_id for train_id in stated.values() if train_id is not None}
    if len(ids) == 1 or (ids and not present):
        return max(ids)
    if ids:
        raise FrameError("train_id_mismatch", f"sources of one message disagree: {_first(stated.items())}")
    for source in present:
        train_id = _train_id_of_pulses(train.sources[source], spec)
        if train_id is not None:
            return train_id
    raise FrameError(
        "train_id_missing",
        f"neither metadata 'timestamp.tid' nor {_train_id_key(spec)!r} in {_first(stated)}; check the sender",
    )


def _train_id_key(spec: SourceSpec) -> str:
    """'image.data' has its ids in 'image.trainId'."""
    return spec.group + "trainId"


def _train_id_of_pulses(data: SourceData, spec: SourceSpec) -> int | None:
    ids = data.arrays.get(_train_id_key(spec))
    if ids is None or ids.size == 0 or ids.dtype.kind not in "iu":
        return None
    first = int(ids.flat[0])
    return first if 0 <= first < TRAIN_ID_END else None


def _part(source: str, data: SourceData | None, spec: SourceSpec) -> _Part | None:
    """What one source has for the events; None if it did not come."""
    if data is None:
        return None
    axes = spec.wire_axes
    frames = data.arrays.get(spec.key)
    if frames is None:
        return _part_without_pulses(source, data, spec)
    if frames.dtype != spec.dtype and frames.dtype.newbyteorder("=") != spec.dtype.newbyteorder("="):
        raise FrameError(
            "dtype_changed",
            f"{source}[{spec.key}]: expected {spec.dtype}, got {frames.dtype}; "
            "set the stream's dtype to what the detector sends",
        )
    if axes.pulse is not None and frames.ndim == len(axes.sizes) - 1:
        frames = np.expand_dims(frames, axes.pulse)  # file servers squeeze a train of one pulse
    wire_shape = frames.shape
    if len(wire_shape) != len(axes.sizes):
        raise _shape_error(source, wire_shape, spec)
    if not axes.is_canonical:
        frames = frames.transpose(axes.order)
    if axes.pulse is None:
        frames = frames[np.newaxis]
    if frames.shape[1:] != spec.part_shape:
        raise _shape_error(source, wire_shape, spec)
    return _Part(frames, _pulse_ids(source, data, spec, len(frames)))


def _part_without_pulses(source: str, data: SourceData, spec: SourceSpec) -> _Part:
    """No events, if nothing of the key's group came.

    Trains without pulses come with all other groups of keys of a detector (header, detector, trailer), or
    without any key.
    """
    if any(key.startswith(spec.group) for keys in (data.arrays, data.values) for key in keys):
        raise _no_array(source, data, spec)
    return _Part(np.empty((0, *spec.part_shape), spec.dtype), np.empty(0, np.uint64))


def _no_array(source: str, data: SourceData, spec: SourceSpec) -> FrameError:
    if spec.key in data.values:
        kind = type(data.values[spec.key]).__name__
        return FrameError(
            "shape_changed", f"{source}[{spec.key}]: expected an array {_wanted(spec)}, got a single {kind}"
        )
    return FrameError(
        "key_missing", f"{source} has no key {spec.key!r}, only {_first([*data.arrays, *data.values])}"
    )


def _wanted(spec: SourceSpec) -> str:
    sizes = ", ".join("pulses" if size is None else str(size) for size in spec.wire_axes.sizes)
    return f"({sizes}) for axes {spec.axes!r}"


def _shape_error(source: str, shape: tuple[int, ...], spec: SourceSpec) -> FrameError:
    fitting = fitting_axes(shape, spec.event_shape, spec.stacks)
    hint = f"axes {' or '.join(map(repr, fitting))} would fit" if fitting else "no order of axes fits"
    return FrameError("shape_changed", f"{source}[{spec.key}]: expected {_wanted(spec)}, got {shape}; {hint}")


def _pulse_ids(source: str, data: SourceData, spec: SourceSpec, n: int) -> NDArray[np.uint64]:
    """The pulse ids of the n frames of a source, in wire order, checked; [n] u8."""
    key = spec.pulse_key
    if key is None:
        ids: Any = np.arange(n, dtype=np.uint64)
    else:
        ids = data.arrays.get(key)
        if ids is None:
            ids = data.values.get(key)
        if ids is None and n == 0:
            ids = ()
        if ids is None:
            raise FrameError(
                "key_missing",
                f"{source} has no pulse ids {key!r}, only {_first([*data.arrays, *data.values])}; "
                "leave pulse_key out to number pulses from 0",
            )
        ids = _integers(ids, f"{source}[{key}]", n)
    low, high = _extremes(ids)
    if low < 0 or high >= MAX_PULSES:
        raise FrameError(
            "pulse_id_range",
            f"{source}[{key}]: pulse ids must be in 0 .. {MAX_PULSES - 1}, got {low} .. {high}",
        )
    return ids.astype(np.uint64, copy=False)  # type: ignore[no-any-return]


def _extremes(ids: Array) -> tuple[int, int]:
    """Smallest and largest; a single id, as of machines without trains, needs no reduction."""
    if len(ids) > 1:
        return int(ids.min()), int(ids.max())
    only = ids.item(0) if len(ids) else 0
    return only, only


def _integers(value: Any, where: str, n: int) -> Array:
    """An array, list or single value as n integers, [n]."""
    ids = value if isinstance(value, np.ndarray) else _from_list(value)
    if ids is None or ids.dtype.kind not in "iu":
        raise FrameError("dtype_changed", f"{where}: pulse ids must be integers, got {_kind(value)}")
    if ids.shape == (n,):
        return ids
    if ids.shape in ((n, 1), ()) and ids.size == n:
        return ids.reshape(n)
    raise FrameError(
        "pulse_ids_mismatch", f"{where}: expected {n} pulse ids for {n} frames, got shape {ids.shape}"
    )


def _from_list(value: Any) -> Array | None:
    """Integers that came as msgpack values; None for anything else. Clipped, so that any integer fits."""
    items = value if isinstance(value, (list, tuple)) else [value]
    if not all(type(item) is int for item in items):
        return None
    clipped = np.array([min(max(item, -1), MAX_PULSES) for item in items], np.int64)
    return clipped if items is value else clipped.reshape(())


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


def _align(parts: list[_Part | None]) -> tuple[NDArray[np.uint64], int]:
    """The pulse ids of the events and the number of duplicates; sets `rows` of the parts where needed.

    One source keeps the order of the wire. Modules that differ are aligned by pulse id: their union, sorted.
    """
    present = list(filter(None, parts))
    if not present:
        return np.zeros(0, np.uint64), 0
    if len(present) == 1:
        return _first_of_each(present[0])
    first = present[0].pulse_ids
    if _rising(first) and all(np.array_equal(first, part.pulse_ids) for part in present[1:]):
        return first, 0
    union = np.unique(np.concatenate([part.pulse_ids for part in present]))
    duplicates = 0
    for part in present:
        unique, index = np.unique(part.pulse_ids, return_index=True)
        part.rows = np.full(len(union), -1, np.intp)
        part.rows[np.searchsorted(union, unique)] = index
        duplicates = max(duplicates, len(part.pulse_ids) - len(unique))
    return union, duplicates


def _first_of_each(part: _Part) -> tuple[NDArray[np.uint64], int]:
    """`_align` for one source: of the frames of one pulse the first stays."""
    ids = part.pulse_ids
    if _rising(ids):
        return ids, 0
    _, rows = np.unique(ids, return_index=True)
    if len(rows) == len(ids):
        return ids, 0
    rows.sort()
    part.rows = rows
    return ids[rows], len(ids) - len(rows)


def _rising(ids: NDArray[np.uint64]) -> bool:
    return len(ids) < 2 or bool((ids[1:] > ids[:-1]).all())


def _mark_missing_modules(parts: list[_Part | None], mask: NDArray[np.uint64]) -> None:
    """Sets bit m of event i where module m has no frame for it; mask [n]."""
    for module, part in enumerate(parts):
        bit = np.uint64(1 << module)
        if part is None:
            mask |= bit
        elif part.rows is not None:
            mask[part.rows < 0] |= bit


def _first(names: Any) -> str:
    """Some of many names from the network, for a message."""
    names = list(names)
    return ", ".join(str(name)[:80] for name in names[:8]) + (", ..." if len(names) > 8 else "")
