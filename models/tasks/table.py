"""The table of tasks: the only names a recipe may ask for."""

from collections.abc import Mapping
from typing import Final

from models.data_sets.data_set import DataSet
from models.manifest import ModelError
from models.recipes.recipe import Recipe
from models.tasks.clusters import ClusterTask
from models.tasks.labels import LabelTask
from models.tasks.phases import PhaseTask
from models.tasks.phases_few import FewLabelsTask
from models.tasks.structure import InverseTask, StructureTask
from models.tasks.task import Task

TASKS: Final[Mapping[str, type[Task]]] = {
    "labels": LabelTask,
    "phases": PhaseTask,
    "few_phases": FewLabelsTask,
    "clusters": ClusterTask,
    "structure": StructureTask,
    "structure_inverse": InverseTask,
}


def make_task(recipe: Recipe, train: DataSet) -> Task:
    """The recipe's task for these training events. Raises ModelError for a name not in the table."""
    if recipe.task not in TASKS:
        raise ModelError(
            f"task of recipe {recipe.name}: expected one of {tuple(TASKS)}, got {recipe.task!r}; "
            "add it to models/tasks/table.py"
        )
    task = TASKS[recipe.task]
    if unknown := sorted(set(recipe.extra) - task.extra_keys):
        raise ModelError(
            f"extra of recipe {recipe.name}: expected keys of {sorted(task.extra_keys)}, got {unknown}; "
            "correct the recipe"
        )
    return task(recipe, train)
