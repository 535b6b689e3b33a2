"""The labelled part of a case: what is true of each class, what was stated, and what was said.

Owns what both reports on classes say of it: classes left out, and the answer that never looks.

N events, L labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.report.case import Case, Float
from models.report.measures import Bool


@dataclass(frozen=True)
class Labelled:
    """The part of a case that the data tell of: truth, probability and what was said, [N, L] each."""

    names: tuple[str, ...]
    truth: Bool
    p: Float
    said: Bool

    def one(self, index: int) -> tuple[Bool, Float]:
        """Truth and probability of one class, [N]."""
        return self.truth[:, index], self.p[:, index]


def notes_on_classes(case: Case, own: Labelled) -> tuple[str, ...]:
    """Which classes have no score, or only 0, and why."""
    occurs, is_said = (own.truth.sum(0) > 0).tolist(), (own.said.sum(0) > 0).tolist()
    silent = [name for name, t, s in zip(own.names, occurs, is_said, strict=True) if not t and not s]
    wrong = [name for name, t, s in zip(own.names, occurs, is_said, strict=True) if not t and s]
    untold = [name for name in case.labels("p") if name not in own.names]
    notes = (
        (silent, "No event has the class {}, and of none it was said: its scores are left out."),
        (
            wrong,
            "No event has the class {}, yet it was said of some: its F1 is 0 and counts in the macro-F1.",
        ),
        (untold, "The labels do not tell of {}: not scored."),
    )
    return tuple(note.format(", ".join(names)) for names, note in notes if names)


@dataclass(frozen=True)
class Majority:
    """Scores of always saying the most frequent label set, by name, and of which events that set is."""

    scores: Mapping[str, Any]
    events: str

    @property
    def numbers(self) -> dict[str, Any]:
        """As report.json has them."""
        own = {f"baseline_{key}": value for key, value in self.scores.items()}
        return own | {"baseline_events": self.events}


def majority_of(case: Case, prefix: str, of_these: Mapping[str, Any]) -> Majority:
    """That of the training events if the manifest records it for this split, else that of these events.

    prefix: of the recorded names. of_these: the scores of the set that is most frequent in these events.
    """
    found = {key: case.recorded.get(f"{prefix}{key}") for key in of_these}
    if all(isinstance(value, int | float) for value in found.values()):
        return Majority(found, "the training events")
    return Majority(of_these, "these events")
