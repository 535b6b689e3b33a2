"""Blocks of results as the tables that notebooks use: arrays, a pandas DataFrame, an xarray Dataset.

Owns how columns become one table. Takes no sockets and imports neither pandas nor xarray until one is asked
for. Values stay exact: no number changes its type, and the codes of verdict, route and reason become words.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from streamer.results import Array, Block
from streamer.routing import KEEP, REASONS, VETO

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]  # ships no types
    import xarray as xr

IDS: Final = ("train_id", "pulse_id")
VERDICTS: Final = {VETO: "veto", KEEP: "keep"}
UNKNOWN: Final = "?"  # a code for which this release has no word; no route can be called so
NONE: Final = -1  # the code of no word at all, to pandas as well
# Elements of one event that become columns of their own; a wider column is an image, for to_dataset.
MAX_ELEMENTS: Final = 4096

Words: TypeAlias = Callable[[Block], tuple[str, ...]]  # by code 0, 1, ...

# Columns of codes. A code below 0 stands for none, such as the route of a vetoed event.
_WORDS: Final[dict[str, Words]] = {
    "verdict": lambda _: (VERDICTS[0], VERDICTS[1]),
    "route": lambda block: block.route_names,
    "reason": lambda _: REASONS,
}


def arrays(blocks: Sequence[Block], n_events: int) -> dict[str, Array]:
    """The first n_events events by column, [n_events] or [n_events, width]; {} of no block.

    The blocks must have passed `check_alike`.
    """
    names = blocks[0].columns if blocks else ()
    return {name: np.concatenate([b.columns[name] for b in blocks])[:n_events] for name in names}


def check_alike(first: Block, now: Block) -> None:
    """Raises ValueError if two blocks cannot be rows of one table."""
    for what, before, after in _described(first, now):
        if before != after:
            raise ValueError(
                f"{what} changed from {before} to {after}; "
                "name one stream, or collect again after the change of model"
            )


def _described(first: Block, now: Block) -> Iterator[tuple[str, object, object]]:
    yield "columns", list(first.columns), list(now.columns)
    yield "shapes", _shapes(first), _shapes(now)
    yield "labels", dict(first.header.labels), dict(now.header.labels)
    yield "routes", first.route_names, now.route_names


def _shapes(block: Block) -> dict[str, tuple[int, ...]]:
    return {name: column.shape[1:] for name, column in block.columns.items()}


# Words


def words(name: str, codes: Array, block: Block) -> tuple[Array, list[str]] | None:
    """Codes and their words of verdict, route or reason: word = words[code], NONE where it is below 0.

    None for a column that holds no codes. A code without a word becomes that of UNKNOWN.
    """
    if name not in _WORDS or codes.ndim != 1 or codes.dtype.kind not in "iu":
        return None
    known = list(_WORDS[name](block))
    if len(set(known)) != len(known):
        raise ValueError(f"the words of column {name!r} repeat: {known}; the sender is not one of ours")
    signed = np.maximum(codes.astype(np.int64), NONE)
    beyond = codes >= len(known)
    if beyond.any():
        known.append(UNKNOWN)
        signed[beyond] = len(known) - 1
    return signed, known


def attributes(blocks: Sequence[Block]) -> dict[str, Any]:
    """Where the events come from: run, stream, and every bundle and set of rules that answered, in order."""
    if not blocks:
        return {}
    bundles = chain.from_iterable(block.header.bundles for block in blocks)
    return {
        "run": blocks[0].header.run,
        "stream": blocks[0].stream,
        "bundles": list(dict.fromkeys(f"{bundle.name} {bundle.sha256}" for bundle in bundles)),
        "rules_sha256": list(dict.fromkeys(block.header.rules_sha256 for block in blocks)),
        "routes": list(blocks[0].route_names),
    }


# pandas


def dataframe(blocks: Sequence[Block], n_events: int) -> "pd.DataFrame":
    """One row per event, indexed by train_id and pulse_id (uint64).

    An element of a vector column is a column of its own: `p.Streak`, or `mu.0` where there are no labels.
    verdict, route and reason are categories of words; an event without a route has none. `attrs` has the run,
    the stream, the bundles and the hashes of the rules. ImportError without pandas, ValueError as `arrays`.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise _missing("to_dataframe", "pandas") from error
    table = arrays(blocks, n_events)
    empty = np.empty(0, np.uint64)
    index = pd.MultiIndex.from_arrays([table.pop(name, empty) for name in IDS], names=IDS)
    columns: dict[str, Any] = {}
    for name, values in table.items():
        for label, element in _elements(name, values, blocks[0].header.labels.get(name)):
            if label in columns:
                raise ValueError(f"two columns would be called {label!r}; use to_dataset or to_arrays")
            coded = words(name, element, blocks[0])
            columns[label] = element if coded is None else pd.Categorical.from_codes(*coded)
    frame = pd.DataFrame(columns, index=index)
    frame.attrs = attributes(blocks)
    return frame


def _elements(name: str, values: Array, labels: Sequence[str] | None) -> Iterator[tuple[str, Array]]:
    """The scalar columns [n] of one column, with their names."""
    if values.ndim == 1:
        yield name, values
        return
    if (count := int(np.prod(values.shape[1:]))) > MAX_ELEMENTS:
        raise ValueError(
            f"column {name!r} has {count} numbers per event, at most {MAX_ELEMENTS} become columns; "
            "use to_dataset"
        )
    for place in np.ndindex(*values.shape[1:]):
        label = labels[place[0]] if labels else ".".join(map(str, place))
        yield f"{name}.{label}", values[(slice(None), *place)]


# xarray


def dataset(blocks: Sequence[Block], n_events: int) -> "xr.Dataset":
    """Dimension `event` with the coordinates train_id and pulse_id; a variable for every other column.

    A vector column has a dimension of its own, such as `p_label`, whose coordinate holds the labels where
    there are some. verdict, route and reason are words; '' is an event without a route. Attributes as in
    `dataframe`. ImportError without xarray, ValueError as `arrays`.
    """
    try:
        import xarray as xr
    except ImportError as error:
        raise _missing("to_dataset", "xarray") from error
    table = arrays(blocks, n_events)
    coordinates: dict[str, Any] = {name: ("event", table.pop(name, np.empty(0, np.uint64))) for name in IDS}
    variables: dict[str, Any] = {}
    for name, values in table.items():
        coded = words(name, values, blocks[0])
        dimensions = ("event", *_dimensions(name, values.ndim - 1))
        variables[name] = (dimensions, values if coded is None else np.array([*coded[1], ""])[coded[0]])
        if labels := blocks[0].header.labels.get(name):
            coordinates[dimensions[1]] = (dimensions[1], np.array(labels))
    return xr.Dataset(variables, coordinates, attributes(blocks))


def _dimensions(name: str, count: int) -> list[str]:
    return [f"{name}_label"] if count == 1 else [f"{name}_{axis}" for axis in range(count)]


def _missing(method: str, package: str) -> ImportError:
    return ImportError(
        f"{method} needs {package}, which is not installed here: pip install {package}, or the extra "
        "`notebook`; to_arrays needs neither",
        name=package,
    )
