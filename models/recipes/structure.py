"""Encoder-decoder networks between spectra and structure, after Passilahti et al. and Niskanen et al.

Names: water_NETWORK runs from spectrum to structure, as the stream does; water_NETWORK_emulator from
structure to spectrum.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from models.recipes.recipe import Data, Recipe, Stage

SPECTRUM_PREPROCESS: Final = {"steps": [{"op": "standardise", "epsilon": 1e-6}]}
COUNTS_PREPROCESS: Final = {"steps": [{"op": "standardise", "epsilon": 1e-3}]}  # counts: 1e-3 is no light
NO_PREPROCESS: Final[Mapping[str, Any]] = {"steps": []}
PASSILAHTI: Final = "Passilahti et al., arXiv 2406.14044"
NISKANEN: Final = "Niskanen et al., R. Soc. Open Sci. (2022); antonvladyka/eca @3aa67b9"
# All trainable geometries once (emulation), or five times with their own noise (inversion).
EMULATION: Final = Data("water_structures", train=3200, validation=400, test=400)
INVERSION: Final = Data(
    "water_spectra", train=16000, validation=2000, test=2000, options={"photons": [1e4, 1e6]}
)
EMULATOR_STAGE: Final = Stage(
    "fit", epochs=120, patience=30, batch=160, learning_rate=4e-3, weight_decay=1e-5
)
INVERSION_STAGE: Final = replace(EMULATOR_STAGE, epochs=60, patience=12, batch=512)
EMULATOR_HIDDEN: Final = (64, 64)
# Begun once, as published, a vector of ECA can stay at a poorer optimum (k = 2, 1200 geometries: covered
# variance 0.813 against 0.888): a tenth of their tolerance and the best of three starts.
ECA_FIT: Final[Mapping[str, Any]] = {"tolerance": 1e-5, "starts": 3}
WATER_LIMITS: Final = """\
Spectra of one isolated molecule from one method (half a core hole, PBE, aug-cc-pVDZ), broadened by Gaussians:
no vibrations, no neighbours, one shift for the whole energy axis. Real spectra of liquid or ice differ more
than these do among each other. Bonds from 0.8 to 1.4 angstrom were seen, angles from 65 to 150 degrees."""
INVERSE_LIMITS: Final = (
    WATER_LIMITS
    + """
Spectra are read as counts on the trained energy grid (256 points, 531 to 545 eV), with 10^4 to 10^6 photons.
Latent numbers have no unit."""
)


def diffraction_ednn() -> Recipe:
    """From a diffractogram through three latent numbers to the lattice spacings and the place on the ramp."""
    return Recipe(
        name="diffraction_ednn",
        task="structure",
        architecture="ednn",
        options={"hidden": [128, 64], "latent": 3},
        preprocess=SPECTRUM_PREPROCESS,
        data=Data("diffractograms", train=6000, validation=1000, test=1500),
        stages=(Stage("fit", epochs=60, patience=10, batch=128, learning_rate=1e-3, weight_decay=1e-2),),
        seed=7,
        about="Reads lattice spacings and the place on a pressure ramp from a powder diffractogram.",
        origin=PASSILAHTI,
        limits="""\
The simulation is calibrated on two measured curves (n = 0 and 340 of the ramp); on those two the spacings are
right within 0.002 angstrom and the place on the ramp within 0.01. Nothing between them could be checked.
Knows one material pair, one photon energy (25.6 keV) and this angular grid. Latent numbers have no physical
unit. A curve without sample still gets an answer: look at the intensity first.""",
    )


def water_ednn_emulator() -> Recipe:
    """Structure -> two latent numbers -> spectrum, the published direction."""
    return _emulator("water_ednn_emulator", "ednn", PASSILAHTI)


def water_nnca_emulator() -> Recipe:
    """Structure -> two orthonormal components -> spectrum, encoder and decoder trained together."""
    return _emulator("water_nnca_emulator", "nnca", PASSILAHTI)


def water_eca_emulator() -> Recipe:
    """Structure -> two components of a trained emulator -> spectrum."""
    return _emulator("water_eca_emulator", "eca", NISKANEN)


def water_ednn() -> Recipe:
    """Spectrum -> three latent numbers -> structure, in one pass."""
    return replace(
        _inverse("water_ednn", "nnca", PASSILAHTI),
        task="structure",
        architecture="ednn",
        options={"hidden": [128, 64], "latent": 3},
        extra={},
    )


def water_nnca() -> Recipe:
    """Spectrum -> three orthonormal components -> structure: an NNCA turned round."""
    return _inverse("water_nnca", "nnca", PASSILAHTI)


def water_eca() -> Recipe:
    """Spectrum -> three components of an emulator -> structure: the inverse of ECA."""
    return _inverse("water_eca", "eca", NISKANEN)


def germania_nnca() -> Recipe:
    """Coulomb matrix -> three orthonormal components -> moments of two emission peaks."""
    return Recipe(
        name="germania_nnca",
        task="structure",
        architecture="nnca",
        options={"hidden": [64, 64], "latent": 3},
        preprocess=NO_PREPROCESS,
        data=Data("germania", train=8000, validation=1000, test=1000),
        stages=(replace(EMULATOR_STAGE, epochs=60, patience=12),),
        seed=19,
        about="Gives moments of two emission peaks of germanium from a Coulomb matrix of its surroundings.",
        origin=PASSILAHTI + "; Vladyka et al., PCCP (2023)",
        limits="A test of shape on invented formulas: no emission spectrum of GeO2 was computed or measured.",
        extra={"shared_scale": False},
    )


def _emulator(name: str, architecture: str, origin: str) -> Recipe:
    scaled = {"scale_inputs": True} if architecture == "ednn" else {}
    return Recipe(
        name=name,
        task="structure",
        architecture=architecture,
        options={"hidden": list(EMULATOR_HIDDEN), "latent": 2, **scaled},
        preprocess=NO_PREPROCESS,
        data=EMULATION,
        stages=(EMULATOR_STAGE,),
        seed=11,
        about="Gives the oxygen K-edge absorption spectrum of a water molecule from its structure.",
        origin=origin,
        limits=WATER_LIMITS,
        extra={"shared_scale": True, "eca": ECA_FIT},
    )


def _inverse(name: str, emulator: str, origin: str) -> Recipe:
    return Recipe(
        name=name,
        task="structure_inverse",
        architecture="spectrum_inverse",
        options={"hidden": list(EMULATOR_HIDDEN), "latent": 3, "search": {"emulator": emulator}},
        preprocess=COUNTS_PREPROCESS,
        data=INVERSION,
        stages=(INVERSION_STAGE,),
        seed=13,
        about="Reads bond lengths and angle of a water molecule from its oxygen K-edge absorption spectrum.",
        origin=origin,
        limits=INVERSE_LIMITS,
        extra={"eca": {**ECA_FIT, "events": EMULATION.train}},  # each geometry once
    )


RECIPES: Final[tuple[Callable[[], Recipe], ...]] = (
    diffraction_ednn,
    water_ednn,
    water_nnca,
    water_eca,
    water_ednn_emulator,
    water_nnca_emulator,
    water_eca_emulator,
    germania_nnca,
)
