"""What an event is called on the page, and how novel it is. No verdicts: they are the router's."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from streamer.columns import NO_INTEGER
from streamer.dashboard.gallery import UNLABELLED, Shot
from streamer.rules import Table


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
