"""What a run will do, worked out once from the configuration and the bundles' manifests.

Owns everything that the processes of a stream must agree on: result columns, memory layout, pages,
addresses. The pipeline writes one `StageSpec` per stream as JSON; every stage reads it and computes the
same layouts, so no layout travels. Imports no torch: ingest and sink start in a third of a second.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from models import shipped
from models.manifest import BundleError, Column, Manifest, read_manifest
from streamer import ids, memory
from streamer.assemble import Attach, SourceSpec
from streamer.config import RouteConfig, RunConfig, StreamConfig, Strict
from streamer.errors import ConfigError
from streamer.ledger import PageLayout, PageReader, inference_layout, ingest_layout, sink_layout
from streamer.ring import Ring, RingLayout
from streamer.routing import Route, Router
from streamer.rules import Threshold, Vocabulary
from streamer.store.lanes import CURSOR_INTS
from streamer.tokens import Tokens

# A block of about this size: large enough that handing it over costs little beside what is done with it,
# small enough that a network begins early and its verdicts leave early. Without a network nothing takes time,
# and what a block costs is most of the work (docs/decisions/blocks.md).
BLOCK_BYTES = 1 << 20
BLOCK_BYTES_WITHOUT_BUNDLES = 4 << 20
MAX_BLOCK_EVENTS = 2048
# Fewer slots than this leave no room for a block in each hand and the next ones arriving.
MIN_SLOTS = 8
MAX_SLOTS = 4096

# Columns that every event has, whatever its bundles: (name, dtype). The ids come beside them.
FIXED_COLUMNS: tuple[tuple[str, str], ...] = (
    ("verdict", "u1"),
    ("reason", "u1"),
    ("route", "i2"),
    ("flags", "u4"),
    ("missing_modules", "u8"),
    ("received_at", "f8"),
)
FIXED_NAMES = frozenset({"train_id", "pulse_id", *(name for name, _ in FIXED_COLUMNS)})


class BundleRef(Strict):
    """A bundle as the run began with it."""

    name: str
    path: str
    sha256: str


class ColumnRef(Strict):
    """A result column; mirrors `models.manifest.Column` in the stage's JSON."""

    name: str
    dtype: str
    labels: tuple[str, ...] = ()


class Version(Strict):
    """What answers, and what is done with the answers: a stream has one version at a time (`versions`)."""

    bundles: tuple[BundleRef, ...]
    routes: tuple[RouteConfig, ...]
    """Always the same names in the same order: counters and folders are laid out by them."""
    clusters: dict[str, int]
    """Numbers of clusters by name."""
    store: bool
    """False: kept events are published and counted, and no file takes them."""


class StageSpec(Strict):
    """All that a stage process is told."""

    config: RunConfig
    stream: str
    fd: int
    """Descriptor of the stream's shared memory, inherited."""
    folder: str
    """Private folder of this run's sockets and small files."""
    bundles: tuple[BundleRef, ...]
    columns: tuple[ColumnRef, ...]
    created: str
    """Start of the run, YYYYMMDDThhmmssZ."""

    @property
    def settings(self) -> StreamConfig:
        return next(stream for stream in self.config.stream if stream.name == self.stream)

    @property
    def first_version(self) -> Version:
        """As the run begins. Without any rule, one that keeps every event: nothing is vetoed unasked."""
        settings, output = self.settings, self.config.output
        routes = settings.route or (RouteConfig(name="all"),)
        clusters, store = dict(settings.clusters), output.store and not output.paused
        return Version(bundles=self.bundles, routes=routes, clusters=clusters, store=store)

    def address(self, what: str) -> str:
        """ipc endpoint of a socket of this stream."""
        return f"ipc://{self.folder}/{self.stream}.{what}"

    def tokens(self, to: str) -> Tokens:
        """The tokens to a stage, for who sends and for who receives them."""
        return Tokens(Path(self.folder) / f"{self.stream}.{to}.tokens")

    def version_file(self, number: int | str) -> Path:
        """Where inference notes a version, so that the sink and a restart find it."""
        return Path(self.folder) / f"{self.stream}.version.{number}.json"

    @property
    def engine_file(self) -> Path:
        """Where inference notes what its networks run in, so that a restart need not choose again."""
        return Path(self.folder) / f"{self.stream}.engines.json"


def find_bundle(name: str) -> Path:
    """Folder of a shipped bundle by name, or `name` as a folder. Raises ConfigError."""
    try:
        return shipped.find_bundle(name)
    except BundleError as error:
        raise ConfigError(str(error)) from error


def pin_bundle(ref: BundleRef, folder: Path) -> BundleRef:
    """A copy of the bundle in the run's folder: training it again in place must not stop a restart."""
    pinned = folder / "bundles" / ref.sha256
    if not pinned.is_dir():
        partial = pinned.with_suffix(".part")
        shutil.copytree(ref.path, partial, dirs_exist_ok=True)
        partial.rename(pinned)
    return BundleRef(name=ref.name, path=str(pinned), sha256=ref.sha256)


