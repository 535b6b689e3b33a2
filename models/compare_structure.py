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
    """events: share of the recipes' events; epochs: at most so many. Below 1 and 200 only to try it out."""

    events: float = 1.0
    epochs: int = 200


@dataclass(frozen=True)
class Bench:
    """What all comparisons share."""

    effort: Effort
    cache: Path
    console: Console


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
    emulation = {str(k): _emulation(k, bench) for k in LATENT}
    inversion = {str(k): _inversion(k, bench) for k in LATENT}
    return {
        "covered_variance": {k: _picked(found, "covered_variance") for k, found in emulation.items()},
        "covered_structure_variance": {
            k: _picked(found, "covered_structure_variance") for k, found in emulation.items()
        },
        "inversion_covered_variance": {
            k: _picked(found, "covered_variance") for k, found in inversion.items()
        },
        "inversion_mean_absolute_error": {
            k: _picked(found, "mean_absolute_error") for k, found in inversion.items()
        },
        "inverse": _inverses(bench),
    }


def _emulation(k: int, bench: Bench) -> dict[str, dict[str, Any]]:
    found = {
        "ednn": _scores(StructureTask, structure.water_ednn_emulator(), k, bench),
        "nnca": _scores(StructureTask, structure.water_nnca_emulator(), k, bench),
        "eca": _scores(StructureTask, structure.water_eca_emulator(), k, bench),
        "pca_network": _scores(PrincipalTask, structure.water_nnca_emulator(), k, bench),
    }
    pls = found["ednn"]["baseline_pls_covered_variance"]
    return found | {"pls": {"covered_variance": pls}}


def _inversion(k: int, bench: Bench) -> dict[str, dict[str, Any]]:
    found = {
        "ednn": _scores(StructureTask, structure.water_ednn(), k, bench),
        "nnca": _scores(InverseTask, structure.water_nnca(), k, bench),
        "eca": _scores(InverseTask, structure.water_eca(), k, bench),
    }
    pls = found["ednn"]["baseline_pls_covered_variance"]
    return found | {"pls": {"covered_variance": pls}}


def _scores(
    kind: type[StructureTask] | type[InverseTask], recipe: Recipe, k: int, bench: Bench
) -> dict[str, Any]:
    task, network, splits = trained(kind, _sized(recipe, k, bench.effort), bench.cache)
    found = task.score(network, splits["train"], splits["test"])
    bench.console.print(f"{recipe.name}, k = {k}: covered variance {found['covered_variance']}")
    return found


def trained(
    kind: type[StructureTask] | type[InverseTask], recipe: Recipe, cache: Path
) -> tuple[StructureTask | InverseTask, torch.nn.Module, dict[str, DataSet]]:
    """The task, its network and the events it was made with."""
    splits = {name: load_split(recipe, name, cache) for name in OFFSETS}
    torch.manual_seed(recipe.seed)
    task, stage = kind(recipe, splits["train"]), recipe.stages[0]
    task.begin(stage, splits["train"])
    fit(task, stage, (splits["train"], splits["validation"]), recipe.seed)
    return task, task.finish(splits["train"], splits["validation"]).eval(), splits


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


def _inverses(bench: Bench) -> dict[str, Any]:
    """Mean squared misfit of the spectra and seconds per spectrum: the batched inverse, and Adam."""
    k = LATENT[-1]
    recipe = _sized(structure.water_eca(), k, bench.effort)
    task, network, splits = trained(InverseTask, recipe, bench.cache)
    if not isinstance(network, SpectrumInverse):
        raise ModelError("inverse: expected a task that ships one; correct the recipe")
    few = splits["test"].take(torch.arange(min(TIMED_EVENTS, len(splits["test"]))))
    begun_s = time.perf_counter()
    batched = torch.from_numpy(answers(task.preprocess, network, few)[:, :k])
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


def _picked(found: dict[str, dict[str, Any]], score: str) -> dict[str, Any]:
    return {name: scores[score] for name, scores in found.items() if score in scores}


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
    parser.add_argument("--epochs", type=int, default=200, help="at most")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console = Console()
    try:
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
