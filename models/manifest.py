"""The manifest of a bundle: what a trained model is, what it takes and what it answers. Imports no torch.

A bundle is a directory of four files:

    manifest.json        this module; holds the hashes of the two below, so that its own hash pins all three
    weights.safetensors  tensors of network and preprocessing: a plain table of bytes, loading runs no code
    golden.safetensors   a few raw events, and the packed output that the weights gave for them
    MODEL_CARD.md        for people

Owns the format and its checks. Not the tensors (`models.bundle`) and not the table of architectures
(`models.architectures`). A file that is not exactly as written here is refused, never repaired.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

FORMAT: Final = 2
MANIFEST_FILE: Final = "manifest.json"
WEIGHTS_FILE: Final = "weights.safetensors"
GOLDEN_FILE: Final = "golden.safetensors"
CARD_FILE: Final = "MODEL_CARD.md"

# classifier: classes that do not exclude each other; phases: exactly one class an event.
KINDS: Final = ("classifier", "phases", "vae_mixture", "encoder_decoder")
CLASS_KINDS: Final = ("classifier", "phases")  # those with a probability a class, in the column p
HELD_OUT: Final = "held-out"  # in place of a file: the simulated events that training never saw
COLUMN_DTYPES: Final = ("float32", "uint32", "int32")
INPUT_DTYPES: Final = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")

MAX_MANIFEST_BYTES: Final = 1 << 20  # a manifest of 11 classes is 4 kB; names and scores never fill 1 MiB
MAX_EVENT_ELEMENTS: Final = 1 << 26  # 64 Mi pixels, four times the largest detector in use (16 Mpx)
MAX_COLUMNS: Final = 64
MAX_LABELS: Final = 4096
MAX_CALIBRATED: Final = 256
MAX_EVENTS: Final = 1 << 40  # of a data set: a year at 30 kHz
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelError(Exception):
    """Base of every error that the package `models` raises on purpose."""


class BundleError(ModelError):
    """A bundle cannot be used; the message says what, where, expected, got and what to do."""


@dataclass(frozen=True)
class Column:
    """One result column: `labels` empty for a scalar per event, else one name per element."""

    name: str
    dtype: str
    labels: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of float32 slots in the packed output."""
        return max(1, len(self.labels))


