"""EDNN, NNCA and ECA side by side on the same events, for one, two and three latent numbers.

    python -m models.compare_structure --out FILE.json

Owns the comparison: the emulators' covered variance of spectra of held-out geometries (structure -> latent ->
spectrum) beside that of a network on principal components and of partial least squares; how much of the
structure their vectors cover; the structures got back from noisy spectra; and the batched inverse beside the
published one. Every network has the same widths, events, epochs and early stopping.

k latent, N events.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from models.command import set_threads
from models.data_sets.data_set import DataSet
from models.data_sets.splits import OFFSETS, cache_folder, load_split
from models.fit import fit
from models.manifest import ModelError
from models.networks.nnca import NNCA
from models.networks.spectrum_inverse import SpectrumInverse, adam_inverse
from models.recipes import structure
from models.recipes.recipe import Recipe, Stage
from models.structure_scores import principal_axes, z_scored
from models.tasks.structure import InverseTask, StructureTask
from models.tasks.task import answers, rounded

LATENT: Final = (1, 2, 3)
TIMED_EVENTS: Final = 64  # spectra for the published inverse: about a second each at worst


@dataclass(frozen=True)
class Effort:
    """events: share of the recipes' events; epochs: at most so many. Below 1 and 120 only to try it out."""

    events: float = 1.0
    epochs: int = 120


@dataclass(frozen=True)
class Bench:
    """What all comparisons share."""

    effort: Effort
    cache: Path
    console: Console


@dataclass(frozen=True)
class Trial:
    """A trained network with its events and its scores on the held-out ones."""

    task: StructureTask | InverseTask
    network: torch.nn.Module
    splits: dict[str, DataSet]
    scores: dict[str, Any]


Kind = type[StructureTask] | type[InverseTask]


class PrincipalTask(StructureTask):
    """An NNCA whose vectors are the principal axes of the standardised structures, and stay them."""

    def begin(self, stage: Stage, train: DataSet) -> None:
        super().begin(stage, train)
        if not isinstance(self.module, NNCA):
            raise ModelError("principal components: expected the architecture nnca; correct the recipe")
        self.module.release()
        x = self.preprocess(train.inputs).flatten(1).double().numpy()
        axes = torch.from_numpy(principal_axes(z_scored(x, x), len(self.module.vectors)))
        with torch.no_grad():
            self.module.encoder.weight.copy_(axes)
        self.module.encoder.weight.requires_grad_(False)


def compare(bench: Bench) -> dict[str, Any]:
    """All of it, by the name of the question and then by k."""
    emulation, inversion = _emulation(bench), _inversion(bench)
    whole = {k: {name: trial.scores for name, trial in row.items()} for k, row in emulation.items()}
    back = {k: {name: trial.scores for name, trial in row.items()} for k, row in inversion.items()}
    return {
        "covered_variance": _picked(whole, "covered_variance", pls="baseline_pls_covered_variance"),
        "covered_structure_variance": _picked(whole, "covered_structure_variance"),
        "inversion_covered_variance": _picked(back, "covered_variance", pls="baseline_pls_covered_variance"),
        "inversion_mean_absolute_error": _picked(back, "mean_absolute_error"),
        "inverse": _inverses(inversion[LATENT[-1]]["eca"]),
    }


def _emulation(bench: Bench) -> dict[int, dict[str, Trial]]:
    found = {
        "ednn": _each(StructureTask, structure.water_ednn_emulator(), bench),
        "nnca": _each(StructureTask, structure.water_nnca_emulator(), bench),
        "eca": _nested(StructureTask, structure.water_eca_emulator(), bench),
        "pca_network": _each(PrincipalTask, structure.water_nnca_emulator(), bench),
    }
    return {k: {name: trials[k] for name, trials in found.items()} for k in LATENT}


def _inversion(bench: Bench) -> dict[int, dict[str, Trial]]:
    found = {
        "ednn": _each(StructureTask, structure.water_ednn(), bench),
        "nnca": _each(InverseTask, structure.water_nnca(), bench),
        "eca": _nested(InverseTask, structure.water_eca(), bench),
    }
    return {k: {name: trials[k] for name, trials in found.items()} for k in LATENT}


def _each(kind: Kind, recipe: Recipe, bench: Bench) -> dict[int, Trial]:
    """A training for each k."""
    return {k: _judged(*_trained(kind, _sized(recipe, k, bench.effort), bench.cache), bench) for k in LATENT}


def _nested(kind: Kind, recipe: Recipe, bench: Bench) -> dict[int, Trial]:
    """ECA finds its vectors one after another on one emulator: those of the largest k hold all others."""
    widest, _, splits = _trained(kind, _sized(recipe, LATENT[-1], bench.effort), bench.cache)
    state, trials = widest.module.state_dict(), {}
    for k in LATENT:
        task = kind(_sized(recipe, k, bench.effort), splits["train"])
        task.module.load_state_dict({**state, "directions": state["directions"][:k]})
        trials[k] = _judged(task, task.ship(splits["train"]).eval(), splits, bench)
    return trials


