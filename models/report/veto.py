"""What a veto by one class does: recall against the share of events removed, and thresholds with a promise.

The rule of the stream is: keep an event if p >= threshold. The promise itself is made in `models.promise`.
"""

from typing import Any, Final

from models.report.case import Case
from models.report.label_pictures import removed_curves
from models.report.labelled import Labelled
from models.report.page import Cell, Part, Table


def veto_parts(case: Case, own: Labelled) -> tuple[Part, ...]:
    """The recall-against-removed curves, and the calibrated thresholds on them."""
    calibrated = thresholds_with_promise(case, own)
    parts: list[Part] = [_calibrated_table(case, own)] if calibrated else [_NOT_CALIBRATED]
    if own.truth.any():
        parts.append(removed_curves(own, {n: kept(own, n, t) for n, t in calibrated.items()}))
    return tuple(parts)


_NOT_CALIBRATED: Final = (
    "No threshold of this bundle has a promise yet: streamer calibrate BUNDLE --class NAME finds one that "
    "keeps a stated recall with a stated confidence."
)


THIS_SPLIT: Final = "this very split"
_NO_TEST: Final = (
    "Where a threshold was chosen on this very split, the recall here is no test of the promise: look at "
    "another split for that."
)


def _calibrated_table(case: Case, own: Labelled) -> Table:
    rows: list[list[Cell]] = []
    for entry in case.manifest.calibrated:
        if entry.label in own.names:
            here = kept(own, entry.label, entry.threshold)
            promise = f"recall ≥ {entry.recall:g} with confidence {entry.confidence:g}"
            chosen_on = THIS_SPLIT if entry.data == case.origin else entry.data
            row: list[Cell] = [entry.label, promise, entry.threshold, chosen_on, entry.positives]
            rows.append([*row, entry.removed_share, here["removed_share"], here["recall_here"]])
    head = (
        "class",
        "promise",
        "threshold",
        "chosen on",
        "events it rests on",
        "removed then",
        "removed here",
        "recall here",
    )
    caption = "Thresholds with a promise. Removed: share of all events that the veto throws away."
    if any(entry.data == case.origin for entry in case.manifest.calibrated):
        caption += f" {_NO_TEST}"
    return Table(caption, head, rows)


def thresholds_with_promise(case: Case, own: Labelled) -> dict[str, float]:
    """Those of the bundle's calibrated thresholds whose class the data tell of."""
    return {entry.label: entry.threshold for entry in case.manifest.calibrated if entry.label in own.names}


def kept(own: Labelled, label: str, threshold: float) -> dict[str, Any]:
    """What the veto `keep if p >= threshold` does to these events."""
    truth_N, p_N = own.one(own.names.index(label))
    keep = p_N >= threshold
    recall = keep[truth_N].mean() if truth_N.any() else None
    return {"threshold": threshold, "removed_share": (~keep).mean(), "recall_here": recall}
