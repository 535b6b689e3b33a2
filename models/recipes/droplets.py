"""Classifiers of droplet shapes, after Zimmermann et al. (PRE 99, 063309, 2019; julian-carpenter/airynet)."""

from collections.abc import Callable
from typing import Final

from models.recipes.recipe import Data, Recipe, Stage
from models.simulation.detector import PEDESTAL_COUNTS
from models.simulation.labels import CLASSES

# Counts without the camera's pedestal. The logarithms are in the networks, so that classifier and encoder
# share this.
DROPLET_PREPROCESS: Final = {"steps": [{"op": "scale", "offset": PEDESTAL_COUNTS, "factor": 1.0}]}
# evenness 0.5: Layered occurs in 0.65 % of the images: 39 of 6000 would not teach it.
DROPLET_DATA: Final = Data("droplets", train=6000, validation=1000, test=1500, options={"evenness": 0.5})


def droplet_cnn() -> Recipe:
    """The small classifier of droplet shapes."""
    return Recipe(
        name="droplet_cnn",
        task="labels",
        architecture="droplet_cnn",
        options={"labels": len(CLASSES), "widths": [16, 32, 64, 128], "blocks": [1, 2, 2, 1]},
        preprocess=DROPLET_PREPROCESS,
        data=DROPLET_DATA,
        stages=(Stage("fit", epochs=24, patience=6, batch=48, learning_rate=3e-3, weight_decay=1e-2),),
        seed=1612,  # airynet's
        about="Says which of 11 non-exclusive shapes a helium nanodroplet diffraction image shows.",
        origin="Zimmermann et al., PRE 99, 063309 (2019); julian-carpenter/airynet @7ad87bb",
        limits="""\
Thresholds maximise F1 on events with rare shapes made more frequent; where rare shapes are as rare as
measured, more of those found are false. Whether a fringe system is called NewtonRings, DoubleRings or
Layered follows our reading of the published pictures.""",
    )


RECIPES: Final[tuple[Callable[[], Recipe], ...]] = (droplet_cnn,)
