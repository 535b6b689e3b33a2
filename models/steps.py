"""The kinds of preprocessing step: for each its keys, what values it takes, what it does.

Owns the table STEPS; to add a kind, write its `make` and its line. The order of steps and the steps that
hold an array of the detector (dark, gain, mask) are in `models.preprocess`. Every step works on each event
alone, so a NaN or an infinity of one event never reaches another.

    scale        (x - offset) * factor
    clip         between low and high
    crop         top, left, height, width    of the last two axes; a spectrum has top 0 and height 1
    bin          means of factor x factor pixels, or of factor points; sizes must be multiples of it
    resize       height, width (1 and width for a spectrum): bilinear, weighted over all pixels that a new
                 one covers, so that nothing between the samples is lost
    log1p        ln(1 + max(x, 0))
    signed_log   sgn(x) alpha (ln(|x| + 1/e) + 1): julian-carpenter/airynet @7ad87bb, alpha 0.2
    standardise  (x - mean) / std of the event, as the LayerNorm in front of the networks of
                 sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c
    als_baseline smoothness, asymmetry, iterations: a spectrum less its asymmetric-least-squares baseline
    two_point_correlation   rings, angles, floor: the image over (q, angle) that no turning changes

x is float32 [B, C, H, W] or, a spectrum, [B, 1, N]; a size is (height, width), (1, N) for a spectrum.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.baseline import BaselineSubtraction
from models.correlation import two_point_correlation
from models.manifest import fault

Apply: TypeAlias = Callable[[Tensor], Tensor]  # an nn.Module where it holds constants of its own
Size: TypeAlias = tuple[int, int]
Values: TypeAlias = Mapping[str, Any]

FIX: Final = "correct `preprocess` in the recipe and train or export again"

MAX_ITERATIONS: Final = 100  # of the baseline: the published ten leave nothing to gain
MAX_SMOOTHNESS: Final = 1e12  # a straight line for any spectrum of 4 million points
MAX_NEW_ELEMENTS: Final = 1 << 22  # of a picture that a step makes: 16 MB an event


@dataclass(frozen=True)
class Kind:
    """keys: each with the type of its value. make(size, values, where): what to do, and the size behind it;
    raises BundleError for values that cannot be.
    """

    keys: Mapping[str, type]
    make: Callable[[Size, Values, str], tuple[Apply, Size]]


def signed_log(x: Tensor, alpha: float) -> Tensor:
    """airynet's logarithmic activation: odd, finite at 0; six decades of counts become about 3 units."""
    return torch.sign(x) * alpha * (torch.log(x.abs() + math.exp(-1)) + 1)


def standardise(x_BCHW: Tensor, epsilon: float) -> Tensor:
    """Each event to mean 0 and standard deviation 1; `epsilon` keeps a constant event finite."""
    axes = tuple(range(1, x_BCHW.ndim))
    centred = x_BCHW - x_BCHW.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)


# --- number by number: the size stays -------------------------------------------------------------------


