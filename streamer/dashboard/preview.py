"""What changed rules would keep of the events in the sample.

Owns no rule: a router of the stream, made as inference makes its own, decides here too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.manifest import BundleError, read_manifest
from models.names import identifier
from streamer.columns import Array
from streamer.config import RouteConfig
from streamer.dashboard.state import StreamState
from streamer.errors import FAILOPEN_REASONS, ConfigError
from streamer.plan import StageSpec, make_router
from streamer.plan import routes as configured
from streamer.routing import REASON_VETO, REASONS, Decision, Route, Router
from streamer.rules import CALIBRATED
from streamer.versions import current_version

_FIRST_FAILOPEN = len(REASONS) - len(FAILOPEN_REASONS)


@dataclass(frozen=True)
class Preview:
    """Counts of the sample's classified events, now and with the changed rules."""

    now: dict[str, int] = field(default_factory=dict)
    """By route: what it keeps now."""
    then: dict[str, int] = field(default_factory=dict)
    """By route: what it would keep."""
    n: int = 0
    """Classified events in the sample."""
    vetoed_now: int = 0
    vetoed_then: int = 0
    unclear_then: int = 0
    """Events for which the changed rules have no answer, as for log(-1) > 2: they would be kept fail-open."""
    problem: str = ""
    """Why there is no preview; empty: there is one."""


def preview(state: StreamState, routes: Sequence[Route], clusters: Mapping[str, int]) -> Preview:
    """What `routes`, of which a disabled one is left out, would keep of the sample, and what the current do.

    `clusters`: number by name, for `named.NAME`. Unclassified events are not counted: no rule sees them.
    """
    table = state.sample.table()
    classified = table["reason"] < _FIRST_FAILOPEN
    table = {name: column[classified] for name, column in table.items()}
    try:
        then = _decide(state.spec, routes, clusters, table)
        now = _decide(state.spec, _current(state), clusters, table)
    except ConfigError as error:
        return Preview(problem=str(error))
    return Preview(
        now=_kept(now, [route.name for route in _current(state)], state.route_names),
        then=_kept(then, [route.name for route in routes], state.route_names),
        n=len(table["reason"]),
        vetoed_now=_count(now, REASON_VETO),
        vetoed_then=_count(then, REASON_VETO),
        unclear_then=int(np.count_nonzero(then.reason >= _FIRST_FAILOPEN)),
    )


def named_values(state: StreamState) -> dict[str, float]:
    """What calibrated.LABEL is in the bundles that answer now, by that text. Raises ConfigError."""
    try:
        manifests = [read_manifest(Path(ref.path)) for ref in current_version(state.spec)]
    except BundleError as error:
        raise ConfigError(str(error)) from error
    calibrated = [entry for manifest in manifests for entry in manifest.calibrated]
    return {f"{CALIBRATED}.{identifier(entry.label)}": entry.threshold for entry in calibrated}


def _current(state: StreamState) -> list[Route]:
    """The routes in force: as steered, or as configured while nothing has answered."""
    steered = state.status().steering.get("routes")
    if steered is None:
        return configured(state.spec.first_version)
    return [Route(r["name"], r["when"], r["one_in"]) for r in steered if r.get("enabled", True)]


def _decide(
    spec: StageSpec, routes: Sequence[Route], clusters: Mapping[str, int], table: Mapping[str, Array]
) -> Decision:
    """Raises ConfigError for rules that cannot be."""
    n = len(table["train_id"])
    if not routes:
        return Decision(np.zeros(n, np.uint8), np.full(n, -1, np.int16), np.full(n, REASON_VETO, np.uint8))
    return _router(spec, routes, clusters).decide(table, table["train_id"], table["pulse_id"])


def _router(spec: StageSpec, routes: Sequence[Route], clusters: Mapping[str, int]) -> Router:  # noqa: ARG001
    try:
        steered = tuple(RouteConfig(name=r.name, when=r.when, one_in=r.one_in) for r in routes)
    except ValueError as error:  # pydantic's, of a text that is too long
        raise ConfigError(f"stream {spec.stream}: routes cannot be used: {error}") from error
    stream = spec.settings.model_copy(update={"route": steered})
    streams = tuple(stream if other.name == spec.stream else other for other in spec.config.stream)
    config = spec.config.model_copy(update={"stream": streams})
    return make_router(spec.model_copy(update={"config": config, "bundles": current_version(spec)}))


def _kept(decision: Decision, routes: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """By route name; 0 for one that is disabled."""
    counts = np.bincount(decision.route[decision.route >= 0], minlength=len(routes)).tolist()
    return dict.fromkeys(names, 0) | dict(zip(routes, counts, strict=True))


def _count(decision: Decision, reason: int) -> int:
    return int(np.count_nonzero(decision.reason == reason))
