"""The report on a classifier of exclusive classes: confusion, curves, and the run of answers along a ramp.

N events, C classes.
"""

from typing import Any, Final

import numpy as np

from models.manifest import ModelError
from models.report import figures, measures
from models.report import label_pictures as pictures
from models.report.case import Case, Findings, Float, Headline, aligned, select
from models.report.labelled import Labelled, Majority, majority_of, notes_on_classes
from models.report.measures import Index
from models.report.page import Cell, Picture, Section, Table
from models.report.ramps import ramp_numbers, ramp_sections
from models.report.veto import kept, thresholds_with_promise, veto_parts
from models.scores import average_precision, f1_per_label, macro_f1, most_frequent_set

_PREFIX: Final = "baseline_majority_"  # of the scores that `models.tasks.phases` records


def report(case: Case) -> Findings:
    """Numbers and pictures; without labels only what was said. Raises ModelError if classes do not fit."""
    names, p_NC = case.labels("p"), case.columns["p"]
    said_N = case.columns["phase"].astype(np.int64)
    if not case.labelled:
        return _unlabelled(case, said_N)
    truth, known = aligned(case, names)
    if not np.array_equal((truth > 0.5).sum(1), np.ones(len(truth))):
        wrong = int(((truth > 0.5).sum(1) != 1).sum())
        raise ModelError(
            f"targets of the data: expected exactly one class an event (bundle {case.manifest.name!r}), got "
            f"none or several for {wrong} of {len(truth)} events; correct the labels"
        )
    said_NC = np.eye(len(names), dtype=bool)[said_N]
    own = Labelled(known, truth > 0.5, select(p_NC, names, known), select(said_NC, names, known))
    return _labelled_report(case, own, said_N)


def _labelled_report(case: Case, own: Labelled, said_N: Index) -> Findings:
    names = case.labels("p")
    truth_N = np.array([names.index(name) for name in own.names])[own.truth.argmax(1)]
    table = measures.confusion(truth_N, said_N, len(names))
    majority = majority_of(case, _PREFIX, _of_majority(own))
    numbers = _numbers(case, own, table) | measures.plain(majority.numbers)
    sections = (
        Section("How well each class is found", (_class_table(own, numbers), _confusion(names, table))),
        *ramp_sections(case, numbers["ramps"]),
        Section("Precision against recall", (pictures.precision_recall(own),)),
        Section("Can the probabilities be believed", (pictures.reliability(own),)),
        Section("What a veto would remove", veto_parts(case, own)),
        Section("Events: surely right and surely wrong", (pictures.examples(case, own),)),
    )
    return Findings(numbers, _headlines(numbers, majority), sections, notes_on_classes(case, own))


def _numbers(case: Case, own: Labelled, table: Index) -> dict[str, Any]:
    f1 = f1_per_label(own.truth, own.said)
    promised = thresholds_with_promise(case, own)
    numbers = {
        "accuracy": np.trace(table) / table.sum(),
        "macro_f1": macro_f1(own.truth, own.said),
        "classes": {name: _class_numbers(own, i, f1[i]) for i, name in enumerate(own.names)},
        "confusion": table,
        "calibrated": {label: kept(own, label, threshold) for label, threshold in promised.items()},
        "ramps": ramp_numbers(case),
    }
    result: dict[str, Any] = measures.plain(numbers)
    return result


def _of_majority(own: Labelled) -> dict[str, float]:
    """What the most frequent class of these events scores."""
    majority = np.broadcast_to(most_frequent_set(own.truth), own.truth.shape)
    return {
        "accuracy": float((own.truth & majority).any(1).mean()),
        "macro_f1": macro_f1(own.truth, majority),
    }


def _class_numbers(own: Labelled, index: int, f1: float) -> dict[str, Any]:
    counts = measures.counts(own.truth, own.said)
    truth_N, p_N = own.one(index)
    return {
        "support": counts.support[index],
        "f1": f1,
        "precision": counts.precision[index],
        "recall": counts.recall[index],
        "average_precision": average_precision(truth_N, p_N),
        "calibration_error": measures.reliability(truth_N, p_N).error,
    }


def _headlines(numbers: dict[str, Any], majority: Majority) -> tuple[Headline, ...]:
    meaning = f"always the most frequent class of {majority.events}"
    lines = [
        Headline(name, key, numbers[key], numbers[f"baseline_{key}"], meaning, f"{_PREFIX}{key}")
        for name, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1"))
    ]
    if numbers["ramps"]:
        note = "no baseline: it measures order, not truth"
        worst = max(abs(ramp["boundary_error_curves"]) for ramp in numbers["ramps"])
        mean = float(np.mean([ramp["p_conf"] for ramp in numbers["ramps"]]))
        lines.append(Headline("mean P_conf of the ramps", "p_conf", mean, None, note))
        key, truth = "boundary_error_curves_worst", "none; the truth is the simulator's boundary"
        lines.append(Headline("worst boundary error, curves", key, int(worst), None, truth))
    return tuple(lines)


def _class_table(own: Labelled, numbers: dict[str, Any]) -> Table:
    keys = ("support", "f1", "precision", "recall", "average_precision")
    rows: list[list[Cell]] = [[name, *[numbers["classes"][name][key] for key in keys]] for name in own.names]
    head = ("class", "events", "F1", "precision", "recall", "average precision")
    return Table("The class of highest probability is said.", head, rows)


def _confusion(names: tuple[str, ...], table: Index) -> Picture:
    def draw(axis: Any) -> None:
        figures.heatmap(axis, table.astype(np.float64), names, names, ".0f")
        axis.set(xlabel="class said", ylabel="class true")

    svg = figures.one(draw, 3.0 + 0.8 * len(names), 1.8 + 0.5 * len(names))
    return Picture(
        svg, "Confusion matrix, in events: the diagonal is right.", "Confusion matrix of the classes"
    )


def _unlabelled(case: Case, said_N: Index) -> Findings:
    names, p_NC = case.labels("p"), case.columns["p"]
    share = [float((said_N == i).mean()) for i in range(len(names))]
    rows: list[list[Cell]] = [[name, share[i], _median(p_NC, i)] for i, name in enumerate(names)]
    table = Table("Over all events.", ("class", "said, share of events", "median probability"), rows)
    note = "The events have no labels: the report says what was answered, not whether it is right."
    surest = Section("The surest events of each class", (pictures.surest(case, names, p_NC),))
    numbers = {"said_share": measures.named(names, share)}
    return Findings(numbers, (), (Section("What was answered", (table,)), surest), (note,))


def _median(p_NC: Float, index: int) -> float:
    return float(np.median(p_NC[:, index]))
