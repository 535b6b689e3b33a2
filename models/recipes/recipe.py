"""The form of a recipe: everything that decides a bundle but the code. Written whole into its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Data:
    """Simulated events: `source` names an entry of `models.data_sets.simulated`, `options` go to it."""

    source: str
    train: int
    validation: int
    test: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One descent. batch 0: all events at once. patience: epochs without a better validation loss."""

    name: str
    epochs: int
    patience: int
    batch: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Recipe:
    """One training run.

    task: entry of `models.tasks.table`; architecture: entry of `models.architectures`, with its options;
    extra: constants of the task. about, origin and limits are for the model card: what the bundle says of an
    event, which published system it follows, and where it ends.
    """

    name: str
    task: str
    architecture: str
    options: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    data: Data
    stages: tuple[Stage, ...]
    seed: int
    about: str
    origin: str
    limits: str
    extra: Mapping[str, Any] = field(default_factory=dict)
