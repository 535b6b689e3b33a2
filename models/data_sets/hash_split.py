"""The split of the user's own events into train, validation and test: by a hash of what they are called.

Owns the split and what of it a trained bundle may be judged by. Not the files (`models.data_sets.files`).
The same event, or group of events, falls into the same part on every machine, whatever else is in the file:
an event is called by its group, or else by its train and pulse, or else by its own bytes. Never by its place
in the file, which changes when the file is cut or sorted.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from models.data_sets.data_set import DataSet
from models.manifest import Manifest, ModelError

NAMED_BY: Final = ("group", "ids", "content")  # what an event is called by, in the order of preference

log = logging.getLogger(__name__)

# Of the events, or of the groups. Enough to train on, and two parts of one size to choose and to judge by.
SHARES: Final = {"train": 0.7, "validation": 0.15, "test": 0.15}
SPLIT_KEY: Final = "split_key"  # fact: what the split of an event is drawn from
SPLIT_BY: Final = "split_by"  # fact: the place in NAMED_BY, the same for all events


def split_keys(names: Sequence[str]) -> Tensor:
    """int64 [N]: a hash of each name; events of one name stay together."""
    known = {name: _hash(name) for name in set(names)}
    return torch.tensor([known[name] for name in names], dtype=torch.int64)


def content_keys(inputs: Tensor) -> Tensor:
    """int64 [N]: a hash of the bytes of each event [N, ...]; equal events stay together."""
    return torch.tensor([_hash(event.numpy().tobytes()) for event in inputs], dtype=torch.int64)


def named_by(data: DataSet) -> str:
    """What these events are called by: one of NAMED_BY."""
    return NAMED_BY[int(data.facts[SPLIT_BY][0])]


def keys_sha256(data: DataSet) -> str:
    """Of the names of all events, in no order: says whether two data sets hold the same events."""
    keys = data.facts[SPLIT_KEY].sort().values
    return hashlib.sha256(keys.numpy().astype("<i8").tobytes()).hexdigest()


def _hash(text: str | bytes) -> int:
    """63 bits that are the same on every machine."""
    content = text.encode() if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


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
    """The events that a bundle was not trained on. Raises ModelError if there are none, or none can be told.

    Of simulated events it saw none of these: all. Trained on files: the part `test` of its split, or
    everything if the user says that it never saw any.
    """
    if "data" in manifest.training:
        return data
    files = manifest.training.get("files")
    if everything:
        _refuse_seen(data, manifest, files)
        return data
    if not isinstance(files, Mapping):
        raise ModelError(
            f"bundle {manifest.name!r}: expected what it was trained on, its manifest names no data; give "
            "--all-events if it never saw these events"
        )
    _check_names(data, manifest, files)
    return _held_out(data, manifest, files)


def _held_out(data: DataSet, manifest: Manifest, files: Mapping[str, Any]) -> DataSet:
    part = _parts(data, int(manifest.training["seed"]))["test"]
    remedy = "--all-events takes all, for a run that it never saw"
    trained = f"bundle {manifest.name!r} was trained on {files.get('data')}"
    if not len(part):
        raise ModelError(
            f"{trained}: expected events that its split held out, got none among {len(data)}; {remedy}"
        )
    log.warning("%s: only the %d of %d events are used that its split held out; %s",
                trained, len(part), len(data), remedy)  # fmt: skip
    return part


def _refuse_seen(data: DataSet, manifest: Manifest, files: object) -> None:
    if isinstance(files, Mapping) and files.get("ids_sha256") == keys_sha256(data):
        raise ModelError(
            f"bundle {manifest.name!r}, --all-events: expected events that it never saw, got those of "
            f"{files.get('data')}, which it was trained on; leave --all-events out"
        )


def _check_names(data: DataSet, manifest: Manifest, files: Mapping[str, Any]) -> None:
    """Under another name a trained event would hash into another part."""
    wanted, got = files.get("named_by"), named_by(data)
    if wanted == got:
        return
    remedies = {
        "group": f"give --labels with the column {files.get('group')!r} and --group",
        "ids": "give the file with train_id and pulse_id, without --group",
        "content": "give the events without ids, and without --group",
    }
    raise ModelError(
        f"bundle {manifest.name!r}: expected events named by {wanted} as those of {files.get('data')}, which "
        f"it was trained on, got them named by {got}; {remedies.get(str(wanted), 'train it again')}, or "
        "--all-events if it never saw these"
    )
