"""Veto thresholds of a bundle: measured, chosen so that a promise holds, written into its manifest.

Owns that; the bound itself is in `models.promise`, the command in `models.calibrate`. Weights and golden
answers stay as they are.

A stream may run in float32 or in bfloat16. Both are measured here: the threshold rests on the smaller p of
each event, the share it removes on the larger one, so that recall and removal hold in both. It is then set
a little lower, as another processor sums in another order.

N events, L classes.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.bundle import Bundle, load_bundle, unpack, write_description
from models.card import model_card
from models.data_sets.data_set import DataSet
from models.manifest import (
    CLASS_KINDS,
    GOLDEN_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Calibrated,
    Manifest,
    ModelError,
)
from models.names import identifier
from models.promise import Promise, check_share, interval, promise
from models.tasks.task import answers

_MARGIN: Final = 2.0**-8  # of the threshold: what rounding to bfloat16 changes a number by, at most

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """What shall be promised of a class."""

    label: str
    recall: float
    confidence: float


@dataclass(frozen=True)
class Measured:
    """One class on one data set: p [N], the smaller and the larger of both precisions; truth [N]."""

    low: Array
    high: Array
    truth: NDArray[np.bool_]


@dataclass(frozen=True)
class Removal:
    """What a threshold does to a data set: shares of all events and of those without the class; with the
    exact interval of the first, and the share it keeps of events that have the class (NaN: there are none).
    """

    events: int
    share: float
    interval: tuple[float, float]
    of_others: float
    kept: float


@dataclass(frozen=True)
class Result:
    """A calibration: the entry of the manifest, the promise, and what it removes in each data set."""

    entry: Calibrated
    promise: Promise
    removals: Mapping[str, Removal]


def calibrate(bundle: Bundle, splits: Mapping[str, DataSet], asked: Asked, data: str) -> Result:
    """Choose the threshold on the first of `splits`; measure what it removes on all.

    `data`: how to call these events in the manifest. Raises ModelError, TooFewError if there are not enough
    events of the class.
    """
    check_class(bundle.manifest, asked.label)
    check_share("recall", asked.recall)
    check_share("confidence", asked.confidence)
    measured = {name: measure(bundle, events, asked.label) for name, events in splits.items()}
    first, *_ = measured.values()
    made = promise(first.low[first.truth], asked.recall, asked.confidence)
    threshold = made.threshold * (1 - _MARGIN)
    removals = {name: removal(m, threshold, asked.confidence) for name, m in measured.items()}
    share, *_ = removals.values()
    entry = Calibrated(
        label=asked.label,
        threshold=threshold,
        recall=asked.recall,
        confidence=asked.confidence,
        positives=made.positives,
        removed_share=round(share.share, 5),
        data=data,
        date=date.today().isoformat(),
    )
    return Result(entry, made, removals)


def check_class(manifest: Manifest, label: str) -> None:
    """Raises ModelError if the bundle has no probability of this class."""
    if manifest.kind not in CLASS_KINDS:
        raise ModelError(
            f"bundle {manifest.name!r}: expected one of kind {' or '.join(CLASS_KINDS)}, with a probability "
            f"per class, got {manifest.kind}; write its rule with a number from `streamer evaluate`"
        )
    if label not in manifest.labels("p"):
        raise ModelError(
            f"--class: expected one of {list(manifest.labels('p'))}, got {label!r}; correct it, or train a "
            "bundle that knows the class"
        )


def measure(bundle: Bundle, events: DataSet, label: str) -> Measured:
    """p of one class for all events, in both precisions. Raises ModelError if the events do not know it."""
    if label not in events.target_names:
        raise ModelError(
            f"class {label!r}: expected among the labels of the events, got {list(events.target_names)}; "
            "give events that are labelled with it"
        )
    exact = _p(bundle, events, label)
    with torch.autocast("cpu", torch.bfloat16):
        rough = _p(bundle, events, label)
    truth = events.targets[:, events.target_names.index(label)].numpy() > 0.5
    return Measured(np.minimum(exact, rough), np.maximum(exact, rough), truth)


def _p(bundle: Bundle, events: DataSet, label: str) -> Array:
    packed = torch.from_numpy(answers(bundle.preprocess, bundle.network, events))
    p_NL = unpack(bundle.manifest, packed)["p"]
    return p_NL[:, bundle.manifest.labels("p").index(label)].double().numpy()


def removal(measured: Measured, threshold: float, confidence: float) -> Removal:
    """NaN removes nothing: the stream keeps such events."""
    removed = measured.high < threshold
    n, hits = len(removed), int(removed.sum())
    truth = measured.truth
    of_others = float(removed[~truth].mean()) if not truth.all() else float("nan")
    kept = float((measured.low[truth] >= threshold).mean()) if truth.any() else float("nan")
    return Removal(n, hits / n, interval(hits, n, confidence), of_others, kept)


# --- the bundle -----------------------------------------------------------------------------------------


def store(directory: Path, manifest: Manifest, entry: Calibrated, out: Path | None = None) -> Manifest:
    """Write the threshold into the bundle, or into a copy in `out`; one that the class had is replaced.

    The manifest is written last and at once: a reader finds the old bundle or the new one. Raises ModelError.
    """
    target = out or directory
    others = tuple(old for old in manifest.calibrated if old.label != entry.label)
    new = replace(manifest, calibrated=(*others, entry))
    try:
        target.mkdir(parents=True, exist_ok=True)
        if target.resolve() != directory.resolve():
            _refuse_other(target)
            for name in (WEIGHTS_FILE, GOLDEN_FILE):
                shutil.copyfile(directory / name, target / name)
        write_description(target, new, model_card)
    except OSError as error:
        raise ModelError(f"bundle {target}: cannot be written: {error}; name a folder with --out") from error
    return load_bundle(target).manifest


def _refuse_other(target: Path) -> None:
    if (target / MANIFEST_FILE).exists():
        raise ModelError(f"--out {target}: expected a new folder, got one that holds a bundle; name another")


# --- for people -----------------------------------------------------------------------------------------


def report(result: Result) -> str:
    """What was chosen and what it does, for people."""
    entry, made = result.entry, result.promise
    name = identifier(entry.label)
    lines = [
        f"{entry.label}: keep events with p >= {entry.threshold:.6g}; in a route: "
        f'when = "p.{name} >= calibrated.{name}"',
        f"recall {entry.recall:g} or more with confidence {entry.confidence:g}, for events like those of "
        f"{entry.data}: from {made.positives} events of the class, number {made.rank} from below",
    ]
    return "\n".join([*lines, *(_removal_line(name, r, entry) for name, r in result.removals.items())])


def _removal_line(name: str, found: Removal, entry: Calibrated) -> str:
    low, high = found.interval
    return (
        f"{name}: removes {found.share:.2%} of {found.events} events ({entry.confidence:.0%} interval "
        f"{low:.2%} to {high:.2%}), {found.of_others:.2%} of those without {entry.label}; keeps "
        f"{found.kept:.2%} of those with it"
    )
