"""How good a classifier gets with how many events, and with how few photons: python -m models.study RECIPE.

Two axes of Zimmermann et al. (PRE 99, 063309, 2019; julian-carpenter/airynet @7ad87bb names them `fraction`
and `add_noise`): macro-F1 against the number of training events, and against the photons of the held-out
images, for the shipped network and for one trained on faint images alone. Every size gets the same number of
steps, so that the curve shows the data and not the length of the training; a fifth as many events choose
epoch and thresholds. Writes one JSON file, part after part, and, if asked, a picture; parts left out are kept
from earlier runs.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from torch import nn

from models.bundle import Bundle, load_bundle
from models.command import set_threads
from models.data_sets.data_set import DataSet
from models.data_sets.splits import cache_folder, load_split
from models.fit import Hardware, fit
from models.manifest import ModelError
from models.recipes.recipe import Recipe
from models.recipes.table import RECIPES, recipe
from models.tasks.labels import LabelTask

SIZES: Final = (500, 1000, 2000, 4000, 6000)
PHOTONS: Final = (1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6)  # the simulation draws 1.5e4 to 3e6
VALIDATION_SHARE: Final = 5  # one validation event to so many training events
KEPT: Final = ("macro_f1", "macro_average_precision", "exact_match", "f1")


@dataclass(frozen=True)
class Lab:
    """What all parts of a study share. steps: of gradient descent; 0 as many as the recipe has."""

    recipe: Recipe
    cache: Path
    hardware: Hardware
    console: Console
    steps: int = 0

    @property
    def all_steps(self) -> int:
        """Of each training."""
        stage = self.recipe.stages[0]
        return self.steps or stage.epochs * max(1, self.recipe.data.train // stage.batch)

    def events(self, split: str, **options: Any) -> DataSet:
        """A split of the recipe's data, with other options of the simulation."""
        data = replace(self.recipe.data, options={**self.recipe.data.options, **options})
        return load_split(replace(self.recipe, data=data), split, self.cache)


