"""What is trained: named functions, each returning one complete, frozen configuration.

A recipe is everything that decides a bundle but the code: data and seeds, architecture, preprocessing,
optimiser. Its values are written into the bundle's manifest under `training`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from models.manifest import ModelError
from models.simulation.detector import PEDESTAL_COUNTS
from models.simulation.diffractograms import POINTS, TARGET_NAMES
from models.simulation.labels import CLASSES

# Both droplet bundles: counts without the camera's pedestal. The logarithms are in the networks, so that the
# two can share this.
DROPLET_PREPROCESS: Final = {"steps": [{"op": "scale", "offset": PEDESTAL_COUNTS, "factor": 1.0}]}
SPECTRUM_PREPROCESS: Final = {"steps": [{"op": "standardise", "epsilon": 1e-6}]}


@dataclass(frozen=True)
class Recipe:
    """One training run.

    `evenness` flattens the label statistics of the training data (0 measured, 1 all combinations equal);
    scores are on held-out data, with the measured statistics too. `extra` holds constants of one kind.
    """

    name: str
    kind: str
    architecture: str
    options: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    train_events: int
    validation_events: int
    test_events: int
    evenness: float
    epochs: int
    patience: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int
    extra: Mapping[str, float]


def droplet_cnn() -> Recipe:
    """The multi-label classifier of droplet shapes."""
    return Recipe(
        name="droplet_cnn",
        kind="classifier",
        architecture="droplet_cnn",
        options={"labels": len(CLASSES), "widths": [16, 32, 64, 128], "blocks": [1, 2, 2, 1]},
        preprocess=DROPLET_PREPROCESS,
        train_events=6000,
        validation_events=1000,
        test_events=1500,
        evenness=0.5,  # Layered occurs in 0.65 % of the images: 39 of 6000 would not teach it
        epochs=24,
        patience=6,
        batch=48,
        learning_rate=3e-3,
        weight_decay=1e-2,
        seed=1612,  # airynet's
        extra={},
    )


def droplet_vae() -> Recipe:
    """The encoder of droplet shapes, and the mixture that says how usual an image is."""
    return Recipe(
        name="droplet_vae",
        kind="vae_mixture",
        architecture="mixture_encoder",
        options={"latent": 6, "widths": [16, 32, 64, 96], "size_px": 128, "components": 10},
        preprocess=DROPLET_PREPROCESS,
        train_events=6000,
        validation_events=1000,
        test_events=1500,
        evenness=0.5,
        epochs=10,
        patience=5,
        batch=64,
        learning_rate=2e-3,
        weight_decay=1e-3,
        seed=1612,
        extra={"beta": 2.0, "regularisation": 1e-3},
    )


def diffraction_ednn() -> Recipe:
    """From a diffractogram through three latent numbers to the lattice spacings and the place on the ramp."""
    return Recipe(
        name="diffraction_ednn",
        kind="ednn",
        architecture="ednn",
        options={"points": POINTS, "hidden": [128, 64], "latent": 3, "targets": len(TARGET_NAMES)},
        preprocess=SPECTRUM_PREPROCESS,
        train_events=6000,
        validation_events=1000,
        test_events=1500,
        evenness=0.0,
        epochs=60,
        patience=10,
        batch=128,
        learning_rate=1e-3,
        weight_decay=1e-2,
        seed=7,
        extra={},
    )


RECIPES: Final[Mapping[str, Callable[[], Recipe]]] = {
    "droplet_cnn": droplet_cnn,
    "droplet_vae": droplet_vae,
    "diffraction_ednn": diffraction_ednn,
}


def recipe(name: str) -> Recipe:
    """The recipe of this name; raises ModelError with the names there are."""
    if name not in RECIPES:
        raise ModelError(
            f"recipe: expected one of {tuple(RECIPES)}, got {name!r}; add it to models/recipes.py"
        )
    return RECIPES[name]()
