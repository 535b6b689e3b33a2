"""The bundles that are measured: the shipped classifier, or an architecture of ours with fresh weights.

Speed does not depend on the weights. Imports torch: only for processes that run a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from models.architectures import ARCHITECTURES
from models.bundle import GOLDEN_EVENTS, save_bundle
from models.manifest import Column, Manifest
from models.preprocess import Preprocess
from models.recipes.table import recipe
from models.shipped import SHIPPED
from models.simulation.labels import CLASSES

CLASSIFIER: Final = "droplet_cnn"
SHAPE: Final = (128, 128)
CLASS_COLUMNS: Final = (Column("p", "float32", CLASSES), Column("labels", "uint32"))
# Counts of a bright image or spectrum: the pedestal of 100 lies well inside.
COUNTS: Final = 500
PATCH: Final = 16  # pixels or bins; divides every shape that is built here


@dataclass(frozen=True)
class Fresh:
    """An untrained network of an architecture in `models`, for uint16 events of `shape`."""

    name: str
    kind: str
    architecture: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    columns: tuple[Column, ...]
    preprocess: Mapping[str, Any] = field(default_factory=lambda: {"steps": []})


def classifier(folder: Path) -> Path:
    """Folder of the classifier's bundle; a fresh one is written to `folder` where none is shipped."""
    shipped = SHIPPED / CLASSIFIER
    if (shipped / "manifest.json").is_file():
        return shipped
    how = recipe(CLASSIFIER)
    network = Fresh(
        CLASSIFIER, "classifier", how.architecture, how.options, SHAPE, CLASS_COLUMNS, how.preprocess
    )
    return fresh(folder / CLASSIFIER, network)


def fresh(folder: Path, what: Fresh) -> Path:
    """Write a bundle with fresh weights to `folder`, the same ones each time."""
    torch.manual_seed(0)
    network = ARCHITECTURES[what.architecture](**what.options)
    manifest = Manifest(
        name=what.name,
        kind=what.kind,
        architecture=what.architecture,
        options=dict(what.options),
        input_shape=what.shape,
        input_dtype="uint16",
        preprocess=dict(what.preprocess),
        columns=what.columns,
        scores={},
        training={},
        weights_sha256="",
        golden_sha256="",
        created="fresh weights, for speed only",
    )
    modules = (Preprocess(what.preprocess, what.shape), network.eval())
    save_bundle(folder, manifest, modules, _events(what.shape), lambda _: "Fresh weights, for speed only.\n")
    return folder


def _events(shape: tuple[int, ...]) -> Tensor:
    """uint16 [B, *shape]: random patches. Of noise without any, all events look the same to a network."""
    coarse = torch.randint(0, COUNTS, (GOLDEN_EVENTS, *(size // PATCH for size in shape)), dtype=torch.int32)
    for axis in range(1, coarse.ndim):
        coarse = coarse.repeat_interleave(PATCH, axis)
    return coarse.to(torch.uint16)
