"""Every recipe names what there is, and is what its name says."""

import json
from dataclasses import asdict

import pytest

from models.architectures import ARCHITECTURES
from models.data_sets.simulated import SIMULATED
from models.data_sets.splits import OFFSETS
from models.manifest import KINDS, check_name
from models.recipes.table import RECIPES
from models.simulation.bank import HELD_OUT_SEED
from models.tasks.table import TASKS


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_names_what_there_is(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    check_name(recipe.name, "recipe")
    assert recipe.task in TASKS
    assert recipe.architecture in ARCHITECTURES
    assert recipe.data.source in SIMULATED
    assert recipe.stages
    assert len({stage.name for stage in recipe.stages}) == len(recipe.stages)
    assert json.loads(json.dumps(asdict(recipe)))["seed"] == recipe.seed, "it goes into a manifest"


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_says_for_people_what_it_is(name: str) -> None:
    recipe = RECIPES[name]()
    assert RECIPES[name].__doc__
    assert all(text.strip() for text in (recipe.about, recipe.origin, recipe.limits))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_no_seed_of_a_split_is_another_ones(name: str) -> None:
    recipe = RECIPES[name]()
    further = len(SIMULATED[recipe.data.source].also)
    assert 0 <= recipe.seed < OFFSETS["validation"]
    assert recipe.seed + 300_000 + 100_000 * further <= HELD_OUT_SEED


def test_every_task_is_of_a_kind() -> None:
    assert {task.kind for task in TASKS.values()} == set(KINDS)


def test_every_architecture_and_source_has_a_recipe() -> None:
    recipes = [function() for function in RECIPES.values()]
    assert {recipe.data.source for recipe in recipes} == set(SIMULATED)
    assert {recipe.architecture for recipe in recipes} == set(ARCHITECTURES)
