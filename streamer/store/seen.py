"""Which trains a series holds already, read from its files; asked only for trains that come late."""

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from streamer.store.disk import store_errors

U8 = NDArray[np.uint64]


class Seen:
    """The trains of closed segments. Keeps two numbers per file and opens a file only if a train lies
    between.
    """

    def __init__(self) -> None:
        self._ranges: dict[Path, tuple[int, int]] = {}

    def stored(self, ids: U8, paths: Iterable[Path]) -> NDArray[np.bool_]:
        """For each of `ids` (increasing, n > 0), whether one of the files holds it. Raises StoreError."""
        found = np.zeros(len(ids), np.bool_)
        for path in paths:
            first, last = self._range(path)
            if first <= int(ids[-1]) and int(ids[0]) <= last:
                found |= np.isin(ids, _train_ids(path))
        return found

    def _range(self, path: Path) -> tuple[int, int]:
        if path not in self._ranges:
            ids = _train_ids(path)
            self._ranges[path] = (int(ids[0]), int(ids[-1])) if len(ids) else (1, 0)
        return self._ranges[path]


def _train_ids(path: Path) -> U8:
    if not path.exists():
        return np.zeros(0, np.uint64)  # taken away from outside: nothing there to repeat
    with store_errors(path, "reading the index of"), h5py.File(path, "r") as file:
        ids: U8 = file["INDEX/trainId"][:]
        known: U8 = ids[ids != 0]
    return known
