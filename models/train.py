"""Train a recipe into a bundle: `streamer train RECIPE --out DIR`.

Owns the way from data to a written and verified bundle: splits, stages, scores. The descent is in
`models.fit`; what is special to one kind of model in `models.tasks`; what the bundle says of its training in
`models.provenance`, the options in `models.train_options`, the folder in `models.training_folder`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from models.checkpoint import Checkpoint, data_sha256, writing
from models.command import base_name, set_threads, typed
from models.data_sets.data_set import DataSet
from models.data_sets.files import Wanted, data_from, load_files
from models.data_sets.hash_split import split
from models.data_sets.splits import load_split, split_names
from models.fit import Epoch, Hardware
from models.manifest import CLASS_KINDS, INPUT_DTYPES, Manifest, ModelError
from models.provenance import Made, described, files_record
from models.recipes.recipe import Recipe
from models.tasks.table import TASKS, make_task
from models.tasks.task import Task, answers
from models.train_options import bundle_name, chosen, hardware, parser, refuse_lost
from models.training_folder import STATE_FOLDER, has_state, locked, refuse_bundle

UNSEEN: Final = ("train", "validation")  # splits that are not scored
SPEED_EVENTS: Final = 32  # a batch as the stream has under load
SPEED_TRIALS: Final = 5
STOPPED: Final = 130  # exit status of a program that was ended with ^C

Splits = Mapping[str, DataSet]


@dataclass(frozen=True)
class Where:
    """Folders and hardware of one training."""

    out: Path
    hardware: Hardware
    console: Console


def train_bundle(recipe: Recipe, splits: Splits, where: Where, made: Made | None = None) -> Manifest:
    """Everything from events to a written and verified bundle.

    `splits`: train, validation, and those that are scored. Stopped and called again it goes on where it was.
    Raises ModelError.
    """
    made = made or Made(recipe.name, f"streamer train {recipe.name} --out {base_name(where.out)}")
    states = _checkpoints(recipe, splits, where)
    refuse_bundle(where.out, states)
    manifest = _train(recipe, splits, where, (made, states))
    for state in states:
        state.remove()
    return manifest


def _train(recipe: Recipe, splits: Splits, where: Where, made: tuple[Made, Sequence[Checkpoint]]) -> Manifest:
    torch.manual_seed(recipe.seed)
    task, (asked, states) = make_task(recipe, splits["train"]), made
    stages = [_run_stage(recipe, state, task, splits, where) for state in enumerate(states)]
    network = task.finish(splits["train"], splits["validation"]).eval()
    training = described(recipe, asked, splits["train"]) | {
        "stages": stages,
        "events": {name: len(data) for name, data in splits.items()},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "cpu_s": round(time.process_time() - states[0].begun_s, 1),
        "events_per_s": round(events_per_s(task, network, splits["test"]), 1),
    }
    where.console.print("scoring ...")
    scored = {
        name: task.score(network, splits["train"], data)
        for name, data in splits.items()
        if name not in UNSEEN
    }
    named = (asked.name, recipe.architecture, _dtype(splits["test"].inputs))
    manifest = _manifest(named, task, scored, training)
    golden = golden_events(task, network, splits["test"])
    with writing(where.out):
        return save_bundle(where.out, manifest, (task.preprocess, network), golden, model_card)


def _run_stage(
    recipe: Recipe, state: tuple[int, Checkpoint], task: Task, splits: Splits, where: Where
) -> dict[str, Any]:
    index, checkpoint = state
    stage, pair = recipe.stages[index], (splits["train"], splits["validation"])
    task.begin(stage, splits["train"])
    progress = descent.fit(
        task,
        stage,
        pair,
        recipe.seed + index,
        where.hardware,
        lambda epoch: where.console.print(_line(epoch)),
        checkpoint,
    )
    history = [[round(a, 5), round(b, 5)] for a, b in progress.history]
    return asdict(stage) | {
        "epochs_run": progress.epoch,
        "best_epoch": progress.best_epoch,
        "history": history,
    }


def _checkpoints(recipe: Recipe, splits: Splits, where: Where) -> list[Checkpoint]:
    """The state of each stage. Raises ModelError if one is there that another training left."""
    folder = where.out / STATE_FOLDER
    made_by = {
        "recipe": asdict(recipe),
        "events": {name: len(data) for name, data in splits.items()},
        "data_sha256": data_sha256([splits[name] for name in UNSEEN]),
        "bfloat16": where.hardware.bfloat16,
    }
    paths = [folder / f"{index}-{stage.name}.safetensors" for index, stage in enumerate(recipe.stages)]
    found = [Checkpoint(path, made_by).read() for path in paths]
    before_s = max((state[1].get("cpu_s", 0.0) for state in found if state is not None), default=0.0)
    return [Checkpoint(path, made_by, time.process_time() - before_s) for path in paths]


def _line(epoch: Epoch) -> str:
    losses = f"train {epoch.train_loss:.4f}  validation {epoch.validation_loss:.4f}"
    return f"{epoch.stage} epoch {epoch.number:3d}  {losses}"


def _dtype(inputs: Tensor) -> str:
    name = str(inputs.dtype).removeprefix("torch.")
    if name not in INPUT_DTYPES:
        raise ModelError(f"events: expected one of {INPUT_DTYPES}, got {name}; convert the file")
    return name


def _manifest(
    named: tuple[str, str, str], task: Task, scored: dict[str, Any], training: dict[str, Any]
) -> Manifest:
    """`named`: bundle, architecture, type of the raw numbers."""
    name, architecture, dtype = named
    return Manifest(
        name=name,
        kind=task.kind,
        architecture=architecture,
        options=dict(task.options),
        input_shape=task.preprocess.input_shape,
        input_dtype=dtype,
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


def _events(
    recipe: Recipe, options: argparse.Namespace, console: Console
) -> tuple[dict[str, DataSet], dict[str, Any] | None]:
    """The splits, and where they came from if from files."""
    if options.data is None:
        return simulated_splits(recipe, options.cache, console), None
    kind = TASKS[recipe.task].kind
    classes, exclusive = kind in CLASS_KINDS, kind == "phases"
    wanted = Wanted(labelled=kind != "vae_mixture", classes=classes, exclusive=exclusive)
    data = data_from(options.data, options)
    events = load_files(data, wanted)
    return split(events, recipe.seed), files_record(data, events)


def _run(options: argparse.Namespace, given: Sequence[str], console: Console) -> Manifest:
    set_threads(options.threads)
    refuse_lost(options)
    recipe = chosen(options)
    name, where = bundle_name(recipe, options), Where(options.out, hardware(options), console)
    refuse_bundle(options.out)
    command = typed("streamer train", given, (options.out, options.cache, options.data, options.labels))
    with locked(options.out):
        splits, files = _events(recipe, options, console)
        return train_bundle(recipe, splits, where, Made(name, command, files))


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if a recipe or its data is unusable."""
    given = sys.argv[1:] if arguments is None else arguments
    options, console, errors = parser().parse_args(given), Console(), Console(stderr=True, soft_wrap=True)
    try:
        manifest = _run(options, given, console)
    except ModelError as error:
        errors.print(str(error), markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        saved = has_state(options.out)
        way = "goes on from the last saved epoch" if saved else "begins anew, as no epoch was saved"
        errors.print(f"stopped; the same command {way}", highlight=False)
        return STOPPED
    console.print_json(data=manifest.scores)
    console.print(f"bundle: {options.out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
