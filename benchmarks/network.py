"""The bundle that is measured: the shipped classifier, or the same architecture with fresh weights.

Speed does not depend on the weights. Imports torch: only for processes that run a network.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from models.architectures import ARCHITECTURES
from models.bundle import save_bundle
from models.manifest import Column, Manifest
from models.preprocess import Preprocess
from models.recipes.table import recipe
from models.shipped import SHIPPED
from models.simulation.labels import CLASSES

CLASSIFIER: Final = "droplet_cnn"
SHAPE: Final = (128, 128)


def classifier(folder: Path) -> Path:
    """Folder of the classifier's bundle; a fresh one is written to `folder` where none is shipped."""
    shipped = SHIPPED / CLASSIFIER
    return shipped if (shipped / "manifest.json").is_file() else _fresh(folder / CLASSIFIER)


def _fresh(folder: Path) -> Path:
    torch.manual_seed(0)
    how = recipe(CLASSIFIER)
    network = ARCHITECTURES[how.architecture](**how.options)
    manifest = Manifest(
        name=CLASSIFIER,
        kind="classifier",
        architecture=how.architecture,
        options=dict(how.options),
        input_shape=SHAPE,
        input_dtype="uint16",
        preprocess=dict(how.preprocess),
        columns=(Column("p", "float32", CLASSES), Column("labels", "uint32")),
        scores={},
        training={},
        weights_sha256="",
        golden_sha256="",
        created="fresh weights, for speed only",
    )
    modules = (Preprocess(how.preprocess, SHAPE), network.eval())
    golden = torch.randint(0, 500, (8, *SHAPE), dtype=torch.int32).to(torch.uint16)
    save_bundle(folder, replace(manifest), modules, golden, lambda _: "Fresh weights, for speed only.\n")
    return folder
