"""The user's own events: read from files and checked against what a recipe or bundle takes.

Owns the checks. The split is in `models.data_sets.hash_split`, where events lie in a file in
`models.data_sets.layouts`, the form of labels in `models.data_sets.labels_csv`. Notes that are no errors go
to the log.

N events, T targets.
"""

import argparse
import logging
import math
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data_sets.data_set import DataSet
from models.data_sets.found import Array, Found, Rows, Where, check_count
from models.data_sets.hash_split import NAMED_BY, SPLIT_BY, SPLIT_KEY, content_keys, split_keys, unseen
from models.data_sets.labels_csv import Labels, read_labels
from models.data_sets.labels_match import match
from models.data_sets.layouts import look
from models.manifest import CLASS_KINDS, INPUT_DTYPES, Manifest, ModelError

log = logging.getLogger(__name__)

MEMORY_GB: Final = 8.0  # half of what a laptop has
_CHUNK: Final = 1 << 24  # numbers looked at together: few steps, and 16 MB of answers


@dataclass(frozen=True)
class FileData:
    """What the user named. `labelled_only`: leave events without a line in the labels out."""

    where: Where
    labels: Path | None = None
    group: str = ""
    labelled_only: bool = False
    memory_gb: float = MEMORY_GB


@dataclass(frozen=True)
class Wanted:
    """What a recipe or bundle takes; None and () leave it to the files.

    classes: targets are classes (0 or 1), not numbers. exclusive: exactly one class an event.
    """

    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    target_names: tuple[str, ...] = ()
    labelled: bool = True
    classes: bool = False
    exclusive: bool = False


def wanted_by(manifest: Manifest, labelled: bool = True) -> Wanted:
    """What a bundle takes. Clusters are scored by classes of any name."""
    shape, dtype, kind = manifest.input_shape, manifest.input_dtype, manifest.kind
    if kind not in CLASS_KINDS:
        return Wanted(shape, dtype, manifest.labels("target"), labelled, classes=kind == "vae_mixture")
    return Wanted(shape, dtype, manifest.labels("p"), labelled, classes=True, exclusive=kind == "phases")


def load_files(data: FileData, wanted: Wanted) -> DataSet:
    """The labelled events of the files. Facts: index, split_key and split_by (`models.data_sets.hash_split`);
    train_id and pulse_id where there are any.

    Raises ModelError for whatever does not fit, before the events are read where that is possible.
    """
    found = look(data.where, wanted.shape)
    _check_form(found, wanted)
    labels = _labels(data, found, wanted)
    rows, lines = _matched(found, labels, data)
    inputs = _single(found.read(rows))
    finite = _finite(inputs, found)
    if not finite.all():
        inputs, rows, lines = inputs[finite], rows[finite], lines[finite]
    events = _as_tensor(inputs, wanted, found)
    groups = [labels.groups[line] for line in lines] if labels and labels.groups is not None else None
    facts = _facts(found, rows) | _split_facts(found, rows, groups, events)
    targets = np.empty((len(rows), 0), np.float32) if labels is None else labels.targets[lines]
    made = DataSet(events, torch.from_numpy(targets), labels.names if labels else (), facts)
    if labels is not None:
        _check_targets(made, wanted, labels.path)
    return made


# --- checks ---------------------------------------------------------------------------------------------


def _check_form(found: Found, wanted: Wanted) -> None:
    if not found.event_shape:
        raise ModelError(f"events {found.what}: expected an array an event, got one number; name another key")
    if not prod(found.event_shape):
        raise ModelError(
            f"events {found.what}: expected numbers in an event, got {list(found.event_shape)}; name "
            "another key"
        )
    if found.count == 0:
        raise ModelError(f"events {found.what}: expected at least one event, got none; name another file")
    if wanted.shape is not None and tuple(found.event_shape) != tuple(wanted.shape):
        raise ModelError(
            f"shape of an event in {found.what}: expected {list(wanted.shape)}, got "
            f"{list(found.event_shape)}; crop or bin the events to it, or name another dataset"
        )
    kind = found.dtype.kind
    if kind not in "uif" or (wanted.dtype and (kind == "f") != (np.dtype(wanted.dtype).kind == "f")):
        raise ModelError(
            f"type of {found.what}: expected {wanted.dtype or 'numbers'}, got {found.dtype}; raw counts are "
            "integers, calibrated intensities floats: name the dataset that was meant"
        )