def pin_bundles(spec: StageSpec) -> StageSpec:
    """The spec with every bundle copied to the run's folder. Raises ConfigError."""
    try:
        pinned = tuple(pin_bundle(ref, Path(spec.folder)) for ref in spec.bundles)
    except OSError as error:
        raise ConfigError(f"cannot copy the bundles to {spec.folder}: {error}; free space there") from error
    return spec.model_copy(update={"bundles": pinned})


def read_bundles(stream: StreamConfig) -> list[tuple[Path, Manifest]]:
    """The manifests of a stream, checked against it and each other. Raises ConfigError."""
    found = []
    for name in stream.bundles:
        folder = find_bundle(name)
        try:
            found.append((folder, read_manifest(folder)))
        except BundleError as error:
            raise ConfigError(f"stream {stream.name}: {error}") from error
    for _, manifest in found:
        check_input(stream, manifest)
    columns = [column.name for _, manifest in found for column in manifest.columns]
    names = columns + [parse_attach(text).name for text in stream.attach]
    repeated = sorted({name for name in columns if names.count(name) > 1 or name in FIXED_NAMES})
    if repeated:
        raise ConfigError(
            f"stream {stream.name}: the result columns {repeated} are given twice: by two bundles, a "
            "scalar, or by us; run the bundles in two streams, or name the scalar otherwise"
        )
    return found


def check_input(stream: StreamConfig, manifest: Manifest) -> None:
    """Refuse a bundle that was not made for the stream's events. Raises ConfigError."""
    shape, dtype = tuple(stream.source.shape), stream.source.dtype
    # Preprocessing begins in float32 whatever comes; but counts are not calibrated intensities.
    same_kind = _is_float(manifest.input_dtype) == _is_float(dtype)
    if tuple(manifest.input_shape) != shape or not same_kind:
        raise ConfigError(
            f"stream {stream.name}: bundle {manifest.name} takes {manifest.input_dtype} events of shape "
            f"{list(manifest.input_shape)}, the stream has {dtype} of {list(shape)}; "
            "correct source.shape and source.dtype, or choose another bundle"
        )


def schema(manifest: Manifest) -> tuple[Any, ...]:
    """What a bundle takes and gives: one of the same can take its place while the stream runs."""
    return (manifest.columns, tuple(manifest.input_shape), manifest.input_dtype)


def _is_float(dtype: str) -> bool:
    return np.dtype(dtype).kind == "f"


def parse_attach(text: str) -> Attach:
    """`SOURCE key` or `name = SOURCE key`. Raises ConfigError."""
    name, equals, rest = text.partition("=")
    parts = (rest if equals else text).split()
    if len(parts) != 2:
        raise ConfigError(f"attach {text!r}: expected 'SOURCE key' or 'name = SOURCE key'")
    source, key = parts
    plain = key.removesuffix(".value").rpartition(".")[2]
    return Attach(name=name.strip() if equals else plain, source=source, key=key)


def _refuse_taken_names(stream: StreamConfig, names: list[str]) -> None:
    taken = sorted({name for name in names if name in FIXED_NAMES or names.count(name) > 1})
    if taken:
        raise ConfigError(
            f"stream {stream.name}: attached scalars need names of their own; {taken} are taken. "
            "Write 'name = SOURCE key'"
        )


def source_spec(stream: StreamConfig) -> SourceSpec:
    """What `assemble` needs. Raises ConfigError for axes that cannot be."""
    source = stream.source
    attach = tuple(parse_attach(text) for text in stream.attach)
    _refuse_taken_names(stream, [a.name for a in attach])
    if len(source.sources) > 1 and (len(source.shape) != 3 or source.shape[0] != len(source.sources)):
        raise ConfigError(
            f"stream {stream.name}: {len(source.sources)} sources are stacked as modules, so source.shape "
            f"must be [{len(source.sources)}, slow, fast], got {list(source.shape)}"
        )
    try:
        return SourceSpec(
            sources=source.sources,
            key=source.key,
            pulse_key=source.pulse_key,
            axes=source.axes,
            event_shape=tuple(source.shape),
            dtype=np.dtype(source.dtype),
            attach=attach,
        )
    except ValueError as error:
        raise ConfigError(f"stream {stream.name}: source: {error}") from error


