"""What a person may change in a running stream: from one version to the next.

Owns the words of a change and their checks; no socket and no file. Routes can be changed, not added, taken
away or moved: counters and folders are laid out by them when the run begins. Another bundle is a swap
(`bundles`): it must be loaded first.

A change is one of

    {"route": NAME, "when": TEXT, "one_in": N or None, "enabled": BOOL}   only what is given changes
    {"cluster": NAME, "number": N or None}                                None forgets the name
    {"store": BOOL}
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from streamer.config import MAX_CLUSTER, NAME, RouteConfig
from streamer.errors import ConfigError
from streamer.plan import StageSpec, Version

_ROUTE_KEYS = {"when", "one_in", "enabled"}


def steered(spec: StageSpec, old: Version, change: Mapping[str, Any]) -> Version:
    """The version after a change. Raises ConfigError; that its rules compile is for `make_router` to say."""
    keys = set(change)
    if "route" in keys and keys - {"route"} and keys <= {"route", *_ROUTE_KEYS}:
        return _with_route(old, change)
    if keys == {"cluster", "number"}:
        return _with_cluster(old, change["cluster"], change["number"])
    if keys == {"store"} and isinstance(change["store"], bool):
        return _storing(spec, old, change["store"])
    raise ConfigError(
        f"change {str(dict(change))[:200]}: expected a route with when, one_in or enabled; "
        "a cluster with a number; or store = true or false"
    )


def asked(
    route: str | None, values: Mapping[str, Any], cluster: str | None, store: bool | None
) -> list[dict[str, Any]]:
    """The changes that the options of a command line ask for. Raises ConfigError for none, or a bad one."""
    given = {key: value for key, value in values.items() if value is not None}
    changes: list[dict[str, Any]] = []
    if (route is None) != (not given):
        raise ConfigError("--route NAME goes with --when, --one-in, --enable or --disable, and these with it")
    if route is not None:
        if given.get("one_in") == 0:
            given["one_in"] = None
        changes.append({"route": route} | given)
    if cluster is not None:
        name, equals, number = cluster.partition("=")
        if not equals or not (number == "" or (number.isdecimal() and len(number) < 10)):
            raise ConfigError(f"--cluster {cluster!r}: expected NAME=NUMBER, or NAME= to forget the name")
        changes.append({"cluster": name, "number": int(number) if number else None})
    if store is not None:
        changes.append({"store": store})
    if not changes:
        raise ConfigError("nothing to change; give --route with what changes, --cluster, or --store")
    return changes


def _with_route(old: Version, change: Mapping[str, Any]) -> Version:
    names = [route.name for route in old.routes]
    if change["route"] not in names:
        raise ConfigError(
            f"no route {str(change['route'])[:40]!r}; this run has {', '.join(names)}. "
            "Routes are added in the configuration, for the next run"
        )
    index = names.index(change["route"])
    given = {key: value for key, value in change.items() if key != "route"}
    try:
        route = RouteConfig.model_validate(old.routes[index].model_dump() | given, strict=True)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise ConfigError(f"route {names[index]}: {wrong}") from error
    return old.model_copy(update={"routes": (*old.routes[:index], route, *old.routes[index + 1 :])})


def _with_cluster(old: Version, name: object, number: object) -> Version:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ConfigError(
            f"cluster name {str(name)[:40]!r}: expected a letter, then up to 31 letters, digits or _"
        )
    clusters = {known: at for known, at in old.clusters.items() if known != name}
    if number is not None:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_CLUSTER:
            shown = str(number)[:40]
            raise ConfigError(f"cluster {name}: expected a number from 0 to {MAX_CLUSTER}, got {shown}")
        clusters[name] = number
    return old.model_copy(update={"clusters": clusters})


def _storing(spec: StageSpec, old: Version, store: bool) -> Version:
    if store and not spec.config.output.store:
        raise ConfigError(
            "this run was started without files (output.store = false) and cannot begin to store; start the "
            "next one with output.store = true and output.paused = true"
        )
    return old.model_copy(update={"store": store})


def as_answer(number: int, version: Version) -> dict[str, Any]:
    """A version in plain values, as `status` tells it."""
    bundles = [{"name": ref.name, "sha256": ref.sha256} for ref in version.bundles]
    routes = [route.model_dump() for route in version.routes]
    clusters, store = dict(version.clusters), version.store
    return {"version": number, "bundles": bundles, "routes": routes, "clusters": clusters, "store": store}
