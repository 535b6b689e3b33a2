"""Events with their pictures: the newest of each class, the most novel, and some others.

Owns what is kept, and for how long. Knows no sockets, no ring and no clock.
Memory is bounded by MAX_BYTES: how many are kept of a class follows from how large one is.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from streamer.columns import Array

MAX_BYTES: Final = 256 << 20
PER_LABEL: Final = 64  # more than a screen holds
# Classes with a place of their own: of more, a person does not look at each. The others share one.
MAX_LABELS: Final = 128
NOVEL_WINDOW_S: Final = 300.0  # an outlier of an hour ago must not hide the one of now

UNLABELLED: Final = ""

Value = float | int | tuple[float, ...] | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Shot:
    """One event as the page shows it."""

    train_id: int
    pulse_id: int
    received_at_s: float
    """Unix time."""
    verdict: str
    """'keep:<route>', 'keep:failopen:<reason>' or 'veto'."""
    label: str
    columns: Mapping[str, Value]
    """Results and attached scalars by name; a vector column is a tuple, in the order of its labels."""
    picture: Array
    """2-D, at most 192 a side, or 1-D, at most 2048 bins; the raw dtype, or float32 where it was binned."""
    novelty: float | None
    """-log_likelihood; None if no model of the stream gives it, or no answer came."""
    full: Array | None
    """The raw frame; None if it is too large to be kept for every event shown."""

    @property
    def size_bytes(self) -> int:
        own = 0 if self.full is None or self.full is self.picture else self.full.nbytes
        return self.picture.nbytes + own


class Gallery:
    """What the page can show of one stream. One thread adds, any reads.

    `labels`: the classes that are known beforehand; empty for clusters, which show up one by one.
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        self._known = tuple(labels[:MAX_LABELS])
        self._by_label: dict[str, deque[Shot]] = {label: deque() for label in self._known}
        self._others: deque[Shot] = deque()
        self._novel: list[tuple[float, Shot]] = []  # (when it was added, shot), most novel first
        self._largest_bytes = 1

    # --- written ------------------------------------------------------------------------------------

    def add(self, shot: Shot, now_s: float, classes: Sequence[str] | None = None) -> None:
        """Take one up, for these classes (None: its label's). Of none, it is for who asks for its ids."""
        with self._lock:
            self._largest_bytes = max(self._largest_bytes, shot.size_bytes)
            for label in (shot.label,) if classes is None else classes:
                self._append(self._place(label), shot)
            if classes is not None and not classes:
                self._append(self._others, shot)
            self._expire(now_s)
            if shot.novelty is not None:
                self._add_novel(shot, now_s)

    def _append(self, place: deque[Shot], shot: Shot) -> None:
        place.append(shot)
        while len(place) > self.each:
            place.popleft()

    def _add_novel(self, shot: Shot, now_s: float) -> None:
        """Exactly the same novelty is the same picture, replayed: the newest of them is enough."""
        others = [entry for entry in self._novel if entry[1].novelty != shot.novelty]
        novel = sorted([*others, (now_s, shot)], key=lambda entry: -(entry[1].novelty or 0.0))
        self._novel = novel[: self.each]

    def _place(self, label: str) -> deque[Shot]:
        """Of a label that nobody announced only where there are no classes, or for what has no answer."""
        allowed = len(self._by_label) < MAX_LABELS and (not self._known or label == UNLABELLED)
        if label not in self._by_label and allowed:
            self._by_label[label] = deque()
        return self._by_label.get(label, self._others)

    def tick(self, now_s: float) -> None:
        """It is `now_s` (unix) now: what was novel long ago goes."""
        with self._lock:
            self._expire(now_s)

    def _expire(self, now_s: float) -> None:
        self._novel = [entry for entry in self._novel if now_s - entry[0] <= NOVEL_WINDOW_S]

    def relabel(self, label_of: Callable[[Shot], str]) -> None:
        """Sort everything anew, because clusters were named."""
        with self._lock:
            shots = [shot for shots in self._by_label.values() for shot in shots]
            self._by_label = {label: deque() for label in self._known}
            for shot in sorted(shots, key=lambda shot: shot.received_at_s):
                self._append(self._place(label_of(shot)), replace(shot, label=label_of(shot)))
            self._novel = [(at_s, replace(shot, label=label_of(shot))) for at_s, shot in self._novel]

    @property
    def each(self) -> int:
        """How many are kept of each class, of the novel and of the others."""
        places = (len(self._known) or MAX_LABELS) + 3  # those without an answer, the others, the novel
        return max(1, min(PER_LABEL, MAX_BYTES // (places * self._largest_bytes)))

    def is_novel(self, novelty: float) -> bool:
        """True if an event this novel would be among the most novel."""
        with self._lock:
            return len(self._novel) < self.each or novelty > (self._novel[-1][1].novelty or 0.0)

    # --- read ---------------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """Every class with a place: those of the model in its order, or the clusters seen so far."""
        with self._lock:
            known = [label for label in self._known if label in self._by_label]
            return (*known, *sorted(label for label in self._by_label if label not in self._known))

    def newest(self, label: str, n: int) -> list[Shot]:
        """At most n of a class, newest first."""
        with self._lock:
            return list(self._by_label.get(label, ()))[::-1][:n]

    def most_novel(self, n: int) -> list[Shot]:
        """At most n of the last five minutes, most novel first."""
        with self._lock:
            return [shot for _, shot in self._novel[:n]]

    def of(self, train_id: int, pulse_id: int) -> Shot | None:
        """The picture of one event, if we have it."""
        with self._lock:
            ids = train_id, pulse_id
            return next((shot for shot in self._all() if (shot.train_id, shot.pulse_id) == ids), None)

    def ids(self) -> frozenset[tuple[int, int]]:
        """(train id, pulse id) of every event that `of` has."""
        with self._lock:
            return frozenset((shot.train_id, shot.pulse_id) for shot in self._all())

    @property
    def size_bytes(self) -> int:
        with self._lock:
            return sum({id(shot): shot.size_bytes for shot in self._all()}.values())

    def _all(self) -> Iterator[Shot]:
        for shots in self._by_label.values():
            yield from shots
        yield from self._others
        yield from (shot for _, shot in self._novel)
