"""The table of recipes: every name that `streamer train` takes."""

from collections.abc import Callable, Mapping
from typing import Final

from models.manifest import ModelError
from models.recipes import clusters, droplets, spectra, structure
from models.recipes.recipe import Recipe

_ALL = (*droplets.RECIPES, *clusters.RECIPES, *structure.RECIPES, *spectra.RECIPES)
RECIPES: Final[Mapping[str, Callable[[], Recipe]]] = {function.__name__: function for function in _ALL}


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises ModelError with the names there are."""
    if name not in RECIPES:
        raise ModelError(f"recipe: expected one of {tuple(RECIPES)}, got {name!r}; add it to models/recipes")
    return RECIPES[name]()
