"""Encoders with a mixture: where an image lies among the others, without labels."""

from collections.abc import Callable
from typing import Final

from models.recipes.droplets import DROPLET_DATA, DROPLET_PREPROCESS
from models.recipes.recipe import Recipe, Stage


def droplet_vae() -> Recipe:
    """The encoder of droplet shapes, and the mixture that says how usual an image is."""
    return Recipe(
        name="droplet_vae",
        task="clusters",
        architecture="mixture_encoder",
        options={"latent": 6, "widths": [16, 32, 64, 96], "size_px": 128, "components": 10},
        preprocess=DROPLET_PREPROCESS,
        data=DROPLET_DATA,
        stages=(Stage("fit", epochs=10, patience=5, batch=64, learning_rate=2e-3, weight_decay=1e-3),),
        seed=1612,
        about="Places a nanodroplet image in a latent space and says how usual that place is.",
        origin="julian-carpenter/beta-TCVAE @572d9e3",
        limits="""\
Clusters are not classes: their numbers mean nothing by themselves. The log-likelihood ranks events; it is no
probability of being new. Take thresholds from the percentiles of a run.""",
        extra={"beta": 2.0, "regularisation": 1e-3},
    )


RECIPES: Final[tuple[Callable[[], Recipe], ...]] = (droplet_vae,)
