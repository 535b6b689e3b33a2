"""The report on an encoder-decoder: how much it covers, where it errs, what its latents follow.

Targets are a few structure values, each in its unit, or the points of a spectrum. N events, k latent, T
targets.
"""

from typing import Any, Final

import numpy as np

from models.report import figures, measures
from models.report.axes import target_axis
from models.report.case import Case, Findings, Float, Headline, aligned, select
from models.report.page import Cell, Part, Picture, Section, Table
from models.scores import covered_variance

MOST_PANELS: Final = 32  # targets with a picture of their own; more are a spectrum
_RANKS: Final = (
    ("best", 0.0),
    ("better than 3 of 4", 0.25),
    ("median", 0.5),
    ("worse than 3 of 4", 0.75),
    ("worse than 95 %", 0.95),
    ("worst", 1.0),
)
_CONSTANT: Final = "The same in all events: {}; there is nothing to cover. Add events that differ in it."
_MEAN: Final = "always the mean of these events"


def report(case: Case) -> Findings:
    """Numbers and pictures; without targets only the latent space. Raises ModelError."""
    latent, names = case.columns["latent"], case.labels("target")
    if not case.labelled:
        note = "The events have no targets: the report shows what was answered, not whether it is right."
        spread = {"latent_spread": measures.named(case.labels("latent"), latent.std(0))}
        section = Section("The latent space", (_latent_map(case, case.columns["target"], names),))
        return Findings(spread, (), (section,), (note,))
    truth, known = aligned(case, names)
    said = select(case.columns["target"], names, known)
    numbers = _numbers(case, truth, said, known)
    own = _values(truth, said, known) if len(known) <= MOST_PANELS else _spectra(truth, said, known)
    section = Section("The latent space", (_latent_map(case, truth, known),))
    headline = Headline("covered variance", "covered_variance", numbers["covered_variance"], 0.0, _MEAN)
    constant = [name for name, spread in zip(known, truth.std(0), strict=True) if spread == 0]
    notes = (_CONSTANT.format(", ".join(constant[:8])),) if constant else ()
    return Findings(numbers, (headline,), (*own, section), notes)


def _numbers(case: Case, truth: Float, said: Float, known: tuple[str, ...]) -> dict[str, Any]:
    extra = case.manifest.training.get("extra") or {}
    shared = bool(extra.get("shared_scale", len(known) > MOST_PANELS))
    spread = truth.std(0)
    scale = np.ones_like(spread) if shared else np.where(spread > 0, spread, 1.0)
    whole = float(np.square(spread / scale).sum())
    numbers: dict[str, Any] = {
        "covered_variance": covered_variance(truth / scale, said / scale) if whole > 0 else None,
        "latent_spread": measures.named(case.labels("latent"), case.columns["latent"].std(0)),
        "root_mean_square_error": float(np.sqrt(np.square(truth - said).mean())),
    }
    if len(known) <= MOST_PANELS:
        numbers["targets"] = {name: _target(truth[:, i], said[:, i]) for i, name in enumerate(known)}
    result: dict[str, Any] = measures.plain(numbers)
    return result


def _target(truth_N: Float, said_N: Float) -> dict[str, Any]:
    error = said_N - truth_N
    return {
        "covered_variance": measures.covered_each(truth_N[:, None], said_N[:, None])[0],
        "mean_absolute_error": np.abs(error).mean(),
        "bias": error.mean(),
        "error_95_percent": np.percentile(np.abs(error), 95),
        "spread": truth_N.std(),
    }


def _values(truth: Float, said: Float, known: tuple[str, ...]) -> tuple[Section, ...]:
    rows: list[list[Cell]] = []
    for i, name in enumerate(known):
        own = measures.plain(_target(truth[:, i], said[:, i]))
        rows.append([name, *own.values()])
    head = ("target", "covered variance", "mean absolute error", "bias", "95 % of errors below", "spread")
    caption = "Errors and spread are in the unit of the target's name; covered variance: 1 is perfect."
    table = Table(caption, head, rows)
    return (
        Section("How well each target is told", (table,)),
        Section("Told against true", (_told_against_true(truth, said, known),)),
        Section("Errors", (_residuals(truth, said, known),)),
    )


def _told_against_true(truth: Float, said: Float, known: tuple[str, ...]) -> Picture:
    keep = figures.thinned(len(truth))

    def draw(axis: Any, index: int) -> None:
        x, y = truth[keep, index], said[keep, index]
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        axis.plot([low, high], [low, high], color=figures.GREY, linewidth=1, linestyle=":")
        axis.scatter(x, y, s=4, c=figures.COLOURS[0], linewidths=0, alpha=0.5, rasterized=True)
        axis.set(xlabel="true", ylabel="told", title=known[index])
        axis.locator_params(nbins=5)

    caption = "A point an event; on the dotted line it is right. Axes in the unit of the target's name."
    svg = figures.panels(len(known), draw, 3, 2.8)
    return Picture(svg, caption, "Told against true value of each target")