def _matched(found: Found, labels: Labels | None, data: FileData) -> tuple[Rows, Rows]:
    """(events, lines): which are read, checked for their size before one of them is."""
    if not 0 < data.memory_gb < math.inf:  # NaN would switch the limit off
        raise ModelError(
            f"--memory-gb: expected a number above 0, got {data.memory_gb}; {MEMORY_GB:g} is usual"
        )
    if labels is not None:
        rows, lines = match(labels, found, data.labelled_only)
        _check_size(found, len(rows), data.memory_gb)
        return rows, lines
    _check_size(found, found.count, data.memory_gb)
    rows = np.arange(found.count)
    return rows, rows


def _single(inputs: Array) -> Array:
    """Floats as float32, in which a number may become infinite that was not."""
    if inputs.dtype.kind != "f":
        return inputs
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(inputs, np.float32)


def _check_size(found: Found, events: int, memory_gb: float) -> None:
    check_count(events, found.what)
    events = events if found.partly else found.count
    needed_gb = events * prod(found.event_shape) * found.dtype.itemsize / 1e9
    if needed_gb > memory_gb:
        raise ModelError(
            f"events {found.what}: {events} of {list(found.event_shape)} {found.dtype} take "
            f"{needed_gb:.2f} GB of memory, the limit is {memory_gb:g} GB; raise --memory-gb, or name fewer "
            "events in the labels and leave the others out with --labelled-only"
        )


