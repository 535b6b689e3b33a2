"""What latent numbers mean: what a decoder draws along each, and what the events along each look like.

B events, Z latent dimensions, T targets, P points of an event.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.preprocess import Preprocess
from models.report import figures
from models.report.axes import Axis, input_axis, input_names, target_axis
from models.report.case import Case, Float
from models.report.explained_classes import Drawn

STEPS: Final = 7  # places along a latent number: odd, so that the mean is among them
REACH: Final = 2.0  # standard deviations to either side: 95 % of the events
FEW: Final = 32  # numbers that are drawn by name; more are a curve


def explain_mixture(case: Case) -> list[Drawn]:
    """Traversals if the network can draw, and the mean frames along each dimension, widest first."""
    mu, names = case.columns["mu"], case.labels("mu")
    order = np.argsort(-mu.std(0), kind="stable")
    drawn = [_traversal(case, mu, names)] if hasattr(case.network, "decode") else []
    along = mu[:, order], tuple(names[i] for i in order)
    return [*drawn, _mean_events(case, case.data.inputs, along)]


def explain_coder(case: Case, preprocess: Preprocess) -> list[Drawn]:
    """What is decoded along each latent number, and the events along it."""
    latent, names = case.columns["latent"], case.labels("latent")
    drawn = [_directions(case, latent, names)] if hasattr(case.network, "decode") else []
    # Preprocessed, as decoded spectra are: of raw counts the brightest would make the mean.
    shown = preprocess(case.data.inputs)[:, 0]
    return [*drawn, *_vectors(case, names), _mean_events(case, shown, (latent, names))]


def places(latent_BZ: Float, index: int) -> Float:
    """[STEPS, Z]: along dimension `index` through the mean, REACH standard deviations to either side."""
    centre = latent_BZ.mean(0)
    rows = np.repeat(centre[None], STEPS, 0)
    rows[:, index] += np.linspace(-REACH, REACH, STEPS) * latent_BZ[:, index].std()
    return rows


def _decoded(case: Case, rows: Float) -> Float:
    network: Any = case.network
    with torch.inference_mode():
        answer: Tensor = network.decode(torch.from_numpy(rows).float())
    return answer.double().numpy()


def _traversal(case: Case, mu: Float, names: tuple[str, ...]) -> Drawn:
    """A row a dimension, from the widest to the narrowest."""
    order = np.argsort(-mu.std(0), kind="stable")
    pictures = [_decoded(case, places(mu, int(i))) for i in order]

    def draw(axis: Any, place: int) -> None:
        row, step = divmod(place, STEPS)
        picture = pictures[row][step]
        value = places(mu, int(order[row]))[step, order[row]]
        image = picture.reshape(-1, *picture.shape[-2:]).mean(0)
        axis.imshow(image, cmap="viridis", vmin=pictures[row].min(), vmax=pictures[row].max())
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(f"{value:+.2f}", fontsize=8)
        if step == 0:
            figures.row_name(axis, names[order[row]])

    figure = figures.figure_of(len(order) * STEPS, draw, figures.Grid(STEPS, 1.5))
    caption = (
        "What the decoder draws when one latent dimension changes (the number above) and the others stay at "
        f"their means, {REACH:g} standard deviations to either side; the widest dimension first. The decoder "
        "draws the network's own canonical picture, not the raw frame."
    )
    return Drawn("traversals", "Latent traversals", caption, figure)


Groups = list[list[NDArray[np.intp]]]
Along = tuple[Float, tuple[str, ...]]  # latent numbers [N, Z] and their names


def _mean_events(case: Case, inputs: Tensor, along: Along) -> Drawn:
    """The events in order of each latent number, in STEPS equal groups, and each group's mean."""
    groups = [np.array_split(np.argsort(latent, kind="stable"), STEPS) for latent in along[0].T]
    if len(case.manifest.input_shape) > 1:
        return _mean_frames(case, groups, along)
    return _mean_curves(case, inputs.double().numpy(), groups, along)


def _mean_frames(case: Case, groups: Groups, along: Along) -> Drawn:
    latent, names = along

    def draw(axis: Any, place: int) -> None:
        row, step = divmod(place, STEPS)
        members = groups[row][step]
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if len(members):
            image = np.mean([figures.brightness(case.raw(int(i))) for i in members], 0)
            axis.imshow(image, cmap="viridis")
            axis.set_title(f"{latent[members, row].mean():+.2f}", fontsize=8)
        if step == 0:
            figures.row_name(axis, names[row])

    figure = figures.figure_of(len(names) * STEPS, draw, figures.Grid(STEPS, 1.5))
    caption = (
        f"Events sorted by each latent dimension, in {STEPS} groups of equal size: the mean frame of each "
        "group, in the logarithm of the counts. The number is the group's mean place."
    )
    return Drawn("mean_events", "Mean frames along the latent dimensions", caption, figure)


