"""Which versions of a stream there are and were: bundles, rules, names of clusters, storing or not.

Versions are numbered from 1; the first is the one of the configuration. Inference notes each later one in a
small file of the run's folder before the first result of it leaves, and writes its number into every slot. So
the sink knows for each block what answered, and a restarted inference takes up the current one. Inference
notes its choice of an engine too: choosing takes seconds, in which events would time out.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from streamer.errors import ConfigError
from streamer.plan import BundleRef, StageSpec, Version

FIRST = 1
NO_VERSION = 0  # in the slot of a block that nothing answered for


def current_version(spec: StageSpec) -> tuple[int, Version]:
    """The newest version and its number."""
    files = Path(spec.folder).glob(spec.version_file("*").name)
    number = max((int(path.name.split(".")[-2]) for path in files), default=FIRST)
    return number, version(spec, number)


def version(spec: StageSpec, number: int) -> Version:
    if number == FIRST:
        return spec.first_version
    return Version.model_validate_json(spec.version_file(number).read_text())


def note_version(spec: StageSpec, new: Version) -> int:
    """Add a version as the current one; gives its number. Raises ConfigError if it cannot be written."""
    number = current_version(spec)[0] + 1
    try:
        _replace(spec.version_file(number), new.model_dump_json())
    except OSError as error:
        raise ConfigError(f"cannot note the change in {spec.folder}: {error.strerror}; look there") from error
    return number


def note_engine(spec: StageSpec, bundles: Sequence[BundleRef], engine: str) -> None:
    """What these bundles run in on this machine."""
    _replace(spec.engine_file, json.dumps(_noted_engines(spec) | {_hashes(bundles): engine}))


def noted_engine(spec: StageSpec, bundles: Sequence[BundleRef]) -> str | None:
    return _noted_engines(spec).get(_hashes(bundles))


def _hashes(bundles: Sequence[BundleRef]) -> str:
    return " ".join(ref.sha256 for ref in bundles)


def _noted_engines(spec: StageSpec) -> dict[str, str]:
    try:
        engines: dict[str, str] = json.loads(spec.engine_file.read_text())
    except FileNotFoundError:
        return {}
    return engines


def _replace(path: Path, content: str) -> None:
    """As a whole: whoever reads it, and whenever we die, finds the old or the new one."""
    partial = path.with_suffix(".part")
    partial.write_text(content)
    os.replace(partial, path)
