"""The splits of a recipe: simulated from disjoint seeds, kept on disk.

Owns the split and the cache. A file of the cache is named after all that decides its events, the
simulation's own source among it, so that none is taken for another's and none outlives a change.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from models import simulation
from models.data_sets.data_set import DataSet
from models.data_sets.simulated import Arrays, Progress, Simulated, simulated
from models.manifest import Manifest, ModelError
from models.recipes.recipe import Data, Recipe

# Added to the recipe's seed, which so must stay below 100 000. Seeds from 900 000 on
# (models/simulation/bank.py) are never trained on.
OFFSETS: Final = {"train": 0, "validation": 100_000, "test": 200_000}
_FURTHER: Final = 300_000
_STEP: Final = 100_000


def cache_folder() -> Path:
    """Where simulated events are kept unless told otherwise: the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "xfel-streamer"


def split_names(data: Data) -> tuple[str, ...]:
    """train, validation, test, and the further held-out splits of this kind of data."""
    return (*OFFSETS, *simulated(data.source).also)


def load_split(recipe: Recipe, split: str, folder: Path, progress: Progress | None = None) -> DataSet:
    """The events of one split, from the cache in `folder` or simulated into it."""
    return _load(recipe.data, recipe.seed, split, folder, progress)


def held_out(manifest: Manifest, folder: Path, progress: Progress | None = None) -> dict[str, DataSet]:
    """The held-out events that a bundle was scored on, by split. Raises ModelError if not simulated."""
    data, seed = _simulated_data(manifest), manifest.training["seed"]
    names = [name for name in split_names(data) if name not in ("train", "validation")]
    return {name: _load(data, seed, name, folder, progress) for name in names}


def _simulated_data(manifest: Manifest) -> Data:
    training = manifest.training
    if isinstance(files := training.get("files"), Mapping):
        got, remedy = f"those of {files.get('data')}", "name that file, or another, and its labels"
    elif "data" not in training or "seed" not in training:
        got, remedy = "a manifest that names no data", "name a file of events and its labels"
    else:
        try:
            return Data(**training["data"])
        except TypeError as error:
            got, remedy = f"another form ({error})", "name a file of events and its labels"
    raise ModelError(
        f"held-out events of bundle {manifest.name!r}: expected simulated data in its manifest, got {got}; "
        f"{remedy}"
    )


def _load(data: Data, seed: int, split: str, folder: Path, progress: Progress | None) -> DataSet:
    entry = simulated(data.source)
    options = {**data.options, **entry.also.get(split, {})}
    n = {"train": data.train, "validation": data.validation}.get(split, data.test)
    arrays = _cached(data.source, (n, seed + _offset(entry, split)), options, folder, progress)
    facts = {k: torch.from_numpy(v) for k, v in arrays.items() if k not in ("inputs", "targets")}
    inputs, targets = torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["targets"])
    return DataSet(inputs, targets, entry.target_names, facts)


def _offset(entry: Simulated, split: str) -> int:
    if split in OFFSETS:
        return OFFSETS[split]
    return _FURTHER + _STEP * list(entry.also).index(split)


def _cached(
    source: str,
    draw: tuple[int, int],
    options: Mapping[str, Any],
    folder: Path,
    progress: Progress | None,
) -> Arrays:
    n, seed = draw
    decided_by = json.dumps([source, n, seed, options, _sources_sha256(source)], sort_keys=True)
    name = f"{source}-{n}-{seed}-{hashlib.sha256(decided_by.encode()).hexdigest()[:16]}.npz"
    path = folder / name
    if path.exists():
        try:
            with path.open("rb") as bytes_, np.load(bytes_, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            path.unlink()  # cut short by a full disk or a kill: made again
    arrays = simulated(source).make(n, seed, options, progress)
    _write(path, arrays)
    return arrays


def _write(path: Path, arrays: Arrays) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        partial.replace(path)
    except OSError as error:
        raise ModelError(
            f"cache {path.parent}: expected a folder to keep events in, got: {error.strerror}; name another "
            "with --cache"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@cache
def _sources_sha256(source: str) -> str:
    folder = Path(simulation.__path__[0])
    files = [(folder / f"{module}.py").read_bytes() for module in simulated(source).modules]
    return hashlib.sha256(b"".join(files)).hexdigest()