def _finite(inputs: Array, found: Found) -> NDArray[np.bool_]:
    """True [N] where every number of an event is finite."""
    if inputs.dtype.kind != "f":
        return np.ones(len(inputs), np.bool_)
    finite = np.empty(len(inputs), np.bool_)
    for start in range(0, len(inputs), step := max(1, _CHUNK // prod(inputs.shape[1:]))):
        part = inputs[start : start + step]
        finite[start : start + step] = np.isfinite(part).reshape(len(part), -1).all(1)
    bad = len(finite) - int(finite.sum())
    if bad == len(finite):
        raise ModelError(
            f"events {found.what}: expected finite numbers, got NaN or infinity in each of {bad} events; "
            "mask dead pixels with a number, such as 0, before the file is written"
        )
    if bad:
        log.warning("events %s: %d of %d hold NaN or infinity and are left out", found.what, bad, len(finite))
    return finite


def _as_tensor(inputs: Array, wanted: Wanted, found: Found) -> Tensor:
    """In the bundle's type if it can hold the numbers, else in one that torch and the stream know."""
    if inputs.dtype.kind == "f":
        return torch.from_numpy(inputs)
    low, high = int(inputs.min()), int(inputs.max())
    names = [wanted.dtype] if wanted.dtype else [inputs.dtype.name, "uint16", "int32", "uint32"]
    for name in names:
        limits = np.iinfo(np.dtype(name))
        if name in INPUT_DTYPES and limits.min <= low and high <= limits.max:
            return torch.from_numpy(np.ascontiguousarray(inputs, np.dtype(name)))
    raise ModelError(
        f"type of {found.what}: expected numbers that fit {' or '.join(names)}, got {low} to {high}; "
        "write the counts without offset, or as float32 for a network trained on that"
    )


def _labels(data: FileData, found: Found, wanted: Wanted) -> Labels | None:
    if data.labels is not None:
        return read_labels(data.labels, wanted.target_names, data.group)
    if found.targets is not None and found.targets.ndim == 2 and len(found.targets) == found.count:
        return _stored_labels(found, found.targets, data, wanted)
    if wanted.labelled:
        raise ModelError(
            f"events {found.what}: expected labels, got a file without any; name a CSV file with --labels "
            "(columns train_id, pulse_id or index; label, or 0/1 per class)"
        )
    return None


def _stored_labels(found: Found, targets: Array, data: FileData, wanted: Wanted) -> Labels:
    """Those of a CXI file, which has no names for them."""
    width = targets.shape[1]
    names = wanted.target_names or tuple(f"class_{index}" for index in range(width))
    if width != len(names):
        raise ModelError(
            f"labels in {found.what}: expected {len(names)} numbers an event for {list(names)}, got {width}; "
            "give them in a CSV file with --labels"
        )
    single = _single(targets)
    if not np.isfinite(single).all():
        raise ModelError(
            f"labels in {found.what}: expected finite numbers of float32, got others; give them with --labels"
        )
    return Labels(data.where.path, names, single, {}, None)


def _check_targets(data: DataSet, wanted: Wanted, path: Path) -> None:
    values = data.targets
    are_classes = bool(((values == 0) | (values == 1)).all())
    if wanted.classes and not are_classes:
        strange = values[(values != 0) & (values != 1)][0].item()
        raise ModelError(f"labels {path}: expected 0 or 1 for each class, got {strange:g}; correct them")
    if wanted.exclusive and not bool((values.sum(1) == 1).all()):
        bad = int((values.sum(1) != 1).sum())
        raise ModelError(
            f"labels {path}: expected one class an event, got none or several for {bad} events; correct them"
        )
    if len(data) > 1 and bool((values == values[0]).all()):
        only = [n for n, v in zip(data.target_names, values[0].tolist(), strict=True) if v] or "no class"
        got = f"{only} for all {len(data)} events" if are_classes else "the same numbers for all events"
        raise ModelError(f"labels {path}: expected at least two classes, got {got}; add events of another")
    if are_classes:
        absent = [n for n, seen in zip(data.target_names, values.any(0).tolist(), strict=True) if not seen]
        if absent:
            log.warning("labels %s: no event is of class %s", path, ", ".join(absent))


# --- facts --------------------------------------------------------------------------------------------


def _facts(found: Found, rows: Rows) -> dict[str, Tensor]:
    facts = {"index": torch.from_numpy(rows)}
    for name, ids in (("train_id", found.train_id), ("pulse_id", found.pulse_id)):
        if ids is not None:
            facts[name] = torch.from_numpy(ids[rows].astype(np.int64))
    return facts


def _split_facts(found: Found, rows: Rows, groups: list[str] | None, events: Tensor) -> dict[str, Tensor]:
    """int64 [N] each: the key of the event's group, or else of its ids, or else of its bytes; and which.

    The bytes are those of the tensor: a cut-out stored in another type gives the same.
    """
    if groups is not None:
        by, keys = "group", split_keys(groups)
    elif found.train_id is not None and found.pulse_id is not None:
        pairs = zip(found.train_id[rows].tolist(), found.pulse_id[rows].tolist(), strict=True)
        by, keys = "ids", split_keys([f"{train}/{pulse}" for train, pulse in pairs])
    else:
        by, keys = "content", content_keys(events)
    return {SPLIT_KEY: keys, SPLIT_BY: torch.full_like(keys, NAMED_BY.index(by))}


# --- the command line -----------------------------------------------------------------------------------


def add_data_arguments(parser: argparse.ArgumentParser, judging: bool = False) -> None:
    """The options that describe files of events; `judging`: for a command that takes a trained bundle."""
    described = "plain HDF5, .npz, CXI, European XFEL files or run folders"
    group = parser.add_argument_group("files of events", described)
    group.add_argument("--labels", type=Path, metavar="CSV", help="labels: a line per event")
    group.add_argument("--dataset", default="", help="dataset or array of the events, if several are there")
    group.add_argument("--source", default="", help="European XFEL source of the events")
    group.add_argument("--key", default="", help="key of that source, such as data.image")
    group.add_argument("--group", default="", help="column of the labels that keeps events in one split")
    group.add_argument("--labelled-only", action="store_true", help="leave events without label out")
    group.add_argument("--memory-gb", type=float, default=MEMORY_GB, help="most that the events may take")
    if judging:
        group.add_argument("--all-events", action="store_true", help="all of these: the bundle never saw any")


def data_from(path: Path | str, options: argparse.Namespace) -> FileData:
    """The files that the options describe; `path` is the file or folder of events."""
    where = Where(Path(path), options.dataset, options.source, options.key)
    return FileData(where, options.labels, options.group, options.labelled_only, options.memory_gb)


def bundle_events(manifest: Manifest, path: Path | str, options: argparse.Namespace) -> DataSet:
    """Labelled events of files to judge a bundle by: none that it was trained on. Raises ModelError."""
    return unseen(load_files(data_from(path, options), wanted_by(manifest)), manifest, options.all_events)