def _residuals(truth: Float, said: Float, known: tuple[str, ...]) -> Picture:
    def draw(axis: Any, index: int) -> None:
        error = said[:, index] - truth[:, index]
        low, high = np.percentile(error, [0.5, 99.5])
        axis.hist(np.clip(error, low, high), bins=40, color=figures.COLOURS[0])
        axis.axvline(0, color=figures.GREY, linewidth=1, linestyle=":")
        axis.set(xlabel="told − true", ylabel="events", title=known[index])
        axis.locator_params(axis="x", nbins=4)

    caption = "Errors by target; the outermost bars hold the half percent beyond them on either side."
    svg = figures.panels(len(known), draw, 3, 2.3)
    return Picture(svg, caption, "Histograms of the errors of each target")


def _spectra(truth: Float, said: Float, known: tuple[str, ...]) -> tuple[Section, ...]:
    return (
        Section("Reconstructions", (_reconstructions(truth, said, known),)),
        Section("Where in the spectrum it errs", (_error_by_point(truth, said, known),)),
    )


def _reconstructions(truth: Float, said: Float, known: tuple[str, ...]) -> Picture:
    """The events at given ranks of the error, from best to worst."""
    axis_of = target_axis(known)
    error = np.sqrt(np.square(truth - said).mean(1))
    order = np.argsort(error, kind="stable")

    def draw(axis: Any, index: int) -> None:
        name, share = _RANKS[index]
        event = int(order[round(share * (len(order) - 1))])
        axis.plot(axis_of.values, truth[event], color=figures.GREY, linewidth=2.5, label="true")
        axis.plot(axis_of.values, said[event], color=figures.COLOURS[3], linewidth=1.2, label="told")
        axis.set(xlabel=axis_of.label, title=f"{name} (error {error[event]:.3g})")
        if index == 0:
            axis.legend(fontsize=8)

    caption = "Spectra as they are and as told, at six ranks of the root-mean-square error."
    return Picture(
        figures.panels(len(_RANKS), draw, 3, 2.5), caption, "True and told spectra from best to worst"
    )


def _error_by_point(truth: Float, said: Float, known: tuple[str, ...]) -> Picture:
    axis_of = target_axis(known)

    def draw(axis: Any) -> None:
        axis.plot(axis_of.values, truth.std(0), color=figures.GREY, label="spread of the events")
        rms = np.sqrt(np.square(truth - said).mean(0))
        axis.plot(axis_of.values, rms, color=figures.COLOURS[3], label="root-mean-square error")
        axis.set(xlabel=axis_of.label, ylabel="intensity")
        axis.legend(fontsize=9)

    caption = "The error at each point beside the spread of the events: their distance is what is covered."
    return Picture(figures.one(draw, 7.2, 3.4), caption, "Error and spread by point of the spectrum")


def _latent_map(case: Case, target: Float, names: tuple[str, ...]) -> Part:
    """The two widest latents, coloured by target; of a spectrum by its principal components."""
    latent, labels = case.columns["latent"], case.labels("latent")
    values, titles = _colouring(target, names)
    widest = np.argsort(-latent.std(0), kind="stable")[:2]
    single = latent.shape[1] == 1

    def draw(axis: Any, index: int) -> None:
        x = latent[:, widest[0]]
        y = values[:, index] if single else latent[:, widest[1]]
        figures.coloured(axis, x, y, values[:, index], titles[index])
        axis.set(xlabel=labels[widest[0]], ylabel=titles[index] if single else labels[widest[1]])

    caption = (
        "A point an event, at its latent numbers (without unit), coloured by what the panel's title names. A "
        "latent that follows a target shows as a run of colours."
    )
    svg = figures.panels(len(titles), draw, 3, 2.6)
    return Picture(svg, caption, "Map of the latent space, coloured by target")


def _colouring(target: Float, names: tuple[str, ...]) -> tuple[Float, tuple[str, ...]]:
    if len(names) <= MOST_PANELS:
        return target, names
    axes, share = measures.principal_axes(target, 3)
    titles = tuple(f"component {i + 1} of the spectra ({value:.0%})" for i, value in enumerate(share))
    return (target - target.mean(0)) @ axes.T, titles[: len(axes)]
