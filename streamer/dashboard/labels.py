"""What an event is called on the page, and how novel it is. No verdicts: they are the router's."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from streamer.columns import NO_INTEGER
from streamer.dashboard.gallery import UNLABELLED, Shot
from streamer.rules import Table

LIKELY: Final = 0.5  # more likely than not


class Labeller:
    """Names events: by the most probable class if there are classes, else by the cluster or its given name.

    `classes`: labels of the column `p`; `clusters`: number by name.
    """

    def __init__(self, classes: Sequence[str], clusters: Mapping[str, int] | None = None) -> None:
        self._classes = tuple(classes)
        self._names = {number: name for name, number in (clusters or {}).items()}

    def __call__(self, events: Table) -> list[str]:
        """The label of each of n events; UNLABELLED for one without an answer."""
        n = len(events["train_id"])
        if self._classes:
            return self._most_probable(events["p"])
        if "cluster" in events:
            return [self.of_cluster(number) for number in events["cluster"].tolist()]
        return [UNLABELLED] * n

    def _most_probable(self, p: npt.NDArray[np.float32]) -> list[str]:
        answered = np.logical_and.reduce(np.isfinite(p), axis=1).tolist()
        best = np.nan_to_num(p).argmax(axis=1).tolist()
        return [self._classes[at] if known else UNLABELLED for at, known in zip(best, answered, strict=True)]

    def newest(self, events: Table, labels: Sequence[str]) -> dict[str, int]:
        """Of each class the first of the events, which come newest first and have these labels.

        Classes may not exclude each other: an event is of each class with p > 0.5, and of its label's.
        """
        first: dict[str, int] = {}
        for index, label in enumerate(labels):
            first.setdefault(label, index)
        if self._classes:
            likely = events["p"] > LIKELY
            found = np.flatnonzero(likely.any(axis=0)).tolist()
            for label, index in zip(
                [self._classes[at] for at in found], likely.argmax(axis=0)[found].tolist(), strict=True
            ):
                first[label] = min(index, first.get(label, index))
        return first

    def of_cluster(self, number: int) -> str:
        """Its name, or its number as text; UNLABELLED for the value that says there is none."""
        if number == int(NO_INTEGER["int32"]):
            return UNLABELLED
        return self._names.get(number, str(number))

    def of_shot(self, shot: Shot) -> str:
        """The label of a kept event of a stream without classes, by the names that clusters have now."""
        number = shot.columns.get("cluster")
        return self.of_cluster(number) if isinstance(number, int) else UNLABELLED


def novelties(events: Table) -> npt.NDArray[np.float64] | None:
    """-log_likelihood [n], NaN without an answer; None if no model of the stream gives it."""
    if "log_likelihood" not in events:
        return None
    likelihood = events["log_likelihood"].astype(np.float64)
    return np.where(np.isfinite(likelihood), -likelihood, np.nan)