@dataclass(frozen=True)
class Calibrated:
    """A threshold with a promise: events of class `label` have p >= threshold with at least the probability
    `recall`, and that statement is right with the probability `confidence` (`models.promise`).

    positives: held-out events of the class that it rests on. removed_share: of all events of that data, those
    below the threshold. data: name of the file, or "held-out" and the split.
    """

    label: str
    threshold: float
    recall: float
    confidence: float
    positives: int
    removed_share: float
    data: str
    date: str


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; `sha256`, of the bytes of manifest.json, names the bundle everywhere."""

    name: str
    kind: str
    architecture: str
    options: dict[str, Any]
    input_shape: tuple[int, ...]
    input_dtype: str
    preprocess: dict[str, Any]
    columns: tuple[Column, ...]
    scores: dict[str, Any]
    training: dict[str, Any]
    weights_sha256: str
    golden_sha256: str
    created: str
    calibrated: tuple[Calibrated, ...] = ()
    sha256: str = ""

    @property
    def packed_width(self) -> int:
        """R: the sum of all column widths."""
        return sum(column.width for column in self.columns)

    def labels(self, column: str) -> tuple[str, ...]:
        """Names of the elements of a column; none if there is no such column."""
        return next((own.labels for own in self.columns if own.name == column), ())


def fault(what: str, where: object, expected: object, got: object, remedy: str) -> BundleError:
    """The one shape of every message about a bundle."""
    return BundleError(f"{what} in {where}: expected {expected}, got {got}; {remedy}")


_EXPORT_AGAIN = "write the bundle again with models.bundle.save_bundle"

# Key of manifest.json -> JSON type it must have.
_KEYS: Final[dict[str, type]] = {
    "format": int,
    "name": str,
    "kind": str,
    "architecture": str,
    "options": dict,
    "input_shape": list,
    "input_dtype": str,
    "preprocess": dict,
    "columns": list,
    "calibrated": list,
    "scores": dict,
    "training": dict,
    "weights_sha256": str,
    "golden_sha256": str,
    "created": str,
}


def read_manifest(directory: Path) -> Manifest:
    """Read and check `directory`/manifest.json; raises BundleError."""
    path = Path(directory) / MANIFEST_FILE
    content = _read_bytes(path)
    table = _parse(content, path)
    check_keys(table, _KEYS, path)
    _check_header(table, path)
    columns = _columns(table["columns"], path)
    _check_training(table["training"], path)
    fields = {key: table[key] for key in _KEYS if key != "format"}
    fields |= {"columns": columns, "calibrated": _calibrated(table["calibrated"], columns, path)}
    fields |= {"input_shape": _input_shape(table["input_shape"], path)}
    return Manifest(**fields, sha256=hashlib.sha256(content).hexdigest())


def dump_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json; the field `sha256` is theirs and so is not among them."""
    table: dict[str, Any] = {"format": FORMAT} | asdict(manifest)
    del table["sha256"]
    return (json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def check_keys(table: Mapping[str, Any], keys: Mapping[str, type], where: object) -> None:
    """Exactly `keys`, each of its type; bool is not a number here. Raises BundleError."""
    if unknown := sorted(set(table) - set(keys)):
        raise fault("unknown key", where, sorted(keys), unknown, "remove it or update this package")
    if missing := sorted(set(keys) - set(table)):
        raise fault("missing key", where, sorted(keys), f"none of {missing}", _EXPORT_AGAIN)
    for key, kind in keys.items():
        value = table[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise fault(f"type of {key!r}", where, kind.__name__, type(value).__name__, _EXPORT_AGAIN)


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe would be waited for
            raise fault("manifest", path, "a regular file", "something else", _EXPORT_AGAIN)
        if size > MAX_MANIFEST_BYTES:
            raise fault("size of the manifest", path, f"<= {MAX_MANIFEST_BYTES} bytes", size, _EXPORT_AGAIN)
        return path.read_bytes()
    except OSError as error:
        expected = f"a readable {MANIFEST_FILE}"
        raise fault("manifest", path, expected, error.strerror, "name the directory of a bundle") from error


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    try:
        table = json.loads(content, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise fault("JSON", path, "one JSON object", error, _EXPORT_AGAIN) from error
    if not isinstance(table, dict):
        raise fault("JSON", path, "one JSON object", type(table).__name__, _EXPORT_AGAIN)
    return table


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise ValueError(f"a key occurs twice among {names}")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_header(table: Mapping[str, Any], path: Path) -> None:
    if table["format"] != FORMAT:
        raise fault(
            "format", path, FORMAT, table["format"], "install the version of this package that wrote it"
        )
    for key, allowed in (("kind", KINDS), ("input_dtype", INPUT_DTYPES)):
        if table[key] not in allowed:
            raise fault(key, path, f"one of {allowed}", repr(table[key]), _EXPORT_AGAIN)
    for key in ("name", "architecture"):
        check_name(table[key], f"{key} in {path}")
    for key in ("weights_sha256", "golden_sha256"):
        if not _SHA256.fullmatch(table[key]):
            raise fault(key, path, "64 hexadecimal digits", repr(table[key]), _EXPORT_AGAIN)


def check_name(name: object, where: object) -> None:
    """Names become keys of routes, HDF5 and metrics: letters, digits and underscores only."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fault("name", where, f"a match of {_NAME.pattern}", repr(name), "choose a plain name")


def _input_shape(values: list[Any], path: Path) -> tuple[int, ...]:
    sizes_fit = all(type(value) is int and value > 0 for value in values)
    if not 1 <= len(values) <= 3 or not sizes_fit or prod(values) > MAX_EVENT_ELEMENTS:
        expected = f"1 to 3 positive sizes with a product <= {MAX_EVENT_ELEMENTS}"
        raise fault("input_shape", path, expected, values, _EXPORT_AGAIN)
    return tuple(values)


def _columns(entries: list[Any], path: Path) -> tuple[Column, ...]:
    if not 1 <= len(entries) <= MAX_COLUMNS:
        raise fault("columns", path, f"1 to {MAX_COLUMNS} columns", len(entries), _EXPORT_AGAIN)
    columns = tuple(_column(entry, f"columns[{i}] of {path}") for i, entry in enumerate(entries))
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise fault("column names", path, "each name once", names, "rename a column")
    return columns


def _column(entry: Any, where: str) -> Column:
    if not isinstance(entry, dict):
        raise fault("column", where, "an object", type(entry).__name__, _EXPORT_AGAIN)
    check_keys(entry, {"name": str, "dtype": str, "labels": list}, where)
    check_name(entry["name"], where)
    if entry["dtype"] not in COLUMN_DTYPES:
        raise fault("dtype", where, f"one of {COLUMN_DTYPES}", repr(entry["dtype"]), _EXPORT_AGAIN)
    return Column(entry["name"], entry["dtype"], _labels(entry["labels"], where))


# What the commands read of `training`, where it is there; whatever else is in it is for people.
_TRAINING_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "seed": (int,),
    "parameters": (int,),
    "cpu_s": (int, float),
    "events_per_s": (int, float),
    "about": (str,),
    "origin": (str,),
    "limits": (str,),
    "command": (str,),
    "events": (dict,),
    "stages": (list,),
    "data": (dict,),
}
_DATA_KEYS: Final[dict[str, type]] = {
    "source": str,
    "train": int,
    "validation": int,
    "test": int,
    "options": dict,
}


def _check_training(training: Mapping[str, Any], path: Path) -> None:
    for key, kinds in _TRAINING_KEYS.items():
        value = training.get(key, kinds[0]())
        if not isinstance(value, kinds) or isinstance(value, bool):
            expected, got = " or ".join(kind.__name__ for kind in kinds), type(value).__name__
            raise fault(f"training.{key}", path, expected, got, _EXPORT_AGAIN)
    if "data" in training:
        check_keys(training["data"], _DATA_KEYS, f"training.data of {path}")
    counts = [*training.get("events", {}).values()]
    counts += [training["data"][key] for key in ("train", "validation", "test") if "data" in training]
    if not all(
        type(count) is int and 0 <= count <= MAX_EVENTS for count in [*counts, training.get("seed", 0)]
    ):
        expected = "whole numbers from 0 as counts of events and as seed"
        raise fault("training", path, expected, [*counts, training.get("seed")], _EXPORT_AGAIN)


_CALIBRATED_KEYS: Final[dict[str, type]] = {
    "label": str,
    "threshold": float,
    "recall": float,
    "confidence": float,
    "positives": int,
    "removed_share": float,
    "data": str,
    "date": str,
}


def _calibrated(entries: list[Any], columns: tuple[Column, ...], path: Path) -> tuple[Calibrated, ...]:
    """One threshold a class at most, each of a class of column `p`."""
    if len(entries) > MAX_CALIBRATED:
        raise fault("calibrated", path, f"at most {MAX_CALIBRATED} entries", len(entries), _EXPORT_AGAIN)
    for index, entry in enumerate(entries):
        where = f"calibrated[{index}] of {path}"
        if not isinstance(entry, dict):
            raise fault("calibrated", where, "an object", type(entry).__name__, _EXPORT_AGAIN)
        check_keys(entry, _CALIBRATED_KEYS, where)
        texts_fit = all(entry[key].isprintable() and len(entry[key]) <= 200 for key in ("data", "date"))
        if not texts_fit or not 1 <= entry["positives"] <= MAX_EVENTS:
            raise fault("calibrated", where, "printable texts, positives from 1", entry, _EXPORT_AGAIN)
        shares = ("threshold", "recall", "confidence", "removed_share")
        if not all(0 <= entry[key] <= 1 for key in shares):
            raise fault("calibrated", where, f"{shares} from 0 to 1", entry, _EXPORT_AGAIN)
    labels = [entry["label"] for entry in entries]
    classes = next((column.labels for column in columns if column.name == "p"), ())
    if len(set(labels)) != len(labels) or not set(labels) <= set(classes):
        raise fault("calibrated", path, f"each class once, of {classes}", labels, _EXPORT_AGAIN)
    return tuple(Calibrated(**entry) for entry in entries)


def _labels(labels: list[Any], where: str) -> tuple[str, ...]:
    printable = all(
        isinstance(label, str) and label.isprintable() and 0 < len(label) <= 64 for label in labels
    )
    if not printable or len(set(labels)) != len(labels) or len(labels) > MAX_LABELS:
        expected = f"at most {MAX_LABELS} different printable names of 1 to 64 characters"
        raise fault("labels", where, expected, labels[:20], _EXPORT_AGAIN)
    return tuple(labels)
