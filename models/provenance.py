"""What a manifest says of how its bundle came to be: from which data, by which command, for what.

Owns the words and their truth: what a recipe says of its simulated events is not said of a bundle that was
trained on other ones. The card (`models.card`) only shows it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from models.command import base_name
from models.data_sets.data_set import DataSet
from models.data_sets.files import FileData
from models.data_sets.hash_split import keys_sha256, named_by
from models.data_sets.simulated import simulated
from models.recipes.recipe import Recipe
from models.tasks.table import TASKS

_KEPT: Final = ("task", "seed", "extra", "origin")  # of the recipe, whatever it was trained on
# By kind of bundle, where events of files have other classes or numbers than the recipe simulates.
_ABOUT: Final = {
    "classifier": "Says which of {n} classes, which do not exclude each other, an event has: {names}.",
    "phases": "Says which one of {n} classes an event has: {names}.",
    "encoder_decoder": "Gives {n} numbers for an event: {names}.",
}
_CLUSTERS: Final = "Places an event among clusters found without labels, and says how usual that place is."


@dataclass(frozen=True)
class Made:
    """How a training was asked for. name: of the bundle; command: without paths of a machine; files: what the
    events came from (`files_record`), None for those that the recipe simulates.
    """

    name: str
    command: str
    files: Mapping[str, Any] | None = None


def files_record(data: FileData, events: DataSet) -> dict[str, Any]:
    """What of the user's files goes into a manifest; `events` are all of them, before the split."""
    where = data.where
    return {
        "data": base_name(where.path),
        "labels": base_name(data.labels) if data.labels else "",
        "dataset": where.dataset,
        "source": where.source,
        "key": where.key,
        "group": data.group,
        "named_by": named_by(events),
        "events": len(events),
        "ids_sha256": keys_sha256(events),
    }


def described(recipe: Recipe, made: Made, train: DataSet) -> dict[str, Any]:
    """The part of `training` that is known before training. `data` only if it can be simulated again."""
    table = asdict(recipe)
    record = {"recipe": recipe.name, "command": made.command} | {name: table[name] for name in _KEPT}
    if made.files is None:
        return record | {"about": recipe.about, "limits": recipe.limits, "data": table["data"]}
    about = _about(recipe, train.target_names)
    return record | {"about": about, "limits": _limits(made.files), "files": dict(made.files)}


def _about(recipe: Recipe, names: tuple[str, ...]) -> str:
    kind = TASKS[recipe.task].kind
    if kind not in _ABOUT:
        return _CLUSTERS
    if set(names) == set(simulated(recipe.data.source).target_names):
        return recipe.about
    return _ABOUT[kind].format(n=len(names), names=", ".join(names))


def _limits(files: Mapping[str, Any]) -> str:
    text = (
        f"Trained on the events of {files['data']} alone, and scored on others of them. Events of another "
        "sample, detector or beam time may be answered otherwise: score it on labelled ones first."
    )
    if files["named_by"] == "group":
        return text
    return f"{text} No group kept events that are alike in one split: if there are any, the scores flatter."
