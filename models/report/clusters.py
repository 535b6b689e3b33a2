"""The report on an encoder with a mixture: where events lie, into which cluster, how usual they are.

Labels only score what was found without them; without labels the rest stands. N events, Z latent dimensions,
D = 2 Z features.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.report import figures, measures
from models.report.case import Case, Findings, Float, Headline, exclusive
from models.report.measures import Index
from models.report.page import Cell, Part, Picture, Section, Table
from models.scores import cluster_scores
from models.tasks.clusters import PRIMARY, primary_class

PERCENTILES: Final = (0.1, 1, 5, 25, 50, 75, 95, 99)
COLLAPSED_NATS: Final = 0.01  # below it a dimension tells less than is seen in any picture
EXAMPLES: Final = 6
_ONE_CLUSTER: Final = "all events in one cluster"


def report(case: Case) -> Findings:
    """Numbers and pictures of the latent space, clusters and likelihoods."""
    cluster_N = case.columns["cluster"].astype(np.int64)
    kl = measures.kl_per_dimension(case.columns["mu"], case.columns["log_variance"])
    numbers = _numbers(case, cluster_N, kl)
    parts = [Section("Where the events lie", _maps(case, cluster_N))]
    notes = _collapse(case, kl)
    headlines: tuple[Headline, ...] = ()
    if case.labelled:
        truth_N, names = classes_of(case)
        if len(np.unique(truth_N)) > 1:
            found = cluster_scores(truth_N, cluster_N)
            numbers |= measures.plain(found)
            headlines = _headlines(found)
        else:
            notes += (_one_class(names[truth_N[0]]),)
        table, clusters = measures.contingency(truth_N, cluster_N)
        numbers["cluster_by_class"] = {"classes": list(names), "clusters": clusters.tolist()}
        numbers["cluster_by_class"]["events"] = table.tolist()
        parts.append(Section("Clusters and classes", (_contingency(names, clusters, table),)))
    else:
        notes += ("The events have no labels: whether clusters are classes cannot be said.",)
    parts += [
        Section("Events of each cluster", (_members(case, cluster_N),)),
        Section("How usual the events are", (_likelihood(case), _percentile_table(numbers))),
        Section("What each latent dimension carries", (_kl_table(case, kl),)),
    ]
    return Findings(numbers, headlines, tuple(parts), notes)


def classes_of(case: Case) -> tuple[Index, tuple[str, ...]]:
    """One class an event: of droplets their primary class, else what the data tell."""
    names = [name for name in PRIMARY if name in case.data.target_names]
    rows_NT = (case.data.targets > 0.5).numpy()
    if names and not (rows_NT.sum(1) == 1).all():
        return primary_class(case.data), tuple(names)
    return exclusive(case.data.targets, case.data.target_names)


def _numbers(case: Case, cluster_N: Index, kl: Float) -> dict[str, Any]:
    clusters, events = np.unique(cluster_N, return_counts=True)
    percentiles = np.percentile(case.columns["log_likelihood"], PERCENTILES)
    return {
        "events_per_cluster": {str(k): int(n) for k, n in zip(clusters, events, strict=True)},
        "log_likelihood_percentiles": measures.named([f"{p:g}" for p in PERCENTILES], percentiles),
        "kl_nats": measures.named(case.labels("mu"), kl),
    }


def _collapse(case: Case, kl: Float) -> tuple[str, ...]:
    gone = [name for name, value in zip(case.labels("mu"), kl, strict=True) if value < COLLAPSED_NATS]
    if not gone:
        return ()
    return (
        f"Collapsed: {', '.join(gone)} carry less than {COLLAPSED_NATS} nats. Train with a smaller beta or "
        "fewer latent dimensions.",
    )


def _one_class(name: str) -> str:
    """Homogeneity would be 1 whatever the clusters are."""
    return f"All events are of class {name}: clusters cannot be scored by it; add events of another class."


def _headlines(found: dict[str, float]) -> tuple[Headline, ...]:
    return (
        Headline("homogeneity", "homogeneity", found["homogeneity"], 0.0, _ONE_CLUSTER),
        Headline("completeness", "completeness", found["completeness"], 1.0, f"{_ONE_CLUSTER}: of no use"),
        Headline("adjusted Rand index", "adjusted_rand", found["adjusted_rand"], 0.0, _ONE_CLUSTER),
    )


def _maps(case: Case, cluster_N: Index) -> tuple[Part, ...]:
    """The two widest directions of mu, and its principal axes; by cluster, and by class where known."""
    mu, names = case.columns["mu"], case.labels("mu")
    groups: list[tuple[Index, tuple[str, ...], str]] = [(*_renumbered(cluster_N), "cluster")]
    if case.labelled:
        groups.append((*classes_of(case), "class"))
    parts: list[Part] = []
    if mu.shape[1] > 1:
        widest = np.argsort(-mu.std(0), kind="stable")[:2]
        labels = (f"mu of {names[widest[0]]}", f"mu of {names[widest[1]]}")
        caption = f"The two widest of {mu.shape[1]} latent dimensions."
        parts.append(_map(mu[:, widest], labels, groups, caption))
        axes, share = measures.principal_axes(mu, 2)
        labels = (f"1st axis ({share[0]:.0%} of the variance)", f"2nd axis ({share[1]:.0%})")
        parts.append(_map((mu - mu.mean(0)) @ axes.T, labels, groups, "Principal axes of mu."))
        return tuple(parts)
    both = np.column_stack([mu[:, 0], case.columns["log_likelihood"]])
    return (_map(both, (f"mu of {names[0]}", "log-likelihood (nats)"), groups, "The one latent dimension."),)


def _map(
    place_N2: Float, labels: tuple[str, str], groups: list[tuple[Index, tuple[str, ...], str]], caption: str
) -> Picture:
    def draw(axis: Any, index: int) -> None:
        member_N, names, what = groups[index]
        figures.scatter(axis, place_N2[:, 0], place_N2[:, 1], member_N, names)
        axis.set(xlabel=labels[0], ylabel=labels[1], title=f"by {what}")

    svg = figures.panels(len(groups), draw, 2, 3.9, 10.0)
    seen = " and ".join(what for _, _, what in groups)
    return Picture(svg, f"{caption} A point an event, by {seen}.", f"Map of the latent space by {seen}")


def _renumbered(cluster_N: Index) -> tuple[Index, tuple[str, ...]]:
    clusters, member = np.unique(cluster_N, return_inverse=True)
    return member.reshape(-1).astype(np.int64), tuple(f"cluster {k}" for k in clusters)


def _contingency(names: tuple[str, ...], clusters: Index, table: Index) -> Picture:
    def draw(axis: Any) -> None:
        figures.heatmap(axis, table.astype(np.float64), names, [str(k) for k in clusters], ".0f")
        axis.set(xlabel="cluster", ylabel="class")

    svg = figures.one(draw, 3.2 + 0.55 * len(clusters), 1.6 + 0.36 * len(names))
    caption = (
        "Events by class and cluster. Homogeneous: a column has one class. Complete: a row has one cluster."
    )
    return Picture(svg, caption, "Table of classes and clusters, in events")


def _members(case: Case, cluster_N: Index) -> Picture:
    """A row a cluster: the events of highest likelihood; last row: the least likely of all."""
    likelihood = case.columns["log_likelihood"]
    rows = [(f"cluster {k}", _most(np.flatnonzero(cluster_N == k), likelihood)) for k in np.unique(cluster_N)]
    rows.append(("least usual", np.argsort(likelihood, kind="stable")[:EXAMPLES]))

    def draw(axis: Any, index: int) -> None:
        row, place = divmod(index, EXAMPLES)
        name, chosen = rows[row]
        if place < len(chosen):
            event = int(chosen[place])
            figures.frame(axis, case.raw(event), f"{likelihood[event]:.1f} nats")
        else:
            axis.set_axis_off()
        if place == 0:
            figures.row_name(axis, name)

    caption = (
        "A row a cluster: its events of highest log-likelihood (the number above). Last row: the least usual "
        f"events of all, whatever their cluster. {figures.how_shown(case.manifest.input_shape)}"
    )
    svg = figures.panels(len(rows) * EXAMPLES, draw, EXAMPLES, 1.55)
    return Picture(svg, caption, "Example events of each cluster")


def _most(members: NDArray[np.int64], likelihood: Float) -> NDArray[np.int64]:
    return members[np.argsort(-likelihood[members], kind="stable")][:EXAMPLES]


def _likelihood(case: Case) -> Picture:
    values = case.columns["log_likelihood"]
    low, high = np.percentile(values, [0.5, 100])  # a few far outliers would leave one bar

    def draw(axis: Any) -> None:
        axis.hist(np.clip(values, low, high), bins=60, color=figures.COLOURS[0])
        for percent, colour in ((1, figures.COLOURS[3]), (5, figures.COLOURS[1])):
            place = np.percentile(values, percent)
            axis.axvline(place, color=colour, linewidth=1.5, label=f"{percent} % below {place:.2f}")
        axis.set(xlabel="log-likelihood (nats)", ylabel="events")
        axis.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    caption = (
        "How usual the events are to the mixture; the first bar holds the lowest 0.5 %. The lines are "
        "thresholds for unusual events: they rank, they are no probability of being new."
    )
    return Picture(figures.one(draw, 7.2, 3.4), caption, "Histogram of the log-likelihood with percentiles")


def _percentile_table(numbers: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = [
        [f"{name} %", value] for name, value in numbers["log_likelihood_percentiles"].items()
    ]
    head = ("events below", "log-likelihood (nats)")
    return Table("Thresholds that a route may take: log_likelihood < value.", head, rows)


def _kl_table(case: Case, kl: Float) -> Table:
    mu, names = case.columns["mu"], case.labels("mu")
    sigma = np.exp(0.5 * case.columns["log_variance"]).mean(0)
    rows: list[list[Cell]] = [
        [name, float(kl[i]), float(mu[:, i].std()), float(sigma[i])] for i, name in enumerate(names)
    ]
    head = ("dimension", "divergence (nats)", "spread of mu", "mean sigma")
    caption = "A dimension with a divergence near 0 has collapsed: it says nothing about the event."
    return Table(caption, head, rows)
