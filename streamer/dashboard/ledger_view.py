"""The ledger as rows of a table: what came, where it went, what is wrong.

Owns the words and which rows are marked; counts come from the control socket's report (ledger.as_report).
"""

from collections.abc import Mapping
from typing import Any, Final

Row = dict[str, Any]

# What each trouble means, in words; the counts are in the order of an event's life.
_TROUBLES: Final = (
    ("missing_upstream", "missing upstream, events"),
    ("missing_upstream_trains", "missing upstream, trains"),
    ("duplicates", "duplicates, dropped"),
    ("out_of_order", "out of order"),
    ("id_jumps", "jumps of the train id"),
    ("store_errors", "files refused, times"),
    ("unrecorded", "results not in files"),
    ("not_stored", "kept, while storing was off"),
)


def imbalance(counts: Mapping[str, Any]) -> int:
    """Events and messages that the sums do not explain; 0 when the ledger closes."""
    if "imbalance" in counts:
        return int(counts["imbalance"])
    unexplained = counts["messages"] - counts["accepted"] - sum(counts["rejected"].values())
    return abs(int(unexplained)) + max(0, -int(counts["in_flight"]))


def rows(counts: Mapping[str, Any]) -> list[Row]:
    """One row per count. `kind` is '', 'warn' (something was lost or kept unseen) or 'bad'."""
    off = imbalance(counts)
    troubles = [(text, int(counts.get(key, 0))) for key, text in _TROUBLES]
    return [
        _row("received", counts["received"]),
        *(_row(f"kept: {route}", n) for route, n in counts["kept"].items()),
        _row("vetoed", counts["vetoed"]),
        *(_row(f"kept unclassified: {reason}", n, "warn") for reason, n in counts["failopen"].items()),
        *(_row(f"shed: {reason}", n, "warn") for reason, n in counts["shed"].items()),
        _row("in flight", counts["in_flight"]),
        _row("NOT ACCOUNTED FOR" if off else "not accounted for", off, "bad" if off else ""),
        _row("messages", counts["messages"]),
        *(_row(f"message rejected: {reason}", n, "warn") for reason, n in counts["rejected"].items()),
        *(_row(text, n, "warn" if n else "") for text, n in troubles),
    ]


def _row(name: str, count: int, kind: str = "") -> Row:
    return {"name": name, "cells": [int(count)], "kind": kind}
