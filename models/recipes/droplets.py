"""Classifiers of droplet shapes, after Zimmermann et al. (PRE 99, 063309, 2019; julian-carpenter/airynet).

`droplet_cnn` is ours, small; the others follow airynet: its networks, and its input chain where the name says
nothing else (256 pixels by linear interpolation to 224, raw counts). All see the same kind of events.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from models.recipes.recipe import Data, Recipe, Stage
from models.simulation.detector import PEDESTAL_COUNTS
from models.simulation.labels import CLASSES

# Counts without the camera's pedestal. The logarithms are in the networks, so that classifier and encoder
# share this.
PEDESTAL_STEP: Final = {"op": "scale", "offset": PEDESTAL_COUNTS, "factor": 1.0}
DROPLET_PREPROCESS: Final = {"steps": [PEDESTAL_STEP]}
# What classifiers see: cameras with up to two dead sectors and holes from small to those of the published
# images (0.22 to 0.30 of the radius). evenness 0.5: Layered occurs in 0.65 % of the images: 39 of 6000 would
# not teach it.
CAMERAS: Final = {"evenness": 0.5, "dead_sectors": 2, "hole_share": [0.11, 0.30]}
AIRYNET_SIZE_PX: Final = 224
RECORDED_SIZE_PX: Final = 256  # airynet crops 259 to this
SEED: Final = 1612  # airynet's
ORIGIN: Final = "Zimmermann et al., PRE 99, 063309 (2019); julian-carpenter/airynet @7ad87bb"
ABOUT: Final = "Says which of 11 non-exclusive shapes a helium nanodroplet diffraction image shows."
LIMITS: Final = """\
Trained on simulated images alone. Thresholds maximise F1 on events with rare shapes made more frequent; where
rare shapes are as rare as measured, more of those found are false. Asymmetric and Bent begin where a tilt
begins: near that border, and in faint images, they are missed. Whether a fringe system is called NewtonRings,
DoubleRings or Layered follows our reading of the published pictures."""


def droplet_cnn() -> Recipe:
    """The small classifier of droplet shapes."""
    return _recipe(
        "droplet_cnn",
        ("droplet_cnn", {"widths": [16, 32, 64, 128], "blocks": [1, 2, 2, 1], "opposite": True}),
        Stage("fit", epochs=30, patience=8, batch=48, learning_rate=3e-3, weight_decay=1e-2),
    )


def droplet_cnn_ccf() -> Recipe:
    """The small classifier on the two-point cross-correlation image instead of the image."""
    correlation = {"op": "two_point_correlation", "rings": 64, "angles": 128, "floor": 10.0}
    return _recipe(
        "droplet_cnn_ccf",
        ("droplet_cnn", {"widths": [16, 32, 64, 128], "blocks": [1, 2, 2, 1]}),
        Stage("fit", epochs=20, patience=6, batch=48, learning_rate=3e-3, weight_decay=1e-2),
        [PEDESTAL_STEP, correlation],
        turns=False,  # the input is the same for a turned image, and flips of it mean nothing
    )


def droplet_resnet18() -> Recipe:
    """airynet's ResNet-18 on images of 64 x 64, which one core trains in half an hour."""
    small = {"op": "resize", "height": 64, "width": 64}
    stage = Stage("fit", epochs=8, patience=4, batch=48, learning_rate=1e-3, weight_decay=1e-2)
    return _recipe("droplet_resnet18", ("resnet", {"depth": 18}), stage, [PEDESTAL_STEP, small])


def droplet_resnet18_attention() -> Recipe:
    """ResNet-18 with self-attention in front of the last stage, on airynet's 224 x 224."""
    return _full_size("droplet_resnet18_attention", ("resnet", {"depth": 18, "attention": True}))


def droplet_resnet34() -> Recipe:
    """airynet's ResNet-34 on 224 x 224: for a GPU."""
    return _full_size("droplet_resnet34", ("resnet", {"depth": 34}))


def droplet_resnet50() -> Recipe:
    """airynet's ResNet-50 on 224 x 224: for a GPU."""
    return _full_size("droplet_resnet50", ("resnet", {"depth": 50}))


def droplet_vgg16() -> Recipe:
    """airynet's VGG-16 on 224 x 224: 134 M parameters, for a GPU."""
    # Without normalisation the rate of the residual networks diverges.
    return _full_size("droplet_vgg16", ("vgg", {"size_px": AIRYNET_SIZE_PX}), learning_rate=1e-4)


def _full_size(name: str, architecture: tuple[str, Mapping[str, Any]], learning_rate: float = 1e-3) -> Recipe:
    """airynet's input: 256 x 256 to 224 x 224. As many events as it had."""
    resize = {"op": "resize", "height": AIRYNET_SIZE_PX, "width": AIRYNET_SIZE_PX}
    stage = Stage("fit", 40, patience=10, batch=64, learning_rate=learning_rate, weight_decay=1e-2)
    recipe = _recipe(name, architecture, stage, [PEDESTAL_STEP, resize])
    data = Data("droplets", 7264, 1000, 1500, {**CAMERAS, "size_px": RECORDED_SIZE_PX})
    return Recipe(**{**vars(recipe), "data": data})


def _recipe(
    name: str,
    architecture: tuple[str, Mapping[str, Any]],
    stage: Stage,
    steps: list[dict[str, Any]] | None = None,
    turns: bool = True,
) -> Recipe:
    """One classifier; `steps` default to the pedestal alone."""
    return Recipe(
        name=name,
        task="labels",
        architecture=architecture[0],
        options={"labels": len(CLASSES), **architecture[1]},
        preprocess={"steps": steps or [PEDESTAL_STEP]},
        data=Data("droplets", train=6000, validation=1000, test=1500, options=CAMERAS),
        stages=(stage,),
        seed=SEED,
        about=ABOUT,
        origin=ORIGIN,
        limits=LIMITS,
        extra={"turns": turns, "consistent": True},
    )


RECIPES: Final[tuple[Callable[[], Recipe], ...]] = (
    droplet_cnn,
    droplet_cnn_ccf,
    droplet_resnet18,
    droplet_resnet18_attention,
    droplet_resnet34,
    droplet_resnet50,
    droplet_vgg16,
)
