"""From a decoded train to the events of one configured stream.

Owns what the wire leaves open: which frame belongs to which pulse, which scalars go with an event. Modules
that come as separate sources are put side by side by `align`. The order of axes is configuration, read by
`wire.axes`.

Pure: no sockets, no clock, no torch. Frames stay where they were received: the caller takes them from `raw`,
or has them put in order by `Events.copy_into`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.align import MAX_MODULE_SOURCES, Part, align, mark_missing_modules
from streamer.attach import Attach, attached
from streamer.errors import FLAG_MODULE_MISSING, FrameError
from streamer.ids import MAX_PULSES
from streamer.wire.arrays import show
from streamer.wire.axes import Axes, fitting_axes, parse_axes
from streamer.wire.types import TRAIN_ID_END, Array, Buffer, SourceData, Train

__all__ = ["Attach", "Axes", "Events", "SourceSpec", "assemble", "parse_axes"]


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
class Events:
    """The events of one stream in one train; their frames stay in the message until `copy_into`.

    pulse_ids [n] u8, flags [n] u4 (FLAG_* of errors), attached [n, len(spec.attach)] f8 with NaN for what did
    not come, missing_modules [n] u8 with bit m set where module m did not come. Read-only: `again` shares
    them.
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
    _parts: list[Part | None]  # one, or one per module; None for a module that did not come
    raw: Buffer | None = None  # the frames as they are stored, event after event, if they came so
    marked: bool = True  # False: no flag is set, no module missing, no scalar attached

    def mark(self, flag: int) -> None:
        """Set `flag` of every event."""
        self.flags, self.marked = self.flags | np.uint32(flag), True

    def again(self, train_id: int, raw: Buffer) -> "Events":
        """The same events of another train with other frames; only where `raw` is there."""
        return Events(
            train_id,
            self.pulse_ids,
            self.flags,
            self.attached,
            self.missing_modules,
            self.duplicates,
            self.source_present,
            self.n,
            self._spec,
            [],
            raw,
            self.marked,
        )

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
        if self.raw is not None:
            frames = np.ndarray((self.n, *self._spec.event_shape), self._spec.dtype, self.raw)
            np.copyto(out, frames[start:stop])
            return
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
    aligned = align(parts)
    n = len(aligned.pulse_ids)
    flags, missing_modules = np.zeros(n, np.uint32), np.zeros(n, np.uint64)
    if spec.stacks:
        mark_missing_modules(parts, missing_modules)
        flags[missing_modules != 0] |= np.uint32(FLAG_MODULE_MISSING)
    return Events(
        train_id=train_id,
        pulse_ids=aligned.pulse_ids,
        flags=flags,
        attached=attached(train, spec.attach, n, aligned.rows, flags),
        missing_modules=missing_modules,
        duplicates=aligned.duplicates,
        source_present=parts.count(None) < len(parts),
        n=n,
        _spec=spec,
        _parts=parts,
        raw=(raw := _raw(parts, spec)),
        marked=raw is None,
    )


def _raw(parts: list[Part | None], spec: SourceSpec) -> Buffer | None:
    """The bytes of the frames, where copying them is all that is to be done; then no flag is set either."""
    (part,) = parts if len(parts) == 1 else (None,)
    if part is None or part.rows is not None or spec.attach or not len(part.frames):
        return None
    if not part.frames.flags.c_contiguous or part.frames.dtype != spec.dtype:
        return None
    return part.frames.reshape(-1).view(np.uint8).data


def absent(train: Train, spec: SourceSpec) -> str:
    """Why a train gives no event: legal in single trains, from the first one on perhaps a wrong name."""
    name = spec.sources[0]
    source = train.sources.get(name)
    there = sorted(train.sources if source is None else [*source.arrays, *source.values])
    where = "the message" if source is None else f"source {name}"
    return f"no event of {name}[{spec.key}] in this train; {where} holds: {_first(there, 20) or 'nothing'}"


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


def _part(source: str, data: SourceData | None, spec: SourceSpec) -> Part | None:
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
    return Part(frames, _pulse_ids(source, data, spec, len(frames)))


def _part_without_pulses(source: str, data: SourceData, spec: SourceSpec) -> Part:
    """No events, if nothing of the key's group came.

    Trains without pulses come with all other groups of keys of a detector (header, detector, trailer), or
    without any key.
    """
    if any(key.startswith(spec.group) for keys in (data.arrays, data.values) for key in keys):
        raise _no_array(source, data, spec)
    return Part(np.empty((0, *spec.part_shape), spec.dtype), np.empty(0, np.uint64))


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


def _first(names: Any, most: int = 8) -> str:
    """Some of many names from the network, for a message."""
    names = list(names)
    return ", ".join(map(_printable, names[:most])) + (", ..." if len(names) > most else "")


def _printable(name: Any) -> str:
    """A name as it is; one with what a terminal would act on, or a log take for a line of its own, quoted."""
    text = str(name)[:80]
    return text if text.isprintable() else show(text)
