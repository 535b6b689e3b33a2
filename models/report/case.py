"""What a report is about: a bundle, events, and the bundle's answers to them.

Owns the checks that both belong together, and the order of classes; the numbers come from
`models.report.measures`.

N events, L labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle import Bundle, run_bundle, unpack
from models.data_sets.data_set import DataSet
from models.manifest import HELD_OUT, Manifest, ModelError
from models.report.page import Section

Float = NDArray[np.float64]
BATCH: Final = 64  # as in the stream on a CPU: larger ones leave its cache
MIN_EVENTS: Final = 2  # of one event there is no spread, no rank and no curve


@dataclass(frozen=True)
class Case:
    """`columns`: the answers by column, [N] or [N, width]; `data` has targets if somebody told them.

    origin: the file's name, or "held-out" and the split, as `Calibrated.data` has it.
    """

    manifest: Manifest
    network: nn.Module
    data: DataSet
    columns: Mapping[str, Float]
    origin: str = ""

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The scores that the manifest records on these very events; none of a file's events."""
        return recorded_on(self.manifest, self.origin)

    @property
    def labelled(self) -> bool:
        """Whether the events came with targets."""
        return self.data.targets.ndim == 2 and self.data.targets.shape[1] > 0

    def raw(self, index: int) -> NDArray[Any]:
        """The raw event at `index`."""
        event: NDArray[Any] = self.data.inputs[index].numpy()
        return event

    def fact(self, name: str) -> Float | None:
        """A fact of all events, or None where the data do not tell it."""
        value = self.data.facts.get(name)
        return None if value is None else value.double().numpy()

    def labels(self, column: str) -> tuple[str, ...]:
        """The names of the column's elements."""
        return self.manifest.labels(column)


@dataclass(frozen=True)
class Headline:
    """One score beside what the same score is without a network, and what that baseline does.

    key: the score's name among those that the manifest records, where its other baselines are.
    baseline_key: the one of those that `baseline` is, if any.
    """

    name: str
    key: str
    value: float | int | None
    baseline: float | None
    meaning: str
    baseline_key: str = ""


@dataclass(frozen=True)
class Findings:
    """What a kind's report found: `numbers` goes into report.json as it is."""

    numbers: dict[str, Any]
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()


def make_case(
    bundle: Bundle, data: DataSet, progress: Callable[[int], None] | None = None, origin: str = ""
) -> Case:
    """Run the bundle over the data; `progress` hears how many events are done. origin: as of `Case`.

    Raises ModelError when bundle and data do not fit together.
    """
    check_shape(bundle.manifest, data)
    parts: list[Tensor] = []
    for index, raw in enumerate(data.inputs.split(BATCH)):
        parts.append(run_bundle(bundle, raw))
        if progress is not None:
            progress(index * BATCH + len(raw))
    packed = torch.cat(parts)
    bad = int((~torch.isfinite(packed)).any(1).sum())
    if bad:
        raise ModelError(
            f"answers of bundle {bundle.manifest.name!r}: expected finite numbers, got none for {bad} of "
            f"{len(data)} events; look for NaN, infinite or masked pixels in the data and drop those events"
        )
    columns = {name: tensor.double().numpy() for name, tensor in unpack(bundle.manifest, packed).items()}
    return Case(bundle.manifest, bundle.network, data, columns, origin)


def recorded_on(manifest: Manifest, origin: str) -> Mapping[str, Any]:
    """The scores that the manifest records on the events called `origin`; none of a file's events."""
    word, _, split = origin.partition(" ")
    own = manifest.scores.get(split) if word == HELD_OUT else None
    return own if isinstance(own, Mapping) else {}


def check_shape(manifest: Manifest, data: DataSet) -> None:
    """The events must be of the shape that the bundle takes, and more than one."""
    shape = tuple(data.inputs.shape[1:])
    if shape != manifest.input_shape:
        raise ModelError(
            f"data for bundle {manifest.name!r}: expected events of shape {list(manifest.input_shape)}, got "
            f"{list(shape)}; give data of this detector, or train a bundle for it"
        )
    if len(data) < MIN_EVENTS:
        raise ModelError(
            f"data for bundle {manifest.name!r}: expected at least {MIN_EVENTS} events, got {len(data)}; "
            "give more events"
        )


def aligned(case: Case, names: Sequence[str]) -> tuple[Float, tuple[str, ...]]:
    """The targets [N, T] in the order of `names`, and those of `names` that the data tell of.

    Raises ModelError when the data tell of a class or target that the bundle does not know.
    """
    told = case.data.target_names
    unknown = [name for name in told if name not in names]
    if unknown:
        raise ModelError(
            f"targets of the data: expected some of {list(names)} (bundle {case.manifest.name!r}), got also "
            f"{unknown}; rename or remove these columns of the labels"
        )
    known = tuple(name for name in names if name in told)
    index = [told.index(name) for name in known]
    values: Float = case.data.targets[:, index].double().numpy()
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(1).sum())
        raise ModelError(
            f"targets of the data: expected finite numbers, got none for {bad} of {len(values)} events; "
            "drop those events"
        )
    return values, known


def select(columns: NDArray[Any], names: Sequence[str], known: Sequence[str]) -> NDArray[Any]:
    """Of columns [N, L] named `names`, those that are `known`, in that order."""
    kept: NDArray[Any] = columns[:, [list(names).index(name) for name in known]]
    return kept


def exclusive(targets: Tensor, names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """One class an event, [N], and the names: a one-hot column each, else each label set that occurs."""
    on_NL = (targets > 0.5).numpy()
    if (on_NL.sum(1) == 1).all():
        index: NDArray[np.int64] = on_NL.argmax(1)
        return index, tuple(names)
    sets, member = np.unique(on_NL, axis=0, return_inverse=True)
    named = tuple("+".join(n for n, on in zip(names, row, strict=True) if on) or "none" for row in sets)
    return member.reshape(-1).astype(np.int64), named