def _scale(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    offset, factor = values["offset"], values["factor"]
    if not (math.isfinite(offset) and math.isfinite(factor)) or factor == 0:
        raise fault("scale", where, "finite numbers, a factor other than 0", dict(values), FIX)
    if factor == 1.0:  # a pass over the frame costs as much as a layer of a small network
        return (lambda x: x - offset), size
    return (lambda x: (x - offset) * factor), size


def _clip(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    low, high = values["low"], values["high"]
    if not low < high:
        raise fault("clip", where, "low below high", dict(values), FIX)
    return (lambda x: x.clamp(low, high)), size


def _log1p(size: Size, _values: Values, _where: str) -> tuple[Apply, Size]:
    return (lambda x: torch.log1p(x.clamp_min(0.0))), size


def _signed_log(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    alpha = values["alpha"]
    if not 0 < alpha < math.inf:
        raise fault("signed_log", where, "a positive alpha", alpha, FIX)
    return (lambda x: signed_log(x, alpha)), size


def _standardise(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    epsilon = values["epsilon"]
    if not 0 < epsilon < math.inf:
        raise fault("standardise", where, "a positive epsilon", epsilon, FIX)
    return (lambda x: standardise(x, epsilon)), size


# --- the picture changes its size -----------------------------------------------------------------------


def _crop(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    for first, length, whole in (("top", "height", size[0]), ("left", "width", size[1])):
        if not 0 <= values[first] < values[first] + values[length] <= whole:
            raise fault("crop", where, f"a rectangle inside {size[0]} x {size[1]}", dict(values), FIX)
    rows = slice(values["top"], values["top"] + values["height"])
    columns = slice(values["left"], values["left"] + values["width"])
    return (
        lambda x: x[..., columns] if x.ndim == 3 else x[..., rows, columns],
        (values["height"], values["width"]),
    )


def _bin(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    factor = values["factor"]
    down = (1 if size[0] == 1 else factor, factor)
    if factor < 1 or size[0] % down[0] or size[1] % down[1]:
        raise fault("bin", where, f"a factor of {size[0]} and {size[1]}", factor, "crop to a multiple first")
    return (
        lambda x: F.avg_pool1d(x, factor) if x.ndim == 3 else F.avg_pool2d(x, factor),
        (size[0] // down[0], size[1] // down[1]),
    )


def _resize(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    height, width = values["height"], values["width"]
    flat_stays_flat = (height == 1) == (size[0] == 1)
    if min(height, width) < 1 or height * width > MAX_NEW_ELEMENTS or not flat_stays_flat:
        expected = f"positive sizes, height 1 for a spectrum ({size[0]} x {size[1]})"
        raise fault("resize", where, expected, dict(values), FIX)

    def apply(x: Tensor) -> Tensor:
        image = x.unsqueeze(2) if x.ndim == 3 else x
        resized = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
        return resized.squeeze(2) if x.ndim == 3 else resized

    return apply, (height, width)


# --- larger ideas, each in a module of its own ----------------------------------------------------------


def _als_baseline(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    if size[0] != 1:
        raise fault("als_baseline", where, "a spectrum", f"frames of {size[0]} x {size[1]}", FIX)
    if values["iterations"] > MAX_ITERATIONS or values["smoothness"] > MAX_SMOOTHNESS:
        expected = f"at most {MAX_ITERATIONS} iterations and a smoothness of {MAX_SMOOTHNESS:g}"
        raise fault("als_baseline", where, expected, dict(values), FIX)
    return BaselineSubtraction(size[1], **values), size


def _two_point_correlation(size: Size, values: Values, where: str) -> tuple[Apply, Size]:
    rings, angles, floor = values["rings"], values["angles"], values["floor"]
    fitting = rings >= 1 and angles >= 4 and angles % 2 == 0 and rings * angles <= MAX_NEW_ELEMENTS
    if size[0] == 1 or not fitting or not 0 < floor < math.inf:
        expected = "a frame, rings >= 1, an even number of angles >= 4, a positive floor"
        raise fault("two_point_correlation", where, expected, dict(values), FIX)
    return (lambda x: two_point_correlation(x, rings, angles, floor)), (rings, angles // 2)


STEPS: Final[Mapping[str, Kind]] = {
    "scale": Kind({"offset": float, "factor": float}, _scale),
    "clip": Kind({"low": float, "high": float}, _clip),
    "crop": Kind({"top": int, "left": int, "height": int, "width": int}, _crop),
    "bin": Kind({"factor": int}, _bin),
    "resize": Kind({"height": int, "width": int}, _resize),
    "log1p": Kind({}, _log1p),
    "signed_log": Kind({"alpha": float}, _signed_log),
    "standardise": Kind({"epsilon": float}, _standardise),
    "als_baseline": Kind({"smoothness": float, "asymmetry": float, "iterations": int}, _als_baseline),
    "two_point_correlation": Kind({"rings": int, "angles": int, "floor": float}, _two_point_correlation),
}
