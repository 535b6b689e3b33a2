"""Which bundles a stream runs, and ran: those of the start and those of every swap; and in which engine.

Inference notes a swap in a small file of the run's folder, replaced as a whole, before the first result of
the new bundles leaves it. So a restarted inference takes the swapped bundles up, and the sink can name the
bundles of any block by the hashes in its slot. It notes its choice of an engine too: choosing takes seconds,
in which events would time out.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from streamer.plan import BundleRef, StageSpec

Version = tuple[BundleRef, ...]


def hashes(version: Version) -> bytes:
    """The sha256 of each bundle, 32 bytes each, as they stand in a slot header."""
    return b"".join(bytes.fromhex(ref.sha256) for ref in version)


def all_versions(spec: StageSpec) -> list[Version]:
    """Every version of this run, oldest first."""
    try:
        stored = json.loads(spec.swapped_file.read_text())
    except FileNotFoundError:
        stored = []
    return [spec.bundles, *(tuple(BundleRef.model_validate(ref) for ref in version) for version in stored)]


def current_version(spec: StageSpec) -> Version:
    return all_versions(spec)[-1]


def note_version(spec: StageSpec, version: Sequence[BundleRef]) -> None:
    """Add a version as the current one."""
    swaps = [*all_versions(spec)[1:], tuple(version)]
    _replace(spec.swapped_file, [[ref.model_dump() for ref in swap] for swap in swaps])


def note_engine(spec: StageSpec, version: Sequence[BundleRef], engine: str) -> None:
    """What these bundles run in on this machine."""
    _replace(spec.engine_file, _noted_engines(spec) | {hashes(tuple(version)).hex(): engine})


def noted_engine(spec: StageSpec, version: Sequence[BundleRef]) -> str | None:
    return _noted_engines(spec).get(hashes(tuple(version)).hex())


def _noted_engines(spec: StageSpec) -> dict[str, str]:
    try:
        engines: dict[str, str] = json.loads(spec.engine_file.read_text())
    except FileNotFoundError:
        return {}
    return engines


def _replace(path: Path, content: object) -> None:
    """As a whole: whoever reads it, and whenever we die, finds the old or the new one."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)
