"""How well a ramp is read: confidence of its labels, place and width of the transition, weights of bins.

Confidence and believability weights are those of Sun et al. (European-XFEL-examples/
panosc-ml-spectra-classification @1bf5af2, cells 38 and 47). That confidence only says how well-ordered
the labels are: one switch anywhere gives 1. The place of the switch against the true one is what says how
right they are.

N curves in time order, L classes.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
# Published: 1 at accuracy 1, 0 at 0.55 and below, where two classes are as good as guessed.
BELIEVABILITY: Final = (1.4337, 0.4337)
NARROWEST: Final = 0.1  # curves: a logistic steeper than this is a step between two curves
SEARCH: Final = 30.0  # curves around the switch of the labels: a better fit further off is another transition
AIM_CURVES: Final = 5  # how far off a boundary may be
LOGISTIC_10_TO_90: Final = 2 * math.log(9)  # from 0.1 to 0.9 a logistic takes so many of its scales


def believability(accuracy: Array) -> Array:
    """Weight of a bin by the share of its points that its network labels right."""
    slope, less = BELIEVABILITY
    weights: Array = np.maximum(0.0, slope * np.square(accuracy) - less)
    return weights


def confidence(phase_N: Ints) -> float:
    """P_conf = 1 - N_f / N_t: the share of curves outside the stretch where the labels waver.

    That stretch lies between the end of the unbroken run of 0 at the start and the beginning of the unbroken
    run of 1 at the end. Labels other than 0 and 1 break a run; a ramp of one label gives 1. Raises ModelError
    for an empty ramp.
    """
    phase_N = _at_least_one(phase_N)
    leading = _run_length(phase_N == 0)
    trailing = _run_length(phase_N[::-1] == 1)
    return 1 - max(0, len(phase_N) - leading - trailing) / len(phase_N)


def boundary(phase_N: Ints) -> int:
    """Number of curves before the switch 0 -> 1 that contradicts the fewest labels, 0..N; others have no say.

    Between equally good places the middle one. Raises ModelError for an empty ramp.
    """
    phase_N = _at_least_one(phase_N)
    steps = np.where(phase_N == 0, 1, np.where(phase_N == 1, -1, 0))
    agreed = np.concatenate([[0], np.cumsum(steps)])
    best = np.flatnonzero(agreed == agreed.max())
    return int(best[(len(best) - 1) // 2])


def transition(p_high_N: Array) -> tuple[float, float]:
    """Place and width, in curves, of the logistic that fits best (least squares) how probability rises.

    p_high: probability of the high-pressure phase against the low-pressure one. The place counts curves
    before the transition, as `boundary` does; the width is from 0.1 to 0.9. Raises ModelError for an empty
    ramp.
    """
    middle = boundary((p_high_N > 0.5).astype(np.int64)) - 0.5  # between the last 0 and the first 1
    centres, scales = middle + np.linspace(-SEARCH, SEARCH, 121), np.geomspace(NARROWEST, len(p_high_N), 40)
    place, scale = _best(p_high_N, centres, scales)
    # Once more between the neighbours on that grid, which is coarser than the spread of good models.
    near = place + np.linspace(-0.5, 0.5, 41)
    place, scale = _best(p_high_N, near, np.geomspace(max(NARROWEST, scale / 1.3), scale * 1.3, 41))
    return place + 0.5, float(scale * LOGISTIC_10_TO_90)


@dataclass(frozen=True)
class Runs:
    """Whole runs: number of the run, of the curve in it, true number of curves before the transition, and
    places of the reference ramp that a curve moves on; all [N]."""

    ramp: Ints
    curve_number: Ints
    boundary: Ints
    speed: Array


def ramp_scores(runs: Runs, p_NL: Array, phase_N: Ints) -> dict[str, float]:
    """Means and worst over the runs, from probabilities [N, L] (low and high pressure first) and labels.

    Errors are distances to the true boundary, in curves of that run and in places of the reference ramp (a
    slow run has many curves a place).
    """
    each = [_one_run(runs, np.flatnonzero(runs.ramp == ramp), p_NL, phase_N) for ramp in np.unique(runs.ramp)]
    table = {key: np.array([scores[key] for scores in each]) for key in each[0]}
    return {
        "runs": float(len(each)),
        "p_conf": float(table["p_conf"].mean()),
        "p_conf_worst": float(table["p_conf"].min()),
        "boundary_error_curves": float(table["error"].mean()),
        "boundary_error_curves_worst": float(table["error"].max()),
        "boundary_error_places": float(table["places"].mean()),
        "transition_error_curves": float(table["fitted"].mean()),
        "transition_width_curves": float(table["width"].mean()),
        "runs_within_5_curves": float((table["error"] <= AIM_CURVES).mean()),
    }


def _one_run(runs: Runs, rows: Ints, p_NL: Array, phase_N: Ints) -> dict[str, float]:
    rows = rows[np.argsort(runs.curve_number[rows], kind="stable")]
    true, said = int(runs.boundary[rows[0]]), phase_N[rows]
    low, high = p_NL[rows, 0], p_NL[rows, 1]
    place, width = transition(high / np.maximum(low + high, np.finfo(np.float64).tiny))
    error = float(abs(boundary(said) - true))
    return {
        "p_conf": confidence(said),
        "error": error,
        "places": error * float(runs.speed[rows[0]]),
        "fitted": abs(place - true),
        "width": width,
    }


def _best(p_N: Array, centres: Array, scales: Array) -> tuple[float, float]:
    """The pair (centre, scale) with the least squared difference."""
    argument = (np.arange(len(p_N)) - centres[:, None]) / scales[:, None, None]
    errors = np.square(1 / (1 + np.exp(-argument.clip(-50, 50))) - p_N).sum(2)  # exp(50) is still finite
    row, column = np.unravel_index(errors.argmin(), errors.shape)
    return float(centres[column]), float(scales[row])


def _run_length(same_N: NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return len(same_N) if same_N.all() else int(same_N.argmin())


def _at_least_one(phase_N: Ints) -> Ints:
    if len(phase_N) == 0:
        raise ModelError("labels of a ramp: expected at least one curve, got none; name a ramp with curves")
    return phase_N
