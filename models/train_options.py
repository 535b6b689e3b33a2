"""The command line of `streamer train`: its options, and what is refused before an event is made.

Owns no training (`models.train`).
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import torch

from models.architectures import ARCHITECTURES
from models.command import base_name
from models.data_sets.files import add_data_arguments
from models.data_sets.simulated import simulated
from models.data_sets.splits import cache_folder
from models.fit import Hardware
from models.manifest import ModelError, check_name
from models.recipes.recipe import Recipe
from models.recipes.table import RECIPES, recipe
from models.tasks.table import TASKS


def parser() -> argparse.ArgumentParser:
    """The options; `--help` lists the recipes."""
    made = argparse.ArgumentParser(
        prog="streamer train",
        description="Train a recipe into a bundle. Stopped, the same command goes on where it was.",
        epilog=_recipes_listed(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("recipe", choices=tuple(RECIPES), metavar="RECIPE", help="one of those listed below")
    made.add_argument("--out", type=Path, required=True, help="folder of the bundle; state while training")
    made.add_argument("--name", help="of the bundle (default: the recipe's; with --data: that of --out)")
    made.add_argument("--threads", type=int, default=1, help="1: the seed decides every bit of the weights")
    made.add_argument("--seed", type=int, help="in place of the recipe's, 0 to 99999")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    made.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of matrix products; auto: bfloat16 on CUDA",
    )
    made.add_argument("--cache", type=Path, default=cache_folder(), help="folder that keeps simulated events")
    made.add_argument(
        "--data", type=Path, help="file or folder of own events in place of the recipe's simulated ones"
    )
    add_data_arguments(made)
    return made


def _recipes_listed() -> str:
    """A line for each recipe: its name, and the first line of its docstring."""
    width = max(map(len, RECIPES))
    first = {name: (make.__doc__ or "").partition("\n")[0] for name, make in RECIPES.items()}
    return "\n".join(["recipes:", *(f"  {name:{width}}  {line}" for name, line in first.items())])


def hardware(options: argparse.Namespace) -> Hardware:
    """What the options name, if it is there. Raises ModelError."""
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise ModelError(f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}; correct it")
    device, there = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= there:
        raise ModelError(f"--device {name}: expected a CUDA device, torch sees {there}; use --device cpu")
    automatic = options.precision == "auto" and device.type == "cuda"
    return Hardware(device, automatic or options.precision == "bfloat16")


def chosen(options: argparse.Namespace) -> Recipe:
    """The recipe, refused before a minute of simulation if a table does not hold what it names."""
    made = recipe(options.recipe)
    named = (("task", made.task, TASKS), ("architecture", made.architecture, ARCHITECTURES))
    for what, name, table in named:
        if name not in table:
            raise ModelError(
                f"recipe {made.name}: expected a {what} of {tuple(table)}, got {name!r}; correct it"
            )
    simulated(made.data.source)
    if options.seed is None:
        return made
    if not 0 <= options.seed < 100_000:
        raise ModelError(f"--seed: expected 0 to 99999, got {options.seed}; the splits add to it")
    return replace(made, seed=options.seed)


def bundle_name(made: Recipe, options: argparse.Namespace) -> str:
    """Of the bundle. Raises ModelError for one that a route cannot write."""
    if options.name is not None:
        check_name(options.name, "--name")
        return str(options.name)
    if options.data is None:
        return made.name
    check_name(base_name(options.out), f"--out {options.out}, for which --name may stand")
    return base_name(options.out)


def refuse_lost(options: argparse.Namespace) -> None:
    """Options that describe files do nothing without files: whoever gives them means other data."""
    names = ("labels", "dataset", "source", "key", "group", "labelled_only")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
    if options.data is None and given:
        raise ModelError(f"{', '.join(given)}: expected --data with the events, got none; name the file")
