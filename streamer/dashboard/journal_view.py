"""The journal of steering as rows: who changed what, when, from what to what."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

SHOWN: Final = 30
MAX_CHARS: Final = 200  # of one value


def journal(entries: Sequence[Mapping[str, Any]], problem: str) -> dict[str, Any]:
    """Newest first."""
    rows = [_row(entry) for entry in reversed(entries[-SHOWN:])]
    note = problem or ("" if rows else "Nothing was steered in this run yet.")
    return {"note": note, "rows": rows}


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    clock = time.strftime("%H:%M:%S", time.localtime(float(entry["at_s"])))
    before, after = changed(entry)
    cells = [str(entry["by"]), str(entry["stream"]), _words(entry["action"]), before, after]
    return {
        "name": clock,
        "cells": [_cut(cell) for cell in cells],
        "kind": "warn" if "refused" in entry else "",
    }


def changed(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Before and after, as far as they differ; of a refusal, why."""
    if "refused" in entry:
        return "", f"refused: {entry['refused']}"
    before, after = entry.get("before", {}), entry.get("after", {})
    keys = [key for key in before if key != "version" and before[key] != after.get(key)]
    return tuple(
        "; ".join(_part(side.get(key)) for key in keys) or "the same" for side in _only(before, after, keys)
    )  # type: ignore[return-value]


def _only(
    before: Mapping[str, Any], after: Mapping[str, Any], keys: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Both sides with the unchanged entries of their lists left out."""
    sides: list[dict[str, Any]] = [{}, {}]
    for key in keys:
        old, new = before[key], after.get(key)
        if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
            pairs = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
            old, new = [a for a, _ in pairs], [b for _, b in pairs]
        sides[0][key], sides[1][key] = old, new
    return list(sides)


def _part(value: Any) -> str:
    """One changed thing, short: a route by its rule, a bundle by its name."""
    if isinstance(value, list | tuple):
        return ", ".join(_part(one) for one in value)
    if isinstance(value, Mapping) and "sha256" in value:
        return f"{value['name']} ({str(value['sha256'])[:8]})"
    if isinstance(value, Mapping) and "when" in value:
        sampled = f", one in {value['one_in']}" if value.get("one_in") else ""
        return f"{value['when'] or 'every event'}{sampled}{'' if value.get('enabled', True) else ' (off)'}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {number}" for name, number in value.items()) or "none"
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _words(action: Any) -> str:
    """What was asked for."""
    if not isinstance(action, Mapping):
        return str(action)
    if "bundle" in action:
        return f"swap to {action['bundle']}"
    change = action.get("change", action)
    if not isinstance(change, Mapping):
        return str(change)
    if "route" in change:
        return f"route {change['route']}"
    return f"cluster {change['cluster']}" if "cluster" in change else "storing"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"
