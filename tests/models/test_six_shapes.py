"""Six shapes: balanced, seeded, and the second exposure shows the same droplet."""

import numpy as np
import pytest
import torch

from models.manifest import ModelError
from models.networks.rings import RingReader
from models.simulation import six_shapes, twice
from models.simulation.detector import PEDESTAL_COUNTS
from models.simulation.labels import CLASSES

SMALL = {"size_px": 32}


def test_shapes_are_balanced_and_exclusive() -> None:
    heard: list[int] = []
    made = six_shapes.make(12, 5, SMALL, heard.append)
    assert made["inputs"].shape == (12, 32, 32)
    assert made["inputs"].dtype == made["again"].dtype == np.uint16
    assert (made["targets"].sum(1) == 1).all()
    assert (made["targets"].sum(0) == 2).all()
    assert heard == [*range(1, 13)]
    assert all(names <= set(CLASSES) for names in six_shapes.SHAPES.values())


def test_the_seed_decides() -> None:
    first, same, other = (six_shapes.make(6, seed, SMALL) for seed in (5, 5, 6))
    assert all(np.array_equal(first[key], same[key]) for key in first)
    assert not np.array_equal(first["inputs"], other["inputs"])


def test_second_exposure_is_bright_and_of_the_same_droplet() -> None:
    made = six_shapes.make(8, 8, {"photons": (1e6, 1e6)})
    reader = RingReader()
    seen, again = (
        reader(torch.from_numpy(made[key].astype(np.float32) - PEDESTAL_COUNTS)[:, None]).numbers[:, 7]
        for key in ("inputs", "again")
    )
    assert (seen - again).abs().max() < 0.1 * seen.std()
    assert made["photons"] == pytest.approx(1e6)
    assert (made["again"].sum((1, 2), dtype=float) > 1.5 * made["inputs"].sum((1, 2), dtype=float)).all()


def test_all_labels_twice_with_empty_images() -> None:
    made = twice.make(20, 3, {**SMALL, "evenness": 1.0})
    assert made["targets"].shape == (20, len(CLASSES))
    empty = made["targets"][:, CLASSES.index("Empty")] > 0.5
    assert ((made["radius_nm"] == 0) == empty).all()


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ModelError, match="got \\['colour'\\]"):
        six_shapes.make(2, 0, {"colour": 1})
