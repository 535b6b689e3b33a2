"""The table of simulated data: the only names a recipe may ask for, each with what makes its events."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from models.manifest import ModelError
from models.simulation import (
    diffractograms,
    germania,
    nanodroplets,
    pressure_ramps,
    six_shapes,
    twice,
    water,
)
from models.simulation.labels import CLASSES

Arrays = dict[str, NDArray[Any]]
Progress = Callable[[int], None]


class Make(Protocol):
    """`n` events from `seed`: arrays `inputs` [n, *event], `targets` float32 [n, T], and facts.

    The same arguments give the same events. `progress` hears how many are done.
    """

    def __call__(
        self, n: int, seed: int, options: Mapping[str, Any], progress: Progress | None = None
    ) -> Arrays: ...


@dataclass(frozen=True)
class Simulated:
    """One kind of simulated data.

    modules: those of `models.simulation` that decide its events; a change there makes the cache anew.
    also: further held-out splits, each with the options that differ.
    """

    target_names: tuple[str, ...]
    make: Make
    modules: tuple[str, ...]
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _diffractograms(
    n: int, seed: int, options: Mapping[str, Any], progress: Progress | None = None
) -> Arrays:
    spectra = diffractograms.simulate(n, seed, **options)
    if progress is not None:
        progress(n)
    return {"inputs": spectra.intensity, "targets": spectra.target}


_DROPLET_MODULES: Final = ("nanodroplets", "scenes", "diffraction", "detector", "labels")
_TWICE_MODULES: Final = (*_DROPLET_MODULES, "twice")

SIMULATED: Final[Mapping[str, Simulated]] = {
    # natural: label sets as often as they were measured.
    "droplets": Simulated(CLASSES, nanodroplets.make, _DROPLET_MODULES, {"natural": {"evenness": 0.0}}),
    "droplets_twice": Simulated(CLASSES, twice.make, _TWICE_MODULES, {"natural": {"evenness": 0.0}}),
    # bright: as the images that people choose to label.
    "six_shapes": Simulated(
        six_shapes.SHAPE_NAMES,
        six_shapes.make,
        (*_TWICE_MODULES, "six_shapes"),
        {"bright": {"photons": (1e5, 3e6)}},
    ),
    "diffractograms": Simulated(diffractograms.TARGET_NAMES, _diffractograms, ("diffractograms",)),
    # ramps: whole runs in time order, for the boundary between the phases. Strained: each line also moves and
    # widens on its own, so that a single curve tells less of its place on the ramp.
    "pressure_ramps": Simulated(
        pressure_ramps.PHASES,
        pressure_ramps.make,
        ("pressure_ramps", "diffractograms"),
        {"ramps": {"whole_ramps": 12, "strain": 0.0}, "strained_ramps": {"whole_ramps": 12}},
    ),
    "water_spectra": Simulated(water.MOLECULE, water.spectrum_to_structure, ("water",)),
    "water_structures": Simulated(water.SPECTRUM_NAMES, water.structure_to_spectrum, ("water",)),
    "germania": Simulated(germania.TARGET_NAMES, germania.make, ("germania",)),
}


def simulated(name: str) -> Simulated:
    """The entry of this name. Raises ModelError with the names there are."""
    if name not in SIMULATED:
        raise ModelError(
            f"simulated data: expected one of {tuple(SIMULATED)}, got {name!r}; "
            "add it to models/data_sets/simulated.py"
        )
    return SIMULATED[name]
