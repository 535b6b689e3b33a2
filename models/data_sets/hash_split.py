"""The split of the user's own events into train, validation and test: by a hash of what they are called.

Owns the split and what of it a trained bundle may be judged by. Not the files (`models.data_sets.files`).
The same event, or group of events, falls into the same part on every machine, whatever else is in the file.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from models.data_sets.data_set import DataSet
from models.manifest import Manifest, ModelError

log = logging.getLogger(__name__)

# Of the events, or of the groups. Enough to train on, and two parts of one size to choose and to judge by.
SHARES: Final = {"train": 0.7, "validation": 0.15, "test": 0.15}
SPLIT_KEY: Final = "split_key"  # fact: what the split of an event is drawn from


def split_keys(names: Sequence[str]) -> Tensor:
    """int64 [N]: a hash of each name; events of one name stay together."""
    known = {name: _hash(name) for name in set(names)}
    return torch.tensor([known[name] for name in names], dtype=torch.int64)


def _hash(text: str) -> int:
    """63 bits that are the same on every machine."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def split(data: DataSet, seed: int) -> dict[str, DataSet]:
    """train, validation and test by a hash of ids or group and `seed`: more events move none of the old.

    Raises ModelError if a part stays empty.
    """
    parts = _parts(data, seed)
    sizes = {name: len(part) for name, part in parts.items()}
    if not all(sizes.values()):
        groups = len(data.facts[SPLIT_KEY].unique())
        raise ModelError(
            f"split of {len(data)} events with {groups} groups or ids: expected some in each part, got "
            f"{sizes}; label more events or more groups"
        )
    _warn_of_absent(parts)
    return parts


def _parts(data: DataSet, seed: int) -> dict[str, DataSet]:
    keys, inverse = data.facts[SPLIT_KEY].unique(return_inverse=True)
    draws = torch.tensor([_hash(f"{seed}/{key}") / 2**63 for key in keys.tolist()], dtype=torch.float64)
    ends = torch.tensor(list(SHARES.values()), dtype=torch.float64).cumsum(0)[:-1]
    part_N = torch.bucketize(draws, ends, right=True)[inverse]
    return {name: data.take((part_N == index).nonzero()[:, 0]) for index, name in enumerate(SHARES)}


def _warn_of_absent(parts: Mapping[str, DataSet]) -> None:
    for name, part in parts.items():
        empty = (part.targets == 0).all(0).tolist()
        absent = [label for label, missing in zip(part.target_names, empty, strict=True) if missing]
        if absent:
            log.warning("split %s: no event of %s; label more of them", name, ", ".join(absent))


def unseen(data: DataSet, manifest: Manifest, everything: bool = False) -> DataSet:
    """The events that a bundle was not trained on: all, but for a bundle trained on files only the part
    `test` of its split, unless the user says that it never saw `everything` of these. Raises ModelError.
    """
    trained_on_files = "data" not in manifest.training
    if not trained_on_files or everything:
        return data
    part = _parts(data, int(manifest.training["seed"]))["test"]
    if not len(part):
        raise ModelError(
            f"bundle {manifest.name!r} was trained on files: expected events that its split held out, got "
            f"none among {len(data)}; give more, or --all-events if it never saw these"
        )
    log.warning(
        "bundle %s was trained on files: used are only the %d of %d events that its split held out; "
        "with --all-events all, if it never saw them",
        manifest.name,
        len(part),
        len(data),
    )
    return part
