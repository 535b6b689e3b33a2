"""Pictures of how classes are found: curves, matrices and examples, for labels and for exclusive classes.

N events, L labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.report import figures, measures
from models.report.case import Case, Float
from models.report.labelled import Labelled
from models.report.page import Picture
from models.scores import average_precision

EXAMPLES: Final = 2  # of each kind and class: six thumbnails in a row are still large enough to see rings
SUREST: Final = 4


def precision_recall(own: Labelled) -> Picture:
    """A panel a class: the curve over all thresholds, the point in use, and what chance gives."""
    counts = measures.counts(own.truth, own.said)

    def draw(axis: Any, index: int) -> None:
        truth_N, p_N = own.one(index)
        figures.unit_axes(axis, "recall", "precision")
        axis.axhline(truth_N.mean(), color=figures.GREY, linewidth=1, linestyle=":")
        if not truth_N.any():
            axis.set_title(f"{own.names[index]}: no event")
            return
        line = measures.curve(truth_N, p_N).thinned()
        axis.plot(line.recall, line.precision, color=figures.COLOURS[0], drawstyle="steps-pre")
        axis.plot(counts.recall[index], counts.precision[index], "o", color=figures.COLOURS[3], markersize=5)
        axis.set_title(f"{own.names[index]}: {average_precision(truth_N, p_N):.3f}")

    caption = (
        "Precision (share of the said that is true) against recall (share of the true that is said), one "
        "panel a class, with its average precision. Orange dot: what was said. Dotted: what a random "
        "order gives."
    )
    svg = figures.panels(len(own.names), draw)
    return Picture(svg, caption, f"Precision-recall curves of {len(own.names)} classes")


def co_occurrence(own: Labelled) -> Picture:
    """L x L: what is said when label i is true."""
    size = len(own.names)
    values = measures.co_occurrence(own.truth, own.said)

    def draw(axis: Any) -> None:
        figures.heatmap(axis, values, own.names, own.names)
        axis.set(xlabel="label said", ylabel="label true")

    caption = (
        "Row: events that truly have this label. Column: share of them for which that label was said. Labels "
        "do not exclude each other, so a row need not sum to 1; the diagonal is the recall."
    )
    svg = figures.one(draw, 3.2 + 0.55 * size, 2.2 + 0.36 * size)
    return Picture(svg, caption, "Matrix of labels said, for each true label")


def reliability(own: Labelled) -> Picture:
    """A panel a class: stated probability against the share that is true."""

    def draw(axis: Any, index: int) -> None:
        truth_N, p_N = own.one(index)
        found = measures.reliability(truth_N, p_N)
        axis.plot([0, 1], [0, 1], color=figures.GREY, linewidth=1, linestyle=":")
        seen = found.events > 0
        axis.plot(found.stated[seen], found.true_share[seen], color=figures.COLOURS[0], linewidth=1)
        sizes = 6 + 10 * np.log10(np.maximum(found.events[seen], 1))
        axis.scatter(found.stated[seen], found.true_share[seen], s=sizes, color=figures.COLOURS[0])
        figures.unit_axes(axis, "probability stated", "share true")
        axis.set_title(f"{own.names[index]}: {found.error:.3f}")

    caption = (
        "Events in tenths of the stated probability: what share of them has the label. On the dotted line "
        "the probabilities are right as they stand; below it they promise too much. Larger dots: more "
        "events; the number is the expected calibration error."
    )
    return Picture(figures.panels(len(own.names), draw), caption, "Reliability diagrams by class")


def removed_curves(own: Labelled, marks: Mapping[str, dict[str, Any]]) -> Picture:
    """A panel a class: recall against the share of events that a veto removes; `marks` as of `kept`."""
    names = [name for i, name in enumerate(own.names) if own.truth[:, i].any()]

    def draw(axis: Any, index: int) -> None:
        line = measures.curve(*own.one(own.names.index(names[index]))).thinned()
        axis.plot(line.removed, line.recall, color=figures.COLOURS[0])
        axis.plot([0, 1], [1, 0], color=figures.GREY, linewidth=1, linestyle=":")
        mark = marks.get(names[index])
        if mark is not None:
            axis.plot(mark["removed_share"], mark["recall_here"], "D", color=figures.COLOURS[3], markersize=6)
        figures.unit_axes(axis, "events removed", "recall")
        axis.set_title(names[index])

    caption = (
        "Keep only events whose probability of the class reaches a threshold: the share of all events "
        "that is removed, and the share of the class that is kept. Dotted: removing at random."
    )
    if any(name in marks for name in names):
        caption += " Orange diamond: the calibrated threshold."
    return Picture(figures.panels(len(names), draw), caption, "Recall against the share of events removed")


def examples(case: Case, own: Labelled) -> Picture:
    """Two of each: surest hits, surest false alarms, surest misses; a class a row."""
    columns = ("right", "false alarm", "missed")
    picks = [_picks(own, i) for i in range(len(own.names))]
    per_row = len(columns) * EXAMPLES

    def draw(axis: Any, index: int) -> None:
        row, place = divmod(index, per_row)
        kind, rank = divmod(place, EXAMPLES)
        chosen = picks[row][kind]
        if rank >= len(chosen):
            axis.set_axis_off()
            axis.set_title("none" if rank == 0 else "", fontsize=8)
        else:
            event = int(chosen[rank])
            figures.frame(axis, case.raw(event), f"{columns[kind]}  p {own.p[event, row]:.2f}")
        if place == 0:
            figures.row_name(axis, own.names[row])

    caption = (
        "A row a class: the two surest of those rightly said, of those said and not true, and of those true "
        f"and not said (the lowest probability). {figures.how_shown(case.manifest.input_shape)}"
    )
    svg = figures.panels(len(own.names) * per_row, draw, per_row, 1.55)
    return Picture(svg, caption, "Example events of each class: right, false alarm, missed")


def _picks(own: Labelled, index: int) -> tuple[NDArray[np.int64], ...]:
    truth_N, p_N = own.one(index)
    said_N, order = own.said[:, index], np.argsort(-p_N, kind="stable")
    rising = order[::-1]
    right = order[(truth_N & said_N)[order]][:EXAMPLES]
    alarms = order[(~truth_N & said_N)[order]][:EXAMPLES]
    return right, alarms, rising[(truth_N & ~said_N)[rising]][:EXAMPLES]


def surest(case: Case, names: Sequence[str], p_NL: Float) -> Picture:
    """Of each class the surest events; nobody knows whether they are right."""
    per_row = SUREST
    order = np.argsort(-p_NL, 0, kind="stable")[:per_row]

    def draw(axis: Any, index: int) -> None:
        row, rank = divmod(index, per_row)
        if rank >= len(order):
            axis.set_axis_off()
            return
        event = int(order[rank, row])
        figures.frame(axis, case.raw(event), f"{names[row]}  p {p_NL[event, row]:.2f}")

    svg = figures.panels(len(names) * per_row, draw, per_row, 1.9, 7.6)
    caption = f"The surest events, a row a class. {figures.how_shown(case.manifest.input_shape)}"
    return Picture(svg, caption, "Surest events by class")
