"""Simulated powder diffractograms of (Mg0.2,Fe0.8)O and platinum while pressure rises.

Stands in for the 349 curves of PETRA III P02.2 (25.6 keV, 100 ms exposures of a 50 s ramp) that European
XFEL's HED group classified: European-XFEL-examples/panosc-ml-spectra-classification @1bf5af2. Line positions,
heights and widths along the ramp are our digitisation of the map in that notebook
(models/data/hed_fe80mg20/peak_tracks.json), the line shapes and the first and last heights are fits to the
two curves that are public (n = 0 and 340, same folder). Curves are baseline-subtracted; the background is
correlated noise with the measured spread.

N events, P points, T targets.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POINTS: Final = 4023
FIRST_DEG: Final = 9.56038
STEP_DEG: Final = 0.003975441
WAVELENGTH_ANGSTROM: Final = 12.39842 / 25.6
RAMP_CURVES: Final = 349
BOUNDARY: Final = 185  # the authors' hand label: curves before it are phase 0
NO_SAMPLE: Final = 2  # the phase of a shot beside the sample: background alone
TARGET_NAMES: Final = (
    "ramp",  # place on the ramp, 0..1; rises with pressure
    "d_111_angstrom",
    "d_200_angstrom",
    "d_Pt111_angstrom",
    "d_Pt200_angstrom",
    "height_220",  # over its height at the start: 1 before the transition, 0 after
)

# Line -> position (deg), height, full width at half maximum of its left and its right side (deg): fits of
# two-sided Gaussians to the measured curves n = 0 and n = 340.
_FIRST: Final = {
    "A_111": (11.178, 11.0, 0.107, 0.177),
    "B_Pt111": (12.231, 7.7, 0.19, 0.23),
    "C_200": (12.962, 12.5, 0.15, 0.23),
    "D_Pt200": (14.115, 2.2, 0.27, 0.28),
    "E_220": (18.353, 13.0, 0.18, 0.17),
    "Pt220": (20.076, 1.14, 0.32, 0.29),
    "311": (21.629, 1.53, 0.29, 0.26),
    "222": (22.425, 1.67, 0.19, 0.40),
    "Pt311": (23.55, 0.70, 0.40, 0.40),
}
_LAST: Final = {
    "A_111": (11.785, 3.9, 0.258, 0.588),
    "B_Pt111": (12.999, 2.5, 0.20, 0.22),
    "C_200": (14.351, 9.2, 0.22, 0.24),
    "D_Pt200": (15.017, 0.5, 0.16, 0.12),
}
_DATA: Final = Path(__file__).parent.parent / "data" / "hed_fe80mg20"
_TRACKS: Final = _DATA / "peak_tracks.json"
_MEASURED: Final = _DATA / "curves_0_340.npz"


@dataclass(frozen=True)
class Diffractograms:
    """two_theta_deg f8 [P]; intensity f4 [N, P]; target f4 [N, T], NaN if no sample; phase i1 [N]."""

    two_theta_deg: Array
    intensity: NDArray[np.float32]
    target: NDArray[np.float32]
    target_names: tuple[str, ...]
    phase: NDArray[np.int8]


@dataclass(frozen=True)
class Lines:
    """Position (deg), height, full widths at half maximum left and right (deg) of each line, [9]."""

    position_deg: Array
    height: Array
    left_deg: Array
    right_deg: Array


def simulate(n: int, seed: int, no_sample_share: float = 0.0) -> Diffractograms:
    """`n` curves at random places of ramps that differ in speed, position (0.03 deg) and heights (10 %)."""
    rng = np.random.default_rng(seed)
    curve_numbers = rng.uniform(0, RAMP_CURVES - 1, n)
    empty = rng.random(n) < no_sample_share
    intensity = np.empty((n, POINTS), np.float32)
    target = np.full((n, len(TARGET_NAMES)), np.nan, np.float32)
    for i, number in enumerate(curve_numbers):
        lines = jittered(lines_at(number), rng)
        intensity[i] = background(rng)
        if not empty[i]:
            intensity[i] += curve(lines)
            target[i] = targets(number, lines)
    phase = np.where(empty, NO_SAMPLE, curve_numbers >= BOUNDARY).astype(np.int8)
    return Diffractograms(two_theta_deg(), intensity, target, TARGET_NAMES, phase)


def ramp(seed: int, speed: float = 1.0) -> Diffractograms:
    """One run: curves in time order over the whole ramp, `speed` times as fast as the measured one."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(0, RAMP_CURVES, speed)
    offset = rng.normal(0, 0.01, len(_FIRST))
    every = [lines_at(number, offset) for number in numbers]
    intensity = np.stack([(curve(lines) + background(rng)).astype(np.float32) for lines in every])
    target = np.stack([targets(number, lines) for number, lines in zip(numbers, every, strict=True)])
    phase = (numbers >= BOUNDARY).astype(np.int8)
    return Diffractograms(two_theta_deg(), intensity, target.astype(np.float32), TARGET_NAMES, phase)


