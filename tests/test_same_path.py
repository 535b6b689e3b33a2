"""What training computes for an event is what the stream computes: one preprocessing, one network."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from models.bundle import load_bundle
from models.data_sets.data_set import DataSet
from models.fit import Hardware
from models.preprocess import Preprocess
from models.recipes.recipe import Data, Recipe, Stage
from models.tasks.table import make_task
from models.tasks.task import answers
from models.train import Where, train_bundle
from streamer.engines.plain import MODES
from streamer.runner import CpuRunner

POINTS, TARGETS = 64, ("a", "b")
RECIPE = Recipe(
    name="small",
    task="structure",
    architecture="ednn",
    options={"points": 16, "hidden": [16], "latent": 2},
    preprocess={
        "steps": [
            {"op": "scale", "offset": 100.0, "factor": 0.5},
            {"op": "bin", "factor": 2},
            {"op": "crop", "top": 0, "left": 8, "height": 1, "width": 16},
            {"op": "log1p"},
            {"op": "standardise", "epsilon": 1e-6},
        ]
    },
    data=Data("none", 64, 32, 32),
    stages=(Stage("fit", epochs=2, patience=2, batch=16, learning_rate=1e-2, weight_decay=0.0),),
    seed=3,
    about="Test.",
    origin="none",
    limits="none",
)


def events(n: int, seed: int) -> DataSet:
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.integers(0, 60_000, (n, POINTS), dtype=np.uint16))
    return DataSet(inputs, torch.from_numpy(rng.normal(size=(n, 2)).astype(np.float32)), TARGETS)


def test_training_and_stream_agree(tmp_path: Path) -> None:
    splits = {"train": events(64, 0), "validation": events(32, 1), "test": events(32, 2)}
    where = Where(tmp_path / "small", Hardware(torch.device("cpu"), False), Console(quiet=True))
    train_bundle(RECIPE, splits, where)
    bundle = load_bundle(tmp_path / "small")
    trained = make_task(RECIPE, splits["train"])
    trained.module.load_state_dict(bundle.network.state_dict())
    in_training = answers(trained.preprocess, trained.module, splits["test"])
    raw = splits["test"].inputs.numpy()
    in_stream = CpuRunner([bundle], 7, MODES[0]).submit([raw[:3], raw[3:]]).wait()
    assert isinstance(trained.preprocess, Preprocess)
    assert np.abs(in_stream - in_training).max() < 1e-5
    assert np.abs(in_training).max() > 1e-2, "the network answers something"
