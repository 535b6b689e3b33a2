"""The events that a recipe trains and is scored on: simulated once, from disjoint seeds, kept in a folder.

Owns the split. The cache is plain .npy files named after what decides them, so that no file is taken for
another recipe's; after a change of the simulation, delete them.

N events; `inputs` raw as the stream sees them, `targets` per event.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.recipes import Recipe
from models.simulation import diffractograms, nanodroplets

# Added to the recipe's seed. The bank of simulation/bank.py starts at 900 000 and so is never trained on.
SPLITS = {"train": 0, "validation": 100_000, "test": 200_000, "natural": 300_000}


@dataclass(frozen=True)
class DataSet:
    """inputs: raw [N, *event]; targets: float32 [N, T] (labels as 0 and 1, or structure)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor) -> "DataSet":
        """The events at `index`, in that order (torch cannot index uint16, so those go as int16 and back)."""
        if self.inputs.dtype == torch.uint16:
            inputs = self.inputs.view(torch.int16)[index].view(torch.uint16)
        else:
            inputs = self.inputs[index]
        return DataSet(inputs, self.targets[index])


Progress = Callable[[int], None]


def load_split(recipe: Recipe, split: str, folder: Path, progress: Progress | None = None) -> DataSet:
    """The events of one split, from the cache or simulated into it; `natural` has the measured statistics."""
    sizes = {"train": recipe.train_events, "validation": recipe.validation_events}
    n, seed = sizes.get(split, recipe.test_events), recipe.seed + SPLITS[split]
    evenness = 0.0 if split == "natural" else recipe.evenness
    make = _spectra if recipe.kind == "ednn" else _droplets
    stem = folder / f"{make.__name__.strip('_')}-{n}-{seed}-{evenness}"
    paths = stem.with_name(stem.name + "-inputs.npy"), stem.with_name(stem.name + "-targets.npy")
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        for path, array in zip(paths, make(n, seed, evenness, progress), strict=True):
            np.save(path, array, allow_pickle=False)
    inputs, targets = (np.load(path, allow_pickle=False) for path in paths)
    return DataSet(torch.from_numpy(inputs), torch.from_numpy(targets))


def _droplets(
    n: int, seed: int, evenness: float, progress: Progress | None
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    droplets = nanodroplets.simulate(n, seed, progress=progress, evenness=evenness)
    return droplets.images, droplets.labels.astype(np.float32)


def _spectra(
    n: int, seed: int, _evenness: float, _progress: Progress | None
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    spectra = diffractograms.simulate(n, seed)
    return spectra.intensity, spectra.target
