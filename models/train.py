"""Train a recipe into a bundle: python -m models.train RECIPE --out DIR [--data FOLDER].

Owns the loop: shuffled batches, AdamW with one cosine cycle after a short warm-up, early stopping on the
validation loss, the best weights kept. What is special to one kind of model is in `models.tasks`.
"""

import argparse
import copy
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from models.bundle import GOLDEN_EVENTS, save_bundle
from models.card import model_card
from models.data_sets import DataSet, load_split
from models.manifest import Manifest, ModelError
from models.recipes import RECIPES, Recipe, recipe
from models.tasks import Task, answers, build_task

WARM_UP_SHARE = 0.05  # of all steps: batch normalisation settles before the rate is at its peak
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training events gave."""

    number: int
    train_loss: float
    validation_loss: float


def fit(task: Task, recipe: Recipe, data: tuple[DataSet, DataSet], report: Callable[[Epoch], None]) -> int:
    """Train `task.module` on (train, validation); leaves the best weights in it, returns the epochs run."""
    train, validation = data
    generator = torch.Generator().manual_seed(recipe.seed)
    steps = recipe.epochs * math.ceil(len(train) / recipe.batch)
    weights = task.module.parameters()
    optimiser = torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    best, best_epoch, best_weights = math.inf, 0, copy.deepcopy(task.module.state_dict())
    for number in range(1, recipe.epochs + 1):
        order = torch.randperm(len(train), generator=generator)
        losses = [_step(task, train.take(part), optimiser, schedule) for part in order.split(recipe.batch)]
        loss = validate(task, validation, recipe)
        report(Epoch(number, sum(losses) / len(losses), loss))
        if loss < best:
            best, best_epoch, best_weights = loss, number, copy.deepcopy(task.module.state_dict())
        elif number - best_epoch >= recipe.patience:
            break
    task.module.load_state_dict(best_weights)
    return number


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, int(WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _step(task: Task, batch: DataSet, optimiser: torch.optim.Optimizer, schedule: Any) -> float:
    task.module.train()
    loss = task.loss(batch.inputs, batch.targets)
    if not torch.isfinite(loss):
        raise ModelError(f"training: the loss became {loss.item()}; lower the learning rate of the recipe")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(task.module.parameters(), CLIP_NORM)
    optimiser.step()
    schedule.step()
    return loss.item()


def validate(task: Task, data: DataSet, recipe: Recipe) -> float:
    """Mean loss over `data` in evaluation mode."""
    task.module.eval()
    parts = torch.arange(len(data)).split(recipe.batch)
    with torch.no_grad():
        batches = [data.take(part) for part in parts]
        return sum(task.loss(b.inputs, b.targets).item() * len(b) for b in batches) / len(data)


def train_bundle(recipe: Recipe, out: Path, folder: Path, console: Console) -> Manifest:
    """Everything from data to a written and verified bundle."""
    torch.manual_seed(recipe.seed)
    splits = _splits(recipe, folder, console)
    task = build_task(recipe, splits["train"])
    started_s = time.process_time()
    pair = (splits["train"], splits["validation"])
    epochs = fit(task, recipe, pair, lambda epoch: console.print(_line(epoch)))
    network = task.finish(*pair).eval()
    training = asdict(recipe) | {"epochs_run": epochs, "cpu_s": round(time.process_time() - started_s, 1)}
    training["command"] = f"python -m models.train {recipe.name} --out {out.name}"
    scored = {name: task.score(network, splits["train"], splits[name]) for name in splits if name in SCORED}
    manifest = _manifest(recipe, task, scored, training)
    golden = golden_events(task, network, splits["test"])
    return save_bundle(out, manifest, (task.preprocess, network), golden, model_card)


SCORED = ("test", "natural")


def _splits(recipe: Recipe, folder: Path, console: Console) -> dict[str, DataSet]:
    """Spectra have no label statistics, so one held-out set is enough for them."""
    names = ["train", "validation", "test"] + ([] if recipe.kind == "ednn" else ["natural"])
    with Progress(console=console, transient=True) as progress:
        return {name: load_split(recipe, name, folder, _bar(progress, name)) for name in names}


def _bar(progress: Progress, name: str) -> Callable[[int], None]:
    bar = progress.add_task(f"events: {name}", total=None)
    return lambda done: progress.update(bar, completed=done)


def _line(epoch: Epoch) -> str:
    return f"epoch {epoch.number:3d}  train {epoch.train_loss:.4f}  validation {epoch.validation_loss:.4f}"


def _manifest(recipe: Recipe, task: Task, scored: dict[str, Any], training: dict[str, Any]) -> Manifest:
    return Manifest(
        name=recipe.name,
        kind=recipe.kind,
        architecture=recipe.architecture,
        options=dict(recipe.options),
        input_shape=task.preprocess.input_shape,
        input_dtype="float32" if recipe.kind == "ednn" else "uint16",
        preprocess=dict(recipe.preprocess),
        columns=task.columns,
        scores=scored,
        training=training,
        weights_sha256="",
        golden_sha256="",
        created=date.today().isoformat(),
    )


def golden_events(task: Task, network: nn.Module, data: DataSet) -> Tensor:
    """A few raw events whose integer columns bfloat16 does not change: none lies on a threshold."""
    pool = data.take(torch.arange(min(256, len(data))))
    exact = torch.from_numpy(answers(task.preprocess, network, pool))
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.from_numpy(answers(task.preprocess, network, pool))
    whole = torch.cat([torch.full((c.width,), c.dtype != "float32") for c in task.columns])
    stable = (exact[:, whole] == rough[:, whole]).all(1).nonzero()[:, 0]
    return pool.take(stable[:GOLDEN_EVENTS]).inputs


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if a recipe or its data is unusable."""
    parser = argparse.ArgumentParser(
        prog="python -m models.train", description="Train a recipe into a bundle."
    )
    parser.add_argument("recipe", choices=tuple(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--threads", type=int, default=1, help="1: the seed decides every bit of the weights")
    parser.add_argument(
        "--data", type=Path, help="folder that keeps the simulated events (default: none kept)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            manifest = train_bundle(
                recipe(options.recipe), options.out, options.data or Path(scratch), Console()
            )
        except ModelError as error:
            Console(stderr=True).print(str(error))
            return 1
    Console().print_json(data=manifest.scores)
    return 0


if __name__ == "__main__":
    sys.exit(main())