def _trained(
    kind: Kind, recipe: Recipe, cache: Path
) -> tuple[StructureTask | InverseTask, torch.nn.Module, dict[str, DataSet]]:
    splits = {name: load_split(recipe, name, cache) for name in OFFSETS}
    torch.manual_seed(recipe.seed)
    task, stage = kind(recipe, splits["train"]), recipe.stages[0]
    task.begin(stage, splits["train"])
    fit(task, stage, (splits["train"], splits["validation"]), recipe.seed)
    return task, task.finish(splits["train"], splits["validation"]).eval(), splits


def _judged(
    task: StructureTask | InverseTask, network: torch.nn.Module, splits: dict[str, DataSet], bench: Bench
) -> Trial:
    found = task.score(network, splits["train"], splits["test"])
    name = f"{type(task).__name__} {type(task.module).__name__}, k = {task.options['latent']}"
    bench.console.print(f"{name}: covered variance {found['covered_variance']}")
    return Trial(task, network, splits, found)


def _sized(recipe: Recipe, k: int, effort: Effort) -> Recipe:
    data = recipe.data
    sizes = (max(32, int(n * effort.events)) for n in (data.train, data.validation, data.test))
    train, validation, test = sizes
    stage = replace(recipe.stages[0], epochs=min(recipe.stages[0].epochs, effort.epochs))
    return replace(
        recipe,
        options={**recipe.options, "latent": k},
        data=replace(data, train=train, validation=validation, test=test),
        stages=(stage,),
    )


def _inverses(trial: Trial) -> dict[str, Any]:
    """Mean squared misfit of the spectra and seconds per spectrum: the batched inverse, and Adam."""
    task, network, test = trial.task, trial.network, trial.splits["test"]
    if not isinstance(network, SpectrumInverse):
        raise ModelError("inverse: expected a task that ships one; correct the recipe")
    few = test.take(torch.arange(min(TIMED_EVENTS, len(test))))
    answers(task.preprocess, network, few)  # warms up
    begun_s = time.perf_counter()
    batched = torch.from_numpy(answers(task.preprocess, network, few)[:, : task.options["latent"]])
    middle_s = time.perf_counter()
    wanted = network.scaled(task.preprocess(few.inputs).flatten(1))
    single = torch.stack([adam_inverse(network.emulator, spectrum) for spectrum in wanted])
    ended_s = time.perf_counter()
    times_s = {"batched": middle_s - begun_s, "adam": ended_s - middle_s}
    places = {"batched": batched, "adam": single}
    return {name: _inverse_row(network, (places[name], wanted, few), times_s[name]) for name in places}


def _inverse_row(
    network: SpectrumInverse, what: tuple[torch.Tensor, torch.Tensor, DataSet], time_s: float
) -> dict[str, float]:
    place, wanted, few = what
    with torch.no_grad():
        misfit = (network.emulator.decode_scaled(place) - wanted).square().mean()
        error = (network.emulator.expand(place) - few.targets).abs().mean(0)
    errors = {f"mean_absolute_error_{n}": rounded(e) for n, e in zip(few.target_names, error, strict=True)}
    return {"misfit": rounded(misfit), "s_per_spectrum": rounded(time_s / len(few)), **errors}


def _picked(found: dict[int, dict[str, Any]], score: str, **beside: str) -> dict[str, dict[str, Any]]:
    """One score of all methods by k; `beside`: further columns, each a score of the first method."""
    result = {}
    for k, row in found.items():
        result[str(k)] = {name: scores[score] for name, scores in row.items() if score in scores}
        result[str(k)] |= {name: row["ednn"][other] for name, other in beside.items()}
    return result


def tables(result: dict[str, Any]) -> list[Table]:
    """One table for each score that has one number a method."""
    made = []
    for title in ("covered_variance", "covered_structure_variance", "inversion_covered_variance"):
        rows = result[title]
        table = Table("k", *rows[str(LATENT[0])], title=title.replace("_", " "))
        for k, row in rows.items():
            table.add_row(k, *(f"{value:.4f}" for value in row.values()))
        made.append(table)
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m models.compare_structure", description="Compare EDNN, NNCA and ECA on water."
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file for all scores")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="keeps simulated events")
    parser.add_argument("--events", type=float, default=1.0, help="share of the recipes' events")
    parser.add_argument("--epochs", type=int, default=120, help="at most")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    console = Console()
    try:
        set_threads(options.threads)
        result = compare(Bench(Effort(options.events, options.epochs), options.cache, console))
    except ModelError as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for table in tables(result):
        console.print(table)
    console.print_json(data=result["inverse"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
