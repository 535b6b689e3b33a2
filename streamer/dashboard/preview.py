"""What changed rules would keep of the events in the sample.

Owns no rule: a router of the stream, made as inference makes its own, decides here too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.manifest import BundleError, Manifest, read_manifest
from models.names import identifier
from streamer.columns import Array
from streamer.dashboard.state import StreamState
from streamer.errors import ConfigError
from streamer.plan import StageSpec, Version, make_router
from streamer.routing import FIRST_FAILOPEN, Decision
from streamer.rules import CALIBRATED
from streamer.steering import steered
from streamer.versions import current_version


@dataclass(frozen=True)
class Preview:
    """Counts of the sample's classified events, now and with the changed rules."""

    now: dict[str, int] = field(default_factory=dict)
    """By route: what it keeps now."""
    then: dict[str, int] = field(default_factory=dict)
    """By route: what it would keep."""
    n: int = 0
    """Classified events in the sample."""
    enabled: frozenset[str] = frozenset()
    """The routes that would be on."""
    unclear_then: int = 0
    """Events for which the changed rules have no answer, as for log(-1) > 2: they would be kept fail-open."""
    problem: str = ""
    """Why there is no preview; empty: there is one."""


def preview(state: StreamState, change: Mapping[str, Any]) -> Preview:
    """What the stream would keep of the sample after `change` (as in `steering`), and what it keeps now.

    Unclassified events are not counted: no rule sees them.
    """
    table = state.sample.table()
    classified = table["reason"] < FIRST_FAILOPEN
    table = {name: column[classified] for name, column in table.items()}
    try:
        current = current_version(state.spec)[1]
        changed, manifests = steered(state.spec, current, change), _manifests(current)
        now, then = (_decide(state.spec, version, manifests, table) for version in (current, changed))
    except ConfigError as error:
        return Preview(problem=str(error))
    return Preview(
        now=_kept(now, state.route_names),
        then=_kept(then, state.route_names),
        n=len(table["reason"]),
        enabled=frozenset(route.name for route in changed.routes if route.enabled),
        unclear_then=int(np.count_nonzero(then.reason >= FIRST_FAILOPEN)),
    )


def named_values(state: StreamState) -> dict[str, float]:
    """What calibrated.LABEL is in the bundles that answer now, by that text. Raises ConfigError."""
    manifests = _manifests(current_version(state.spec)[1])
    calibrated = [entry for manifest in manifests for entry in manifest.calibrated]
    return {f"{CALIBRATED}.{identifier(entry.label)}": entry.threshold for entry in calibrated}


def _manifests(version: Version) -> list[Manifest]:
    """Raises ConfigError."""
    try:
        return [read_manifest(Path(ref.path)) for ref in version.bundles]
    except BundleError as error:
        raise ConfigError(str(error)) from error


def _decide(
    spec: StageSpec, version: Version, manifests: Sequence[Manifest], table: Mapping[str, Array]
) -> Decision:
    """Raises ConfigError for rules that cannot be."""
    return make_router(spec, version, manifests).decide(table, table["train_id"], table["pulse_id"])


def _kept(decision: Decision, names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(decision.route[decision.route >= 0], minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))
