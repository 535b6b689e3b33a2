"""What can be steered, as plain values for the page: routes with their sliders, names, bundles, storing.

Owns the words and the ranges of the sliders. The actions are desk.py's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from models.manifest import BundleError, read_manifest
from models.names import identifier
from models.shipped import find_bundle, shipped_names
from streamer.dashboard.board import View
from streamer.dashboard.numbers import count
from streamer.dashboard.preview import named_values
from streamer.errors import ConfigError
from streamer.plan import schema
from streamer.thresholds import Constant, constants

STEPS: Final = 200  # of a slider: finer than a hand moves it; the number beside it takes any value
ENDS: Final = (0.002, 0.998)  # quantiles of the sample between which a slider moves


def steering(view: View) -> dict[str, Any]:
    """The card's content; only a note while the pipeline does not tell."""
    told = view.steering
    if not told:
        return {"note": view.status.error or "The pipeline has not told yet how it is steered."}
    kept = view.counts.get("kept", {})
    return {
        "version": told["version"],
        "routes": [_route(route, kept, view) for route in told["routes"]],
        "clusters": dict(told["clusters"]),
        "has_clusters": any(column.name == "cluster" for column in view.state.spec.columns),
        "bundles": [f"{bundle['name']} ({bundle['sha256'][:8]})" for bundle in told["bundles"]],
        "choices": swap_choices(view),
        "store": bool(told["store"]),
    }


def _route(route: Mapping[str, Any], kept: Mapping[str, int], view: View) -> dict[str, Any]:
    when, one_in = route.get("when"), route.get("one_in")
    rule = " ".join((when or "every event").split()) + (f", one in {one_in:,} of them" if one_in else "")
    return {
        "name": route["name"],
        "enabled": bool(route["enabled"]),
        "rule": rule,
        "kept": f"kept {count(kept.get(route['name'], 0))}",
        "constants": [_slider(constant, view) for constant in (constants(when) if when else ())],
    }


def _slider(constant: Constant, view: View) -> dict[str, Any]:
    value = _value(constant, view)
    low, high = _range(constant.left, value, view)
    return {
        "index": constant.index,
        "left": constant.left,
        "operator": constant.operator,
        "name": constant.name,
        "value": value,
        "low": low,
        "high": high,
        "step": float(f"{(high - low) / STEPS:.1g}"),
    }


def _value(constant: Constant, view: View) -> float:
    """The number, or what the name of one stands for; the middle of a probability where nobody tells."""
    if constant.value is not None:
        return constant.value
    try:
        return named_values(view.state).get(constant.name, 0.5)
    except ConfigError:
        return 0.5


def _range(left: str, value: float, view: View) -> tuple[float, float]:
    """Ends of a slider: 0 and 1 for probabilities, else where the newest events lie; the value is inside."""
    if left.startswith("p."):
        return 0.0, 1.0
    values = _column(left, view)
    finite = values[np.isfinite(values)] if values is not None else np.empty(0)
    if not len(finite):
        return (min(0.0, 2 * value), max(1.0, 2 * value)) if value else (-1.0, 1.0)
    low, high = (float(v) for v in np.quantile(finite.astype(np.float64), ENDS))
    low, high = min(low, value), max(high, value)
    return _rounded(low, high)


def _rounded(low: float, high: float) -> tuple[float, float]:
    """The ends on round numbers: a slider whose ends creep with every tick would be drawn anew each time."""
    grid = 10.0 ** np.floor(np.log10(max(high - low, 1e-9))) / 2
    return float(np.floor(low / grid) * grid), float((np.floor(high / grid) + 1) * grid)


def _column(left: str, view: View) -> Any:
    """The newest values of what stands left of a comparison; None for more than one name."""
    name, _, label = left.partition(".")
    table = view.state.sample.table()
    for column in view.state.spec.columns:
        if identifier(column.name) != name or column.name not in table:
            continue
        if not label:
            return table[column.name]
        found = [identifier(one) for one in column.labels]
        return table[column.name][:, found.index(label)] if label in found else None
    return table.get(left)


def _manifests(view: View) -> list[Any]:
    """Manifests of the bundles that the stream began with, as far as they can be read."""
    found = []
    for ref in view.state.spec.bundles:
        try:
            found.append(read_manifest(find_bundle(ref.path)))
        except (BundleError, OSError):
            continue
    return found


def swap_choices(view: View) -> Sequence[str]:
    """Shipped bundles that give the same columns for the same events as one that the stream runs."""
    ours = [schema(manifest) for manifest in _manifests(view)]
    return [name for name in shipped_names() if _schema(name) in ours]


def _schema(name: str) -> tuple[Any, ...] | None:
    try:
        return schema(read_manifest(find_bundle(name)))
    except BundleError:
        return None