def size_curve(lab: Lab, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Scores of networks trained on the first n events, on the whole test set. Raises ModelError."""
    train, validation, test = (lab.events(split) for split in ("train", "validation", "test"))
    if bad := [n for n in sizes if not 10 <= n <= len(train)]:
        raise ModelError(f"--sizes: expected 10 to {len(train)} training events, got {bad}; leave those out")
    rows = []
    for n in sizes:
        pair = (_first(train, n), _first(validation, max(2, n // VALIDATION_SHARE)))
        task, network = trained(lab, pair)
        rows.append({"events": n, **_kept(task.score(network, pair[0], test))})
        lab.console.print(f"{n} events: macro-F1 {rows[-1]['macro_f1']:.3f}")
    return rows


def noise_curve(lab: Lab, photons: Sequence[float], shipped: nn.Module) -> list[dict[str, Any]]:
    """Scores of the shipped network on the test set, exposed with as many photons in every image."""
    train = lab.events("train")
    task = LabelTask(lab.recipe, train)
    rows = []
    for count in photons:
        scores = task.score(shipped, train, lab.events("test", photons=[count, count]))
        rows.append({"photons": count, **_kept(scores)})
        lab.console.print(f"{count:.0e} photons: macro-F1 {rows[-1]['macro_f1']:.3f}")
    return rows


def faint_curve(lab: Lab, photons: Sequence[float], trained_at: float, events: int) -> list[dict[str, Any]]:
    """The same for a network trained on `events` images of `trained_at` photons each."""
    data = replace(lab.recipe.data, train=events, validation=max(2, events // VALIDATION_SHARE))
    faint = replace(lab, recipe=replace(lab.recipe, data=data), steps=lab.all_steps)
    _, network = trained(
        faint,
        (
            faint.events("train", photons=[trained_at] * 2),
            faint.events("validation", photons=[trained_at] * 2),
        ),
    )
    return noise_curve(lab, photons, network)


def trained(lab: Lab, pair: tuple[DataSet, DataSet]) -> tuple[LabelTask, nn.Module]:
    """One training on (train, validation) with the lab's number of steps; the best epoch is kept."""
    torch.manual_seed(lab.recipe.seed)
    stage = lab.recipe.stages[0]
    epochs = max(1, round(lab.all_steps / -(-len(pair[0]) // stage.batch)))
    task = LabelTask(lab.recipe, pair[0])
    fit(task, replace(stage, epochs=epochs, patience=epochs), pair, lab.recipe.seed, lab.hardware)
    return task, task.finish(*pair).eval()


def _first(data: DataSet, n: int) -> DataSet:
    return data.take(torch.arange(min(n, len(data))))


def _kept(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: scores[name] for name in KEPT}


def draw(study: Mapping[str, Any], path: Path) -> None:
    """Both curves as one PNG. Raises ModelError without matplotlib."""
    try:
        from matplotlib.figure import Figure  # only a picture needs it
    except ImportError as error:
        raise ModelError(
            "--picture: expected matplotlib, it is not installed; pip install -c constraints.txt '.[train]'"
        ) from error
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    sizes = study.get("sizes", [])
    _curve(left, sizes, ("events", "o-", f"{study.get('size_steps', 0)} steps of descent each"))
    left.set_xticks([row["events"] for row in sizes], [f"{row['events']}" for row in sizes])
    left.minorticks_off()
    _curve(right, study.get("noise", []), ("photons", "o-", "trained on all photon numbers"))
    if study.get("faint"):
        label = f"trained on {study['faint_photons']:,.0f} photons"
        _curve(right, study["faint"], ("photons", "s--", label))
    left.set(xlabel="training images", ylabel="macro-F1 over the classes", ylim=(0, 1))
    right.set(xlabel="photons in each held-out image")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _curve(axes: Any, rows: Sequence[Mapping[str, Any]], form: tuple[str, str, str]) -> None:
    """One line: (name on the x axis, matplotlib format, label)."""
    axis, style, label = form
    axes.semilogx([row[axis] for row in rows], [row["macro_f1"] for row in rows], style, label=label)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.study", description="Macro-F1 against training events and photons."
    )
    parser.add_argument("recipe", choices=[n for n, make in RECIPES.items() if make().task == "labels"])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--bundle", type=Path, help="the shipped bundle, for the curve over photons")
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="training events, with commas; '': leave out"
    )
    parser.add_argument(
        "--photons", default=",".join(f"{p:.0e}" for p in PHOTONS), help="with commas; '': leave out"
    )
    parser.add_argument("--faint", type=float, default=0, help="train at this many photons too; 0: not")
    parser.add_argument("--faint-events", type=int, default=6000, help="training events for that")
    parser.add_argument("--steps", type=int, default=0, help="of each training; 0: as the recipe")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in half precision")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder of simulated events")
    return parser


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise ModelError(f"{option}: expected numbers with commas between, got {text!r}") from error


def _lab(options: argparse.Namespace, console: Console) -> Lab:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hardware = Hardware(device, options.bfloat16 or device.type == "cuda")
    return Lab(recipe(options.recipe), options.cache, hardware, console, options.steps)


def _shipped(options: argparse.Namespace) -> Bundle:
    if options.bundle is None:
        raise ModelError("--bundle: expected a bundle of the recipe, got none; name it, or give --photons ''")
    bundle = load_bundle(options.bundle)
    if bundle.manifest.training.get("recipe") != options.recipe:
        raise ModelError(
            f"--bundle {options.bundle}: expected one of recipe {options.recipe}, got "
            f"{bundle.manifest.training.get('recipe')!r}; train it with `streamer train {options.recipe}`"
        )
    return bundle


def _parts(options: argparse.Namespace, lab: Lab) -> Iterator[dict[str, Any]]:
    """The parts that were asked for, one after another."""
    sizes = [int(n) for n in _numbers(options.sizes, "--sizes")]
    photons = _numbers(options.photons, "--photons")
    bundle = _shipped(options) if photons else None
    about = {"recipe": options.recipe, "date": date.today().isoformat()}
    if sizes:
        yield about | {"size_steps": lab.all_steps, "sizes": size_curve(lab, sizes)}
    if bundle is not None:
        sha256 = bundle.manifest.sha256
        yield about | {"bundle_sha256": sha256, "noise": noise_curve(lab, photons, bundle.network)}
    if options.faint and photons:
        curve = faint_curve(lab, photons, options.faint, options.faint_events)
        yield {
            "faint_photons": options.faint,
            "faint_events": options.faint_events,
            "faint_steps": lab.all_steps,
            "faint": curve,
        }


def _earlier(path: Path) -> dict[str, Any]:
    try:
        study = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        study = error
    if not isinstance(study, dict):
        raise ModelError(f"--out {path}: expected a study or no file, got something else; delete it")
    return study


def _study(options: argparse.Namespace, console: Console) -> None:
    """Run the parts; each is in the file as soon as it is done, beside those of earlier runs."""
    path: Path = options.out
    study = _earlier(path)
    if study.get("recipe", options.recipe) != options.recipe:
        raise ModelError(f"--out {path}: a study of {study['recipe']!r}; choose another file or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in _parts(options, _lab(options, console)):
        study |= part
        path.write_text(json.dumps(study, indent=1) + "\n")
    if options.picture:
        draw(study, options.picture)


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr for what cannot be."""
    options = _parser().parse_args(arguments)
    try:
        set_threads(options.threads)
        _study(options, Console())
    except (ModelError, OSError) as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