def ring_layout(stream: StreamConfig, packed: int) -> RingLayout:
    """Sizes of the stream's ring. Raises ConfigError if it is too small to turn."""
    dtype = np.dtype(stream.source.dtype)
    event_bytes = prod(stream.source.shape) * dtype.itemsize
    events = stream.block_events or _block_events(stream, event_bytes)
    slots = min(MAX_SLOTS, stream.ring_bytes // (events * event_bytes))
    if slots < MIN_SLOTS:
        raise ConfigError(
            f"stream {stream.name}: ring_bytes = {stream.ring_bytes} holds {slots} blocks of {events} events "
            f"of {event_bytes} bytes; at least {MIN_SLOTS} are needed: "
            f"set ring_bytes = {MIN_SLOTS * events * event_bytes} or a smaller block_events"
        )
    return RingLayout(slots, events, tuple(stream.source.shape), dtype, len(stream.attach), packed)


def _block_events(stream: StreamConfig, event_bytes: int) -> int:
    """A power of two, because the batches of a GPU are; a small ring gets blocks with room to turn."""
    block_bytes = BLOCK_BYTES if stream.bundles else BLOCK_BYTES_WITHOUT_BUNDLES
    block_bytes = min(block_bytes, max(BLOCK_BYTES, stream.ring_bytes // (2 * MIN_SLOTS)))
    fitting = min(MAX_BLOCK_EVENTS, max(1, block_bytes // event_bytes))
    return 1 << (fitting - 1).bit_length()


def routes(version: Version) -> list[Route]:
    return [Route(r.name, r.when, r.one_in, r.enabled) for r in version.routes]


def route_names(stream: StreamConfig) -> list[str]:
    return [route.name for route in stream.route] or ["all"]


def columns_of(spec: StageSpec) -> tuple[Column, ...]:
    return tuple(Column(c.name, c.dtype, c.labels) for c in spec.columns)


def attached_names(spec: StageSpec) -> tuple[str, ...]:
    return tuple(parse_attach(text).name for text in spec.settings.attach)


def make_router(
    spec: StageSpec, version: Version | None = None, manifests: Sequence[Manifest] | None = None
) -> Router:
    """The rules of a version (None: the first) over the stream's columns. `manifests`: those of its bundles,
    if at hand. Raises RouteError (a ConfigError).
    """
    version = version or spec.first_version
    columns = columns_of(spec)
    if version.clusters and "cluster" not in {column.name for column in columns}:
        raise ConfigError(
            f"stream {spec.stream}: clusters {sorted(version.clusters)} have names, but no bundle of "
            "it gives a column `cluster`; remove `clusters`, or add such a bundle"
        )
    thresholds = _thresholds(_manifests(version.bundles) if manifests is None else manifests)
    vocabulary = Vocabulary(columns, attached_names(spec), thresholds, version.clusters)
    return Router(routes(version), vocabulary, spec.config.run, spec.stream)


def _manifests(refs: Sequence[BundleRef]) -> list[Manifest]:
    try:
        return [read_manifest(Path(ref.path)) for ref in refs]
    except BundleError as error:
        raise ConfigError(str(error)) from error


def _thresholds(manifests: Sequence[Manifest]) -> list[Threshold]:
    return [Threshold(c.label, c.threshold, m.name) for m in manifests for c in m.calibrated]


@dataclass(frozen=True)
class Layouts:
    """Everything in a stream's shared memory, in order."""

    ingest: PageLayout
    inference: PageLayout
    sink: PageLayout
    ring: RingLayout

    @property
    def sizes_bytes(self) -> list[int]:
        pages = [page.size_bytes for page in (self.ingest, self.inference, self.sink)]
        return [*pages, ids.TABLE_BYTES, self.ring.size_bytes]

    @property
    def size_bytes(self) -> int:
        return sum(memory.aligned(size) for size in self.sizes_bytes)


def layouts(stream: StreamConfig, columns: tuple[ColumnRef, ...]) -> Layouts:
    packed = sum(max(1, len(column.labels)) for column in columns)
    names = route_names(stream)
    # One file series per route, one for fail-open, one for the results of every event.
    cursor_cells = (len(names) + 2) * CURSOR_INTS
    return Layouts(
        ingest_layout(), inference_layout(), sink_layout(names, cursor_cells), ring_layout(stream, packed)
    )


class Shared:
    """A stream's shared memory as one process sees it."""

    def __init__(self, spec: StageSpec) -> None:
        self.layouts = layouts(spec.settings, spec.columns)
        self.whole = memory.attach(spec.fd)
        parts = memory.carve(self.whole, self.layouts.sizes_bytes)
        self.pages = dict(zip(("ingest", "inference", "sink"), parts, strict=False))
        self.table = parts[3]
        self.ring = Ring(parts[4], self.layouts.ring)

    def reader(self, stage: str) -> PageReader:
        return PageReader(self.pages[stage], getattr(self.layouts, stage))


def describe(spec: StageSpec) -> dict[str, Any]:
    """The resolved stream in plain values, for people."""
    ring = layouts(spec.settings, spec.columns).ring
    return {
        "stream": spec.stream,
        "bundles": [bundle.model_dump() for bundle in spec.bundles],
        "columns": {column.name: [column.dtype, *column.labels] for column in spec.columns},
        "routes": [route.model_dump() for route in spec.first_version.routes],
        "calibrated": {
            entry.label: {"bundle": m.name, "threshold": entry.threshold, "recall": entry.recall}
            | {"confidence": entry.confidence, "removed_share": entry.removed_share, "data": entry.data}
            for m in _manifests(spec.bundles)
            for entry in m.calibrated
        },
        "ring": {"slots": ring.slots, "events": ring.events, "size_bytes": ring.size_bytes},
    }
