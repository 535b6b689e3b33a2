"""Where a classifier looked: importance maps of each class, beside the frame or along the spectrum.

Grad-CAM++ (`models.gradcam`) where the network has a last stage of features to look at; else the gradient of
log p times the input (Shrikumar et al., arXiv 1605.01713), as recurrent and attending networks have none; of
networks that count votes, which have no gradient, the fall of p where a part is covered (Zeiler and Fergus,
arXiv 1311.2901).

B events, H height, W width, P points, L labels.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.gradcam import grad_cam_pp
from models.manifest import ModelError
from models.preprocess import Preprocess
from models.report import figures
from models.report.axes import input_axis
from models.report.case import Case, Float

MEAN_OF: Final = 64  # events in the mean importance along a spectrum: enough for a smooth line
SMOOTH_SHARE: Final = 200  # gradients are rough from point to point: means over a 200th of the spectrum
COVERED_PARTS: Final = {3: 48, 4: 10}  # along each axis of a spectrum, of a frame: 100 runs at most
TINY: Final = 1e-30


@dataclass(frozen=True)
class Drawn:
    """A picture for the page and for a file: `name` is the file's, without ending."""

    name: str
    title: str
    caption: str
    figure: Any


@dataclass(frozen=True)
class Asked:
    """Of one class: its place, name, the events to show (surest first), p of all events, name of its file."""

    index: int
    name: str
    chosen: NDArray[np.int64]
    p: Float
    file: str


def explain_classes(case: Case, preprocess: Preprocess, classes: tuple[str, ...], events: int) -> list[Drawn]:
    """A picture a class. Raises ModelError for a class that the bundle does not know."""
    names = case.labels("p")
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ModelError(f"class: expected some of {list(names)}, got {unknown}; name one with --class")
    drawn = []
    files = file_names(names)
    for name in classes or names:
        index = names.index(name)
        p_N = case.columns["p"][:, index]
        chosen = np.argsort(-p_N, kind="stable")[:events].astype(np.int64)
        asked = Asked(index, name, chosen, p_N, files[index])
        draw = _frames if len(case.manifest.input_shape) > 1 else _spectra
        drawn.append(draw(case, preprocess, asked))
    return drawn


