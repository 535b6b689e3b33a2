"""Answers along whole runs of a ramp: where the transition is found, how wide it is, and how orderly.

Needs the facts that `models.simulation.pressure_ramps` gives of whole runs (ramp, curve_number, boundary) and
the bundle's first two classes as the phases before and after. The measures are those of
`models.phase_scores`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models import phase_scores
from models.report import figures
from models.report.case import Case, Float
from models.report.measures import Index
from models.report.page import Cell, Picture, Section, Table

MOST_PANELS: Final = 12  # runs with a picture of their own; the table has all of them
MIN_CURVES: Final = 10  # fewer are no run: where a transition lies in them says nothing


@dataclass(frozen=True)
class Run:
    """One run in time order: p [curves, C], what was said [curves], and the true number of curves before."""

    name: str
    p: Float
    said: Index
    boundary: int


def runs(case: Case) -> Iterator[Run]:
    """The whole runs among the events; none where the facts do not tell of any."""
    ramp, number, boundary = (case.fact(name) for name in ("ramp", "curve_number", "boundary"))
    if ramp is None or number is None or boundary is None:
        return
    for own in np.unique(ramp[boundary >= 0]):
        rows = np.flatnonzero(ramp == own)
        rows = rows[np.argsort(number[rows], kind="stable")]
        if len(rows) >= MIN_CURVES:
            said = case.columns["phase"][rows].astype(np.int64)
            yield Run(f"run {own:g}", case.columns["p"][rows], said, int(boundary[rows[0]]))


def ramp_numbers(case: Case) -> list[dict[str, Any]]:
    """Of each run: curves, boundary told and true (curves before it), their distance, width, P_conf."""
    return [_numbers(run) for run in runs(case)]


def _numbers(run: Run) -> dict[str, Any]:
    found = phase_scores.boundary(run.said)
    low, high = run.p[:, 0], run.p[:, 1]
    _, width = phase_scores.transition(high / np.maximum(low + high, np.finfo(np.float64).tiny))
    return {
        "run": run.name,
        "curves": len(run.said),
        "boundary": found,
        "true_boundary": run.boundary,
        "boundary_error_curves": found - run.boundary,
        "width_curves": width,
        "p_conf": phase_scores.confidence(run.said),
    }


def ramp_sections(case: Case, numbers: list[dict[str, Any]]) -> tuple[Section, ...]:
    """The table and the pictures, if there are runs."""
    if not numbers:
        return ()
    rows: list[list[Cell]] = [list(entry.values()) for entry in numbers]
    head = ("run", "curves", "boundary told", "boundary true", "error (curves)", "width (curves)", "P_conf")
    caption = (
        "Boundary: curves before the transition. Width: of a logistic fitted to p, from 0.1 to 0.9. P_conf "
        "is 1 where the answers switch once: it measures order, not truth, so read it beside the error."
    )
    return (Section("Along whole runs", (Table(caption, head, rows), _along(case))),)


def _along(case: Case) -> Picture:
    shown, names = list(runs(case))[:MOST_PANELS], case.labels("p")

    def draw(axis: Any, index: int) -> None:
        run = shown[index]
        for i, name in enumerate(names):
            axis.plot(run.p[:, i], color=figures.COLOURS[i % len(figures.COLOURS)], linewidth=1, label=name)
        axis.axvline(run.boundary - 0.5, color=figures.GREY, linewidth=1.2, linestyle=":")
        axis.set(ylim=(-0.03, 1.05), xlabel="curve", ylabel="probability", title=run.name)
        axis.locator_params(axis="x", nbins=5)
        if index == 0:
            axis.legend(fontsize=7)

    caption = "Probability of each class along the runs; dotted: the boundary of the simulation."
    svg = figures.panels(len(shown), draw, 3, 2.3)
    return Picture(svg, caption, "Probabilities along whole runs")
