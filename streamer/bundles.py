"""The bundles of a stream, loaded and verified, and their exchange while the stream runs.

Owns what happens between a folder and a warm runner; the device is in `runner`, the choice of the moment of a
swap in `inference`.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from models.manifest import BundleError, Manifest
from streamer.device import NoRunner, Runner
from streamer.errors import ConfigError
from streamer.plan import BundleRef, StageSpec, Version, find_bundle, make_router, pin_bundle, schema
from streamer.results import BundleRef as PublishedBundle
from streamer.routing import Router
from streamer.versions import note_engine, noted_engine

if TYPE_CHECKING:  # imports torch, which a stream without bundles does not need
    from models.bundle import Bundle


@dataclass(frozen=True)
class Loaded:
    """A version of a stream, the runner that serves its bundles, and its rules with their thresholds."""

    version: Version
    manifests: tuple[Manifest, ...]
    runner: Runner
    router: Router

    @property
    def refs(self) -> tuple[BundleRef, ...]:
        return self.version.bundles

    @cached_property
    def published(self) -> tuple[PublishedBundle, ...]:
        """As in the header of results and verdicts."""
        return tuple(PublishedBundle(ref.name, ref.sha256) for ref in self.refs)


def load(spec: StageSpec, version: Version, frames: npt.NDArray[Any]) -> Loaded:
    """Load, verify and warm up. Raises ConfigError for a bundle that is not right or not that of `version`,
    and if a rule names a threshold that none of them holds.
    """
    try:
        if version.bundles:
            return _networks(spec, version, frames)
        return Loaded(version, (), NoRunner(), make_router(spec, version, ()))
    except BundleError as error:
        raise ConfigError(str(error)) from error


def _networks(spec: StageSpec, version: Version, frames: npt.NDArray[Any]) -> Loaded:
    """Rules first: the runner takes seconds to warm up. Raises BundleError and ConfigError."""
    from streamer.runner import CpuRunner, Wanted, make_runner  # imports torch

    settings, refs = spec.settings, version.bundles
    bundles = [_load_as(ref) for ref in refs]
    manifests = tuple(bundle.manifest for bundle in bundles)
    router = make_router(spec, version, manifests)
    engine = noted_engine(spec, refs)
    wanted = Wanted(settings.max_events, settings.device, settings.threads, engine)
    runner = make_runner(bundles, frames, wanted)
    if isinstance(runner, CpuRunner) and runner.mode != engine:
        note_engine(spec, refs, runner.mode)
    return Loaded(version, manifests, runner, router)


def _load_as(ref: BundleRef) -> "Bundle":
    from models.bundle import load_bundle

    bundle = load_bundle(Path(ref.path))
    if bundle.manifest.sha256 != ref.sha256:
        raise ConfigError(
            f"bundle {ref.path} changed since the run began: sha256 {bundle.manifest.sha256}, "
            f"expected {ref.sha256}; put the old files back, or use `streamer swap`"
        )
    return bundle


class Swap:
    """A request for another bundle, served in a thread beside the stream.

    The old bundles serve until the new ones have passed hash, schema, golden answers and warm-up; `loaded`
    is then set, or `error` says why not.
    """

    def __init__(self, spec: StageSpec, frames: npt.NDArray[Any], old: Loaded, name: str) -> None:
        self._spec, self._frames, self._old, self._name = spec, frames, old, name
        self.loaded: Loaded | None = None
        self.error = ""
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def finished(self) -> bool:
        return not self._thread.is_alive()

    def _load(self) -> None:
        try:
            refs = [pin_bundle(ref, Path(self._spec.folder)) for ref in replace(self._old, self._name)]
            self.loaded = load(self._spec, self._version(refs), self._frames)
        except Exception as error:  # the main of a thread: whatever it was, the old bundles serve on
            self.error = str(error) or repr(error)

    def _version(self, refs: Sequence[BundleRef]) -> Version:
        """The old one with other bundles. Another mixture numbers its clusters anew: their names are gone."""
        old = self._old.version
        pairs = zip(refs, self._old.refs, self._old.manifests, strict=True)
        changed = [manifest for new, ref, manifest in pairs if new.sha256 != ref.sha256]
        renumbered = any(column.name == "cluster" for manifest in changed for column in manifest.columns)
        clusters = {} if renumbered else old.clusters
        return old.model_copy(update={"bundles": tuple(refs), "clusters": clusters})


def replace(old: Loaded, name: str) -> list[BundleRef]:
    """The bundles with the new one in the place of the one whose columns and input it has."""
    from models.bundle import load_bundle

    folder = find_bundle(name)
    new = load_bundle(folder).manifest
    for index, manifest in enumerate(old.manifests):
        if schema(new) == schema(manifest):
            ref = BundleRef(name=new.name, path=str(folder), sha256=new.sha256)
            return [*old.refs[:index], ref, *old.refs[index + 1 :]]
    have = {manifest.name: [c.name for c in manifest.columns] for manifest in old.manifests}
    raise ConfigError(
        f"bundle {name} gives the columns {[c.name for c in new.columns]} for {new.input_dtype} events of "
        f"shape {list(new.input_shape)}; a swap needs a running bundle of the same input and columns: {have}"
    )