def _mean_curves(case: Case, inputs: Float, groups: Groups, along: Along) -> Drawn:
    """Spectra in colours from low to high; structures as lines over the latent number."""
    latent, names = along
    axis_of = input_axis(case.manifest)
    few = inputs.shape[1] <= FEW
    spread = inputs.std(0)
    scaled = (inputs - inputs.mean(0)) / np.where(spread > 0, spread, 1.0)

    def draw(axis: Any, index: int) -> None:
        if index == len(names):
            _names_of_lines(axis, input_names(case.manifest))
            return
        rows = [members for members in groups[index] if len(members)]
        if few:
            x = [latent[members, index].mean() for members in rows]
            shown = np.array([scaled[members].mean(0) for members in rows])
            _lines(axis, np.array(x), shown)
            axis.set(xlabel=names[index], ylabel="input (its standard deviations)")
        else:
            _coloured_curves(axis, axis_of, np.array([inputs[members].mean(0) for members in rows]))
            axis.set(ylabel="intensity, preprocessed")
        axis.set_title(names[index])

    figure = figures.figure_of(len(names) + few, draw, figures.Grid(2, 3.0))
    how = (
        "each input over the latent number" if few else "dark: low values of the latent number, yellow: high"
    )
    caption = (
        f"Mean of the preprocessed inputs of the events along each latent number, in {STEPS} groups of equal "
        f"size; {how}."
    )
    return Drawn("mean_events", "Mean inputs along the latent numbers", caption, figure)


def _directions(case: Case, latent: Float, names: tuple[str, ...]) -> Drawn:
    """What `decode` gives along each latent number: targets, or the spectrum that an inverse looks for."""
    decoded = [_decoded(case, places(latent, i)) for i in range(len(names))]
    targets = case.labels("target")
    are_targets = decoded[0].shape[1] == len(targets)
    axis_of = target_axis(targets) if are_targets else input_axis(case.manifest)
    few = decoded[0].shape[1] <= FEW
    spread = np.concatenate(decoded).std(0)

    def draw(axis: Any, index: int) -> None:
        if index == len(names):
            _names_of_lines(axis, targets)
            return
        rows = decoded[index]
        if few:
            middle = rows - decoded[index][STEPS // 2]
            shown = middle / np.where(spread > 0, spread, 1.0)
            _lines(axis, places(latent, index)[:, index], shown)
            axis.set(xlabel=names[index], ylabel="change (of its spread)")
        else:
            _coloured_curves(axis, axis_of, rows)
            axis.set(ylabel="intensity")
        axis.set_title(names[index])

    figure = figures.figure_of(len(names) + few, draw, figures.Grid(2, 3.0))
    what = "targets" if are_targets else "preprocessed spectrum"
    caption = (
        f"The {what} that the network decodes when one latent number changes and the others stay at their "
        f"means, {REACH:g} standard deviations to either side"
        + (". Each target is drawn in its own spread." if few else "; dark: low values, yellow: high.")
    )
    return Drawn("directions", "What is decoded along each latent number", caption, figure)


def _vectors(case: Case, names: tuple[str, ...]) -> list[Drawn]:
    """The structure directions of a linear encoder (NNCA, ECA), or of the emulator that an inverse holds."""
    vectors: Any = getattr(getattr(case.network, "emulator", case.network), "vectors", None)
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != len(names):
        return []
    v_kN = vectors.detach().double().numpy()
    targets, inputs = case.labels("target"), input_names(case.manifest)
    coordinates = next((own for own in (inputs, targets) if len(own) == v_kN.shape[1]), ())
    if not coordinates:
        return []

    def draw(axis: Any, index: int) -> None:
        axis.barh(range(len(coordinates)), v_kN[index], color=figures.COLOURS[0])
        axis.axvline(0, color=figures.GREY, linewidth=1)
        axis.set_yticks(range(len(coordinates)), coordinates if index == 0 else [""] * len(coordinates))
        axis.invert_yaxis()
        axis.set(xlim=(-1.05, 1.05), xlabel="component", title=names[index])

    figure = figures.figure_of(len(names), draw, figures.Grid(len(names), 1.2 + 0.24 * len(coordinates)))
    caption = (
        "The orthonormal directions behind the latent numbers, in standardised coordinates of the structure: "
        "a long bar is a coordinate that the spectra depend on; one near 0 everywhere is left out."
    )
    return [Drawn("vectors", "Structure directions of the latent numbers", caption, figure)]


def _lines(axis: Any, x: Float, rows: Float) -> None:
    for i, column in enumerate(rows.T):
        axis.plot(x, column, linewidth=1.3, **_style(i))


def _names_of_lines(axis: Any, names: tuple[str, ...]) -> None:
    """A panel of its own: over the lines there is no room for many names."""
    axis.set_axis_off()
    for i, name in enumerate(names):
        axis.plot([], [], label=name, **_style(i))
    axis.legend(fontsize=8, loc="center left", ncols=1 + (len(names) - 1) // 12, frameon=False)


def _style(index: int) -> dict[str, Any]:
    """Colours first; then the same colours with another line."""
    turn, colour = divmod(index, len(figures.COLOURS))
    return {"color": figures.COLOURS[colour], "linestyle": ("-", "--", ":")[turn % 3]}


def _coloured_curves(axis: Any, axis_of: Axis, rows: Float) -> None:
    """One line a row, from the dark to the bright end of viridis without its palest part."""
    ends = np.linspace(0, 1, rows.shape[1]), np.linspace(0, 1, len(axis_of.values))
    x = np.interp(*ends, axis_of.values)  # preprocessing may have binned the points
    colours = figures.shades(len(rows))
    for colour, row in zip(colours, rows, strict=True):
        axis.plot(x, row, color=colour, linewidth=0.9)
    axis.set_xlabel(axis_of.label)
