"""Runs of a pressure ramp, whole or single curves out of many, and what a classifier shall say of them.

Owns how runs differ (speed, part of the ramp, position and shape of the lines), shots beside the sample,
spikes, and curves before baseline subtraction. The physics of one curve is in
`models.simulation.diffractograms`. The published protocol
(sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c) trains on
copies of 4 to 31 curves of one run with noise added and tests on that same run; here the curves of one
split come from runs that no other split has seen.

The phase turns at place 185 of the reference ramp's 349: that is the authors' hand label, and the whole
truth about it that was ever published. N events, P points.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelError
from models.simulation.diffractograms import (
    BOUNDARY,
    NO_SAMPLE,
    POINTS,
    RAMP_CURVES,
    Array,
    Lines,
    background,
    curve,
    lines_at,
    two_theta_deg,
)

PHASES: Final = ("low_pressure", "high_pressure", "no_sample")
LATEST_START: Final = 60.0  # a run may begin this far up the reference ramp, and end as far before its end
COMMON_SHIFT_DEG: Final = 0.02  # spread of the zero of the angle: the detector is mounted anew
LINE_SHIFT_DEG: Final = 0.005  # spread of one line: the strain of another grain
LINE_HEIGHT: Final = 0.1  # relative spread of one line's height: texture
LINE_WIDTH: Final = 0.05  # relative spread of one line's width
AMOUNTS: Final = (0.7, 1.3)  # sample in the beam, of the reference
# Raw curves lie on a smooth background (read off the published plot of curve 98), by angle in degrees.
_BACKGROUND_DEG: Final = (9.6, 14.0, 22.0, 25.0)
_BACKGROUND: Final = (4.0, 4.4, 5.3, 5.2)
_SPIKE_POINTS: Final = 4  # 0.015 deg at half maximum, as the few seen in the published map
_SPIKE_HEIGHT: Final = 2.5


@dataclass(frozen=True)
class RampOptions:
    """How runs are drawn.

    no_sample_share: of single curves, those beside the sample. speeds: of a run, as a multiple of the
    measured one's. strain: how far the lines of a run move and widen each on its own; 1 as the constants
    above say, 0 not at all. raw: before baseline subtraction. spike_share: of curves with one bright spike.
    whole_ramps: 0 gives single curves, each from a run of its own; else so many whole runs in time order.
    """

    no_sample_share: float = 0.1
    speeds: tuple[float, float] = (0.5, 2.0)
    strain: float = 1.0
    raw: bool = False
    spike_share: float = 0.03
    whole_ramps: int = 0


@dataclass(frozen=True)
class Run:
    """Shift of each line (deg), factors on height and on width [9]; place of the first and last curve on the
    reference ramp, and places a curve moves on."""

    shift_deg: Array
    height: Array
    width: Array
    first: float
    last: float
    speed: float

    @property
    def places(self) -> Array:
        """On the reference ramp (0..348), one a curve."""
        return np.arange(self.first, self.last, self.speed)

    @property
    def boundary(self) -> int:
        """The number of its curves in the low-pressure phase."""
        return math.ceil((BOUNDARY - self.first) / self.speed)


def make(
    n: int, seed: int, options: Mapping[str, Any], progress: Callable[[int], None] | None = None
) -> dict[str, NDArray[Any]]:
    """`n` single curves, or whole runs (then `n` has no say); phases one-hot.

    inputs f4 [N, P], targets f4 [N, 3]; facts: ramp i8 (number of the run), curve_number i8 (in its run),
    place f8 (on the reference ramp), speed f8, boundary i8 (curves before the transition; -1 for single
    curves). Raises ModelError for options it does not know.
    """
    checked, rng = _checked(options), np.random.default_rng(seed)
    rows = _whole(checked, rng) if checked.whole_ramps else _single(n, checked, rng)
    inputs = np.empty((len(rows), POINTS), np.float32)
    for i, (run, place, phase) in enumerate(zip(rows.runs, rows.place, rows.phase, strict=True)):
        inputs[i] = _spectrum(run, place, phase, checked, rng)
        if progress is not None and (i + 1) % 100 == 0:
            progress(i + 1)
    return {"inputs": inputs, "targets": np.eye(len(PHASES), dtype=np.float32)[rows.phase], **rows.facts()}


@dataclass(frozen=True)
class _Rows:
    """What decides each curve, all of length N."""

    runs: list[Run]
    ramp: NDArray[np.int64]
    curve_number: NDArray[np.int64]
    place: Array
    phase: NDArray[np.int64]
    boundary: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.runs)

    def facts(self) -> dict[str, NDArray[Any]]:
        speed = np.array([run.speed for run in self.runs], np.float64)
        return {
            "ramp": self.ramp,
            "curve_number": self.curve_number,
            "place": self.place,
            "speed": speed,
            "boundary": self.boundary,
        }


def _single(n: int, options: RampOptions, rng: np.random.Generator) -> _Rows:
    """Each curve from its own run: as many different runs as there are curves."""
    runs = [draw_run(options, rng) for _ in range(n)]
    number = np.array([rng.integers(len(run.places)) for run in runs], np.int64)
    place = np.array([run.places[i] for run, i in zip(runs, number, strict=True)], np.float64)
    empty = rng.random(n) < options.no_sample_share
    phase = np.where(empty, NO_SAMPLE, place >= BOUNDARY).astype(np.int64)
    return _Rows(runs, np.arange(n), number, place, phase, np.full(n, -1, np.int64))


def _whole(options: RampOptions, rng: np.random.Generator) -> _Rows:
    runs = [draw_run(options, rng) for _ in range(options.whole_ramps)]
    lengths = [len(run.places) for run in runs]
    ramp = np.repeat(np.arange(len(runs)), lengths)
    place = np.concatenate([run.places for run in runs])
    return _Rows(
        runs=[runs[i] for i in ramp],
        ramp=ramp,
        curve_number=np.concatenate([np.arange(length) for length in lengths]),
        place=place,
        phase=(place >= BOUNDARY).astype(np.int64),
        boundary=np.array([run.boundary for run in runs], np.int64)[ramp],
    )


def draw_run(options: RampOptions, rng: np.random.Generator) -> Run:
    """One run: speeds are drawn evenly in their logarithm, so that half and double are as likely."""
    count, (slow, fast) = _line_count(), options.speeds
    return Run(
        shift_deg=rng.normal(0, COMMON_SHIFT_DEG) + rng.normal(0, LINE_SHIFT_DEG * options.strain, count),
        height=rng.normal(1, LINE_HEIGHT, count).clip(0.5, 1.5) * rng.uniform(*AMOUNTS),
        width=rng.normal(1, LINE_WIDTH * options.strain, count).clip(0.7, 1.3),
        first=rng.uniform(0, LATEST_START),
        last=RAMP_CURVES - 1 - rng.uniform(0, LATEST_START),
        speed=math.exp(rng.uniform(math.log(slow), math.log(fast))),
    )


@cache
def _line_count() -> int:
    return len(lines_at(0.0).height)


def _spectrum(run: Run, place: float, phase: int, options: RampOptions, rng: np.random.Generator) -> Array:
    total = _raw_background(rng) if options.raw else background(rng)
    if phase != NO_SAMPLE:
        lines = lines_at(place)
        left, right = lines.left_deg * run.width, lines.right_deg * run.width
        total = total + curve(
            Lines(lines.position_deg + run.shift_deg, lines.height * run.height, left, right)
        )
    if rng.random() < options.spike_share:
        total = total + _spike(rng)
    return total


def _raw_background(rng: np.random.Generator) -> Array:
    """Scattering of the cell in the beam, with the noise; its strength differs between runs as the sample's.

    What asymmetric least squares leaves under a curve (0.15, more at wide angles) is its own doing and so is
    not yet there.
    """
    angle_deg = two_theta_deg()
    smooth = np.interp(angle_deg, _BACKGROUND_DEG, _BACKGROUND) * rng.uniform(*AMOUNTS)
    left_by_subtraction = 0.15 + 0.3 * np.interp(angle_deg, [20.0, 25.3], [0.0, 1.0])
    total: Array = smooth + background(rng) - left_by_subtraction
    return total


def _spike(rng: np.random.Generator) -> Array:
    """One cosmic ray, [P]."""
    distance = np.arange(POINTS) - rng.uniform(0, POINTS)
    height = _SPIKE_HEIGHT * rng.uniform(0.5, 1.5)
    spike: Array = height * np.exp(-4 * math.log(2) * np.square(distance / _SPIKE_POINTS))
    return spike


def _checked(options: Mapping[str, Any]) -> RampOptions:
    known = [field.name for field in fields(RampOptions)]
    if unknown := sorted(set(options) - set(known)):
        raise ModelError(
            f"options of the pressure ramps: expected some of {known}, got {unknown}; remove them"
        )
    checked = RampOptions(**options)
    slow, fast = checked.speeds
    shares_fit = 0 <= checked.no_sample_share <= 1 and checked.strain >= 0
    if not (0 < slow <= fast and shares_fit and checked.whole_ramps >= 0):
        raise ModelError(
            "options of the pressure ramps: expected speeds [slow, fast] above 0, a share from 0 to 1, no "
            f"negative strain or count, got {checked}; correct the recipe's data"
        )
    return RampOptions(**(dict(options) | {"speeds": (slow, fast)}))