def measured() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The two measured curves that are public, baseline-subtracted, f4 [2, P], and their phases, i8 [2]."""
    with np.load(_MEASURED, allow_pickle=False) as file:
        return file["intensity"].astype(np.float32), file["label"].astype(np.int64)


@cache
def two_theta_deg() -> Array:
    """The scattering angles of the points, 9.56038 to 25.5496 degrees."""
    angles_deg: Array = FIRST_DEG + STEP_DEG * np.arange(POINTS, dtype=np.float64)
    return angles_deg


def lines_at(number: float, offset_deg: Array | float = 0.0) -> Lines:
    """All nine lines at curve `number` (0..348, fractions allowed)."""
    rows = [[np.interp(number, knots[:, 0], knots[:, j]) for j in range(1, 5)] for knots in _knots()]
    values = np.array(rows)
    return Lines(values[:, 0] + offset_deg, values[:, 1], values[:, 2], values[:, 3])


def jittered(lines: Lines, rng: np.random.Generator) -> Lines:
    """Another sample: a common shift of 0.02 deg, 0.01 deg a line, 10 % in height and width."""
    count = len(lines.height)
    moved_deg = lines.position_deg + rng.normal(0, 0.02) + rng.normal(0, 0.01, count)
    wider = rng.normal(1, 0.05, count).clip(0.7, 1.3)
    higher = rng.normal(1, 0.1, count).clip(0.5, 1.5) * rng.uniform(0.7, 1.3)
    return Lines(moved_deg, lines.height * higher, lines.left_deg * wider, lines.right_deg * wider)


def curve(lines: Lines) -> Array:
    """The sum of two-sided Gaussians without background, [P]."""
    distance_deg = two_theta_deg() - lines.position_deg[:, None]
    width_deg = np.where(distance_deg < 0, lines.left_deg[:, None], lines.right_deg[:, None])
    exponent = -4 * np.log(2) * np.square(distance_deg / width_deg)
    total: Array = lines.height @ np.exp(exponent)
    return total


def background(rng: np.random.Generator) -> Array:
    """What baseline subtraction leaves, [P]: noise with the measured autocorrelation 0.83, raised ends."""
    angle_deg = two_theta_deg()
    rise = np.interp(angle_deg, [20.0, 25.3], [0.0, 1.0])
    spread = 0.08 + 0.15 * rise
    ends = 1.6 * np.exp(-np.arange(POINTS) / 6.0) + 4.5 * np.exp(-np.arange(POINTS)[::-1] / 15.0)
    correlated = _correlated(rng) * np.sqrt(np.maximum(spread**2 - 0.033**2, 0))
    level: Array = 0.15 + 0.3 * rise + ends
    return level + correlated + rng.normal(0, 0.033, POINTS)  # white part: counting noise


def _correlated(rng: np.random.Generator, memory: float = 0.83) -> Array:
    """Noise of unit variance and autocorrelation memory^lag, as a finite sum (0.83^40 < 0.001)."""
    kernel = memory ** np.arange(40)
    noise: Array = np.convolve(rng.normal(0, 1, POINTS + 39), kernel, mode="valid") * np.sqrt(1 - memory**2)
    return noise


def targets(number: float, lines: Lines) -> Array:
    """The values of TARGET_NAMES."""
    d_angstrom = WAVELENGTH_ANGSTROM / (2 * np.sin(np.deg2rad(lines.position_deg[[0, 2, 1, 3]]) / 2))
    height_220 = lines_at(number).height[4] / _FIRST["E_220"][1]
    return np.array([number / (RAMP_CURVES - 1), *d_angstrom, height_220])


@cache
def _knots() -> list[Array]:
    """For each line [knots, 5]: n, position, height, width left, width right."""
    peaks = json.loads(_TRACKS.read_text())["peaks"]
    return [_line_knots(name, np.array(peaks[name], np.float64)) for name in _FIRST]


def _line_knots(name: str, track: Array) -> Array:
    """The track, its digitisation errors at both ends spread linearly over the ramp."""
    number, last = track[:, 0], track[-1, 0]
    first_fit = np.array(_FIRST[name])
    last_fit = np.array(_LAST.get(name, (track[-1, 1], 0.0, first_fit[2] * 1.5, first_fit[3] * 1.5)))
    share = number / max(last, 1.0)
    offset = (1 - share) * (first_fit[0] - track[0, 1]) + share * (last_fit[0] - track[-1, 1])
    scale = (1 - share) * (first_fit[1] / track[0, 2]) + share * (last_fit[1] / track[-1, 2])
    # The map's pixels widen a line by about 0.04 deg; the split in two sides runs from the first fit to the
    # last.
    full = np.maximum(track[:, 3] - 0.04, 0.09)
    skew = (1 - share) * (first_fit[3] / first_fit[2]) + share * (last_fit[3] / last_fit[2])
    widths = np.stack([2 * full / (1 + skew), 2 * full * skew / (1 + skew)], 1)
    widths[0] = first_fit[2:]
    if name in _LAST:
        widths[-1] = last_fit[2:]
    return np.column_stack([number, track[:, 1] + offset, np.maximum(track[:, 2] * scale, 0), widths])
