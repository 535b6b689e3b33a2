"""The report on a classifier of labels that do not exclude each other: how well each class is found.

Bit accuracy stands only beside that of a predictor that always says the most frequent label set: with eleven
rare labels that one has 93 % of the bits right.

N events, L labels.
"""

from typing import Any, Final

import numpy as np

from models.report import label_pictures as pictures
from models.report import measures
from models.report.case import Case, Findings, Float, Headline, aligned, select
from models.report.labelled import Labelled, Majority, majority_of, notes_on_classes
from models.report.measures import Bool, Counts
from models.report.page import Cell, Section, Table
from models.report.veto import kept, thresholds_with_promise, veto_parts
from models.scores import average_precision, f1_per_label, from_bits, macro_f1, most_frequent_set

_MAJORITY: Final = "always the most frequent label set of {}"
_CHANCE: Final = "any order: the share of true events"


def report(case: Case) -> Findings:
    """Numbers and pictures; without labels only what was said. Raises ModelError if classes do not fit."""
    names = case.labels("p")
    p_NL, said_NL = case.columns["p"], from_bits(case.columns["labels"], len(names))
    answers = _answers(names, p_NL, said_NL)
    if not case.labelled:
        note = "The events have no labels: the report says what was answered, not whether it is right."
        shares = {"said_share": measures.named(names, said_NL.mean(0))}
        surest = Section("The surest events of each class", (pictures.surest(case, names, p_NL),))
        return Findings(shares, (), (answers, surest), (note,))
    truth, known = aligned(case, names)
    own = Labelled(known, truth > 0.5, select(p_NL, names, known), select(said_NL, names, known))
    return _labelled_report(case, own)


def _labelled_report(case: Case, own: Labelled) -> Findings:
    counts = measures.counts(own.truth, own.said)
    majority = majority_of(case, "baseline_", _of_majority(own))
    numbers = _numbers(case, own, counts) | measures.plain(majority.numbers)
    sections = (
        Section("How well each class is found", (_class_table(case, own, numbers), _two_by_two(own, counts))),
        Section("Precision against recall", (pictures.precision_recall(own),)),
        Section("What is said when a label is true", (pictures.co_occurrence(own),)),
        Section("Can the probabilities be believed", (pictures.reliability(own),)),
        Section("What a veto would remove", veto_parts(case, own)),
        Section("Frames: surely right and surely wrong", (pictures.examples(case, own),)),
    )
    return Findings(numbers, _headlines(numbers, majority), sections, notes_on_classes(case, own))


def _numbers(case: Case, own: Labelled, counts: Counts) -> dict[str, Any]:
    truth_NL, said_NL = own.truth, own.said
    ap = np.array([average_precision(*own.one(i)) for i in range(len(own.names))])
    numbers = {
        "macro_f1": macro_f1(truth_NL, said_NL),
        "macro_average_precision": ap[truth_NL.any(0)].mean() if truth_NL.any() else None,
        "exact_match": (truth_NL == said_NL).all(1).mean(),
        "bit_accuracy": (truth_NL == said_NL).mean(),
        "classes": {name: _class_numbers(own, counts, i) for i, name in enumerate(own.names)},
        "co_occurrence": measures.co_occurrence(truth_NL, said_NL),
        "calibrated": {label: kept(own, label, t) for label, t in thresholds_with_promise(case, own).items()},
    }
    result: dict[str, Any] = measures.plain(numbers)
    return result


def _of_majority(own: Labelled) -> dict[str, Any]:
    """What the most frequent label set of these events scores; of the average precision what chance does."""
    truth_NL = own.truth
    majority_NL = np.broadcast_to(most_frequent_set(truth_NL), truth_NL.shape)
    return {
        "macro_f1": macro_f1(truth_NL, majority_NL),
        "macro_average_precision": truth_NL[:, truth_NL.any(0)].mean() if truth_NL.any() else None,
        "exact_match": (truth_NL == majority_NL).all(1).mean(),
        "bit_accuracy": (truth_NL == majority_NL).mean(),
    }


def _class_numbers(own: Labelled, counts: Counts, index: int) -> dict[str, Any]:
    truth_N, p_N = own.one(index)
    alone = own.said[:, index : index + 1]
    return {
        "support": counts.support[index],
        "f1": f1_per_label(truth_N[:, None], alone)[0],
        "precision": counts.precision[index],
        "recall": counts.recall[index],
        "average_precision": average_precision(truth_N, p_N),
        "true_positive": counts.hits[index],
        "false_positive": counts.false_alarms[index],
        "false_negative": counts.missed[index],
        "true_negative": counts.rejected[index],
        "calibration_error": measures.reliability(truth_N, p_N).error,
    }


def _headlines(numbers: dict[str, Any], majority: Majority) -> tuple[Headline, ...]:
    def line(name: str, key: str, meaning: str) -> Headline:
        beside = f"baseline_{key}"
        return Headline(name, key, numbers[key], numbers[beside], meaning, beside)

    always = _MAJORITY.format(majority.events)
    return (
        line("macro-F1", "macro_f1", always),
        line("macro average precision", "macro_average_precision", _CHANCE),
        line("exact match of the label set", "exact_match", always),
        line("bit accuracy", "bit_accuracy", always),
    )


def _class_table(case: Case, own: Labelled, numbers: dict[str, Any]) -> Table:
    thresholds = _thresholds(case, own.names)
    keys = ("support", "f1", "precision", "recall", "average_precision")
    rows: list[list[Cell]] = [
        [name, *[numbers["classes"][name][key] for key in keys], thresholds.get(name)] for name in own.names
    ]
    head = ("class", "events", "F1", "precision", "recall", "average precision", "threshold")
    return Table("A label is said where its probability is above the threshold of its class.", head, rows)


def _thresholds(case: Case, known: tuple[str, ...]) -> dict[str, float]:
    """The network's own, where it has one a class."""
    names = case.labels("p")
    for name, buffer in case.network.named_buffers():
        if name.rpartition(".")[2] == "threshold" and tuple(buffer.shape) == (len(names),):
            values = dict(zip(names, buffer.double().tolist(), strict=True))
            return {name: values[name] for name in known}
    return {}


def _two_by_two(own: Labelled, counts: Counts) -> Table:
    fields = (counts.hits, counts.false_alarms, counts.missed, counts.rejected)
    rows: list[list[Cell]] = [
        [name, *[int(field[i]) for field in fields]] for i, name in enumerate(own.names)
    ]
    head = ("class", "true and said", "said, not true", "true, not said", "neither")
    return Table("The 2 × 2 confusion of each class, in events.", head, rows)


def _answers(names: tuple[str, ...], p_NL: Float, said_NL: Bool) -> Section:
    rows: list[list[Cell]] = [
        [name, float(said_NL[:, i].mean()), float(np.median(p_NL[:, i]))] for i, name in enumerate(names)
    ]
    head = ("class", "said, share of events", "median probability")
    return Section("What was answered", (Table("Over all events.", head, rows),))
