"""Train a recipe into a bundle: `streamer train RECIPE --out DIR`.

Owns the way from data to a written and verified bundle: splits, stages, scores, card. The descent is in
`models.fit`; what is special to one kind of model in `models.tasks`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from models import fit as descent
from models.bundle import GOLDEN_EVENTS, save_bundle
from models.card import model_card
from models.checkpoint import Checkpoint
from models.data_sets.data_set import DataSet
from models.data_sets.files import Wanted, add_data_arguments, data_from, load_files
from models.data_sets.hash_split import split
from models.data_sets.splits import cache_folder, load_split, split_names
from models.fit import Epoch, Hardware
from models.manifest import INPUT_DTYPES, Manifest, ModelError
from models.recipes.recipe import Recipe
from models.recipes.table import RECIPES, recipe
from models.tasks.table import TASKS, make_task
from models.tasks.task import Task, answers

UNSEEN: Final = ("train", "validation")  # splits that are not scored
SPEED_EVENTS: Final = 32  # a batch as the stream has under load
SPEED_TRIALS: Final = 5
STATE_FOLDER: Final = ".training"

Splits = Mapping[str, DataSet]


@dataclass(frozen=True)
class Where:
    """Folders and hardware of one training."""

    out: Path
    hardware: Hardware
    console: Console


def train_bundle(recipe: Recipe, splits: Splits, where: Where, simulated: bool = True) -> Manifest:
    """Everything from events to a written and verified bundle.

    `splits`: train, validation, and those that are scored. Stopped and called again it goes on where it was.
    Raises ModelError.
    """
    torch.manual_seed(recipe.seed)
    task = make_task(recipe, splits["train"])
    started_s = time.process_time()
    stages = [
        _run_stage(recipe, stage_index, task, splits, where) for stage_index in range(len(recipe.stages))
    ]
    network = task.finish(splits["train"], splits["validation"]).eval()
    training = _described(recipe, simulated) | {
        "stages": stages,
        "events": {name: len(data) for name, data in splits.items()},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "cpu_s": round(time.process_time() - started_s, 1),
        "events_per_s": round(events_per_s(task, network, splits["test"]), 1),
        "command": f"streamer train {recipe.name} --out {where.out.name}",
    }
    where.console.print("scoring ...")
    scored = {
        name: task.score(network, splits["train"], data)
        for name, data in splits.items()
        if name not in UNSEEN
    }
    manifest = _manifest(recipe, task, scored, training | {"input_dtype": _dtype(splits["test"].inputs)})
    golden = golden_events(task, network, splits["test"])
    written = save_bundle(where.out, manifest, (task.preprocess, network), golden, model_card)
    for index in range(len(recipe.stages)):
        _checkpoint(recipe, index, splits, where).remove()
    return written


def _run_stage(recipe: Recipe, index: int, task: Task, splits: Splits, where: Where) -> dict[str, Any]:
    stage, pair = recipe.stages[index], (splits["train"], splits["validation"])
    task.begin(stage, splits["train"])
    progress = descent.fit(
        task,
        stage,
        pair,
        recipe.seed + index,
        where.hardware,
        lambda epoch: where.console.print(_line(epoch)),
        _checkpoint(recipe, index, splits, where),
    )
    history = [[round(a, 5), round(b, 5)] for a, b in progress.history]
    return asdict(stage) | {
        "epochs_run": progress.epoch,
        "best_epoch": progress.best_epoch,
        "history": history,
    }


def _checkpoint(recipe: Recipe, index: int, splits: Splits, where: Where) -> Checkpoint:
    described = {"recipe": asdict(recipe), "events": {name: len(data) for name, data in splits.items()}}
    path = where.out / STATE_FOLDER / f"{index}-{recipe.stages[index].name}.safetensors"
    return Checkpoint(path, described | {"bfloat16": where.hardware.bfloat16})


def _line(epoch: Epoch) -> str:
    losses = f"train {epoch.train_loss:.4f}  validation {epoch.validation_loss:.4f}"
    return f"{epoch.stage} epoch {epoch.number:3d}  {losses}"


def _described(recipe: Recipe, simulated: bool) -> dict[str, Any]:
    """What of the recipe goes into `training`; the data only if they can be simulated again."""
    table = asdict(recipe)
    kept = ["task", "seed", "extra", "about", "origin", "limits"] + (["data"] if simulated else [])
    return {"recipe": recipe.name} | {name: table[name] for name in kept}


def _dtype(inputs: Tensor) -> str:
    name = str(inputs.dtype).removeprefix("torch.")
    if name not in INPUT_DTYPES:
        raise ModelError(f"events: expected one of {INPUT_DTYPES}, got {name}; convert the file")
    return name


def _manifest(recipe: Recipe, task: Task, scored: dict[str, Any], training: dict[str, Any]) -> Manifest:
    return Manifest(
        name=recipe.name,
        kind=task.kind,
        architecture=recipe.architecture,
        options=dict(task.options),
        input_shape=task.preprocess.input_shape,
        input_dtype=training.pop("input_dtype"),
        preprocess=dict(task.preprocess.spec),
        columns=task.columns,
        scores=scored,
        training=training,
        weights_sha256="",
        golden_sha256="",
        created=date.today().isoformat(),
    )


def events_per_s(task: Task, network: nn.Module, data: DataSet) -> float:
    """Best rate of preprocessing and network over a few batches, float32, one thread."""
    raw = data.take(torch.arange(SPEED_EVENTS) % len(data)).inputs
    threads, best_s = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)
    with torch.inference_mode():
        for _ in range(SPEED_TRIALS + 1):  # the first warms up
            begun_s = time.perf_counter()
            network(task.preprocess(raw))
            best_s = min(best_s, time.perf_counter() - begun_s)
    torch.set_num_threads(threads)
    return SPEED_EVENTS / best_s


def golden_events(task: Task, network: nn.Module, data: DataSet) -> Tensor:
    """A few raw events whose integer columns bfloat16 does not change: none lies on a threshold."""
    pool = data.take(torch.arange(min(256, len(data))))
    exact = torch.from_numpy(answers(task.preprocess, network, pool))
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.from_numpy(answers(task.preprocess, network, pool))
    whole = torch.cat([torch.full((c.width,), c.dtype != "float32") for c in task.columns])
    stable = (exact[:, whole] == rough[:, whole]).all(1).nonzero()[:, 0]
    if not len(stable):
        raise ModelError(
            f"golden events: none of {len(pool)} held-out events keeps its class in bfloat16; the network "
            "decides nothing: train it longer, or look at the scores"
        )
    return pool.take(stable[:GOLDEN_EVENTS]).inputs


def simulated_splits(recipe: Recipe, folder: Path, console: Console) -> dict[str, DataSet]:
    """All splits of the recipe, from the cache or made now."""
    with Progress(console=console, transient=True) as progress:
        names = split_names(recipe.data)
        return {name: load_split(recipe, name, folder, _bar(progress, name, recipe)) for name in names}


def _bar(progress: Progress, name: str, recipe: Recipe) -> Callable[[int], None]:
    data = recipe.data
    total = {"train": data.train, "validation": data.validation}.get(name, data.test)
    bar = progress.add_task(f"events: {name}", total=total)
    return lambda done: progress.update(bar, completed=done)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streamer train", description="Train a recipe into a bundle.")
    parser.add_argument("recipe", choices=tuple(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle; state while training")
    parser.add_argument("--threads", type=int, default=1, help="1: the seed decides every bit of the weights")
    parser.add_argument("--seed", type=int, help="in place of the recipe's, 0 to 99999")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of matrix products; auto: bfloat16 on CUDA",
    )
    parser.add_argument(
        "--cache", type=Path, default=cache_folder(), help="folder that keeps simulated events"
    )
    parser.add_argument(
        "--data", type=Path, help="file or folder of own events in place of the recipe's simulated ones"
    )
    add_data_arguments(parser)
    return parser


def _splits(chosen: Recipe, options: argparse.Namespace, console: Console) -> dict[str, DataSet]:
    if options.data is None:
        return simulated_splits(chosen, options.cache, console)
    kind = TASKS[chosen.task].kind
    classes = kind in ("classifier", "phases")
    wanted = Wanted(labelled=kind != "vae_mixture", classes=classes, exclusive=kind == "phases")
    return split(load_files(data_from(options.data, options), wanted), chosen.seed)


def _hardware(options: argparse.Namespace) -> Hardware:
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"--device {name}: expected a CUDA device, torch sees none; use --device cpu")
    automatic = options.precision == "auto" and name.startswith("cuda")
    return Hardware(torch.device(name), automatic or options.precision == "bfloat16")


def _chosen(options: argparse.Namespace) -> Recipe:
    chosen = recipe(options.recipe)
    if options.seed is None:
        return chosen
    if not 0 <= options.seed < 100_000:
        raise ModelError(f"--seed: expected 0 to 99999, got {options.seed}; the splits add to it")
    return replace(chosen, seed=options.seed)


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if a recipe or its data is unusable."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    console = Console()
    try:
        chosen = _chosen(options)
        where = Where(options.out, _hardware(options), console)
        manifest = train_bundle(chosen, _splits(chosen, options, console), where, options.data is None)
    except ModelError as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        return 1
    console.print_json(data=manifest.scores)
    console.print(f"bundle: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