def file_names(classes: tuple[str, ...]) -> list[str]:
    """Of each class a file name without ending, of letters and digits; numbered where two would be one."""
    plain = [re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") for name in classes]
    alike = [name.lower() for name in plain]  # some file systems do not tell cases apart
    return [
        f"class_{name}"
        if name and alike.count(name.lower()) == 1
        else f"class_{name}_{index}".replace("__", "_")
        for index, name in enumerate(plain)
    ]


def importance(case: Case, preprocess: Preprocess, rows: NDArray[np.int64], index: int) -> tuple[Float, str]:
    """0..1 at each place of the preprocessed events, [B, H, W] or [B, P], and the name of the method."""
    with torch.no_grad():
        x = preprocess(case.data.take(torch.from_numpy(rows)).inputs)
    if hasattr(case.network, "features") and hasattr(case.network, "logits_of"):
        return grad_cam_pp(case.network, x, index).double().numpy(), "Grad-CAM++"
    worth = _gradient_times_input(case.network, x, index)
    if worth is None:
        return _fall_where_covered(case.network, x, index).double().numpy(), "fall of p where covered"
    return worth.double().numpy(), "gradient × input"


def _fall_where_covered(network: nn.Module, x: Tensor, index: int) -> Tensor:
    """What p loses when a part is set to the event's median, over the largest loss; [B, H, W] or [B, P]."""
    median = x.flatten(1).median(1).values.view(-1, *[1] * (x.ndim - 2))
    parts = [_cuts(size, COVERED_PARTS[x.ndim]) for size in x.shape[2:]]
    worth = torch.zeros(x.shape[0], *x.shape[2:])
    with torch.no_grad():
        p_B = network(x)[:, index]
        for part in itertools.product(*parts):
            covered = x.clone()
            covered[(slice(None), slice(None), *part)] = median[:, None].expand_as(covered[:, :, *part])
            loss_B = (p_B - network(covered)[:, index]).clamp_min(0)
            worth[(slice(None), *part)] = loss_B.view(-1, *[1] * (x.ndim - 2))
    return _over_largest(worth)


def _cuts(size: int, parts: int) -> list[slice]:
    """`size` places in at most `parts` runs of nearly equal length."""
    edges = np.unique(np.linspace(0, size, parts + 1).astype(np.int64)).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _gradient_times_input(network: nn.Module, x: Tensor, index: int) -> Tensor | None:
    """|x d log p / dx| over channels, smoothed along a spectrum, over the largest; None if it is 0."""
    x = x.clone().requires_grad_(True)
    log_p_B = network(x)[:, index].clamp_min(TINY).log()
    gradient = torch.autograd.grad(log_p_B.sum(), x, allow_unused=True)[0] if log_p_B.requires_grad else None
    if gradient is None or not bool(gradient.any()):
        return None
    worth = (gradient * x).detach().abs().sum(1)
    if worth.ndim == 2:
        window = max(1, worth.shape[1] // SMOOTH_SHARE) * 2 + 1
        worth = torch.nn.functional.avg_pool1d(worth[:, None], window, 1, window // 2)[:, 0]
    return _over_largest(worth)


def _over_largest(worth: Tensor) -> Tensor:
    """Each event's map over its largest value."""
    return worth / worth.flatten(1).amax(1).clamp_min(TINY).view(-1, *[1] * (worth.ndim - 1))


def _frames(case: Case, preprocess: Preprocess, asked: Asked) -> Drawn:
    """Pairs: the frame, and the same in grey under its map."""
    maps, method = importance(case, preprocess, asked.chosen, asked.index)
    pairs = 3  # of frame and map in a row

    def draw(axis: Any, place: int) -> None:
        rank, is_map = divmod(place, 2)
        event = int(asked.chosen[rank])
        title = method if is_map else _title(case, asked, event)
        frame = case.raw(event)
        if not is_map:
            figures.frame(axis, frame, title)
            return
        figures.overlay(axis, frame, maps[rank], title)

    grid = figures.Grid(2 * pairs, 1.75)
    figure = figures.figure_of(2 * len(asked.chosen), draw, grid)
    caption = (
        f"{asked.name}: the {len(asked.chosen)} surest events. Left the frame (logarithm of the counts), "
        f"right where the network looked for this class ({method}, bright: much)."
    )
    return Drawn(asked.file, asked.name, caption, figure)


def _title(case: Case, asked: Asked, event: int) -> str:
    """Number and probability of an event, and whether it has the class, where that is known."""
    stated = f"event {event}: p {asked.p[event]:.2f}"
    if not case.labelled or asked.name not in case.data.target_names:
        return stated
    on = bool(case.data.targets[event, case.data.target_names.index(asked.name)] > 0.5)
    return f"{stated}, {'true' if on else 'not true'}"


def _spectra(case: Case, preprocess: Preprocess, asked: Asked) -> Drawn:
    """First the mean of many surest events, then single ones."""
    axis_of = input_axis(case.manifest)
    many = np.argsort(-asked.p, kind="stable")[:MEAN_OF].astype(np.int64)
    chosen = asked.chosen[: max(1, len(asked.chosen) - 1)]  # the mean is one of the pictures
    own, method = importance(case, preprocess, chosen, asked.index)
    mean, _ = importance(case, preprocess, many, asked.index)
    x = np.interp(np.linspace(0, 1, mean.shape[1]), np.linspace(0, 1, len(axis_of.values)), axis_of.values)

    def draw(axis: Any, place: int) -> None:
        curve = np.mean([case.raw(int(i)) for i in many], 0) if place == 0 else case.raw(event_at(place))
        worth = mean.mean(0) if place == 0 else own[place - 1]
        height = float(np.nanmax(curve)) or 1.0
        axis.fill_between(x, 0, worth * height, color=figures.COLOURS[1], alpha=0.45, linewidth=0)
        axis.plot(axis_of.values, curve, color=figures.COLOURS[0], linewidth=0.8)
        event = event_at(place)
        title = f"mean of the {len(many)} surest" if place == 0 else _title(case, asked, event)
        axis.set(xlabel=axis_of.label, title=title)
        axis.set_yticks([])

    def event_at(place: int) -> int:
        return int(chosen[max(0, place - 1)])

    figure = figures.figure_of(1 + len(chosen), draw, figures.Grid(3, 2.2))
    caption = (
        f"{asked.name}: the mean of the {len(many)} surest events, then the surest of them (blue, each with "
        f"its own scale) and how much each place counted for this class (orange area, {method}, its largest "
        "value as high as the curve)."
    )
    return Drawn(asked.file, asked.name, caption, figure)
