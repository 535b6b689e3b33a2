"""Encoder-decoder networks between spectra and structure."""

from collections.abc import Callable
from typing import Final

from models.recipes.recipe import Data, Recipe, Stage
from models.simulation.diffractograms import POINTS, TARGET_NAMES

SPECTRUM_PREPROCESS: Final = {"steps": [{"op": "standardise", "epsilon": 1e-6}]}


def diffraction_ednn() -> Recipe:
    """From a diffractogram through three latent numbers to the lattice spacings and the place on the ramp."""
    return Recipe(
        name="diffraction_ednn",
        task="structure",
        architecture="ednn",
        options={"points": POINTS, "hidden": [128, 64], "latent": 3, "targets": len(TARGET_NAMES)},
        preprocess=SPECTRUM_PREPROCESS,
        data=Data("diffractograms", train=6000, validation=1000, test=1500),
        stages=(Stage("fit", epochs=60, patience=10, batch=128, learning_rate=1e-3, weight_decay=1e-2),),
        seed=7,
        about="Reads lattice spacings and the place on a pressure ramp from a powder diffractogram.",
        origin="Passilahti et al., arXiv 2406.14044",
        limits="""\
The simulation is calibrated on two measured curves (n = 0 and 340 of the ramp); on those two the spacings are
right within 0.002 angstrom and the place on the ramp within 0.01. Nothing between them could be checked.
Knows one material pair, one photon energy (25.6 keV) and this angular grid. Latent numbers have no physical
unit. A curve without sample still gets an answer: look at the intensity first.""",
    )


RECIPES: Final[tuple[Callable[[], Recipe], ...]] = (diffraction_ednn,)
