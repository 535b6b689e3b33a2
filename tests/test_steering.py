"""What may be changed in a running stream, in words."""

from pathlib import Path
from typing import Any

import pytest
from core_support import config_text, make_bundle

from streamer.config import parse
from streamer.errors import ConfigError
from streamer.pipeline import resolve
from streamer.plan import StageSpec, make_router
from streamer.steering import as_answer, asked, steered

ROUTES = """
[[stream.route]]
name = "low"
when = "latent.a < 0"
[[stream.route]]
name = "some"
one_in = 10
"""


@pytest.fixture
def spec(folder: Path) -> StageSpec:
    config = parse(config_text([make_bundle(folder / "tiny")], ROUTES), "test")
    return resolve(config, config.stream[0], -1, folder)


def test_a_route_changes_in_what_is_given_only(spec: StageSpec) -> None:
    first = spec.first_version
    after = steered(spec, first, {"route": "some", "one_in": 7})
    assert [route.one_in for route in after.routes] == [None, 7]
    after = steered(spec, after, {"route": "some", "when": "latent.b > 1.5", "enabled": False})
    route = after.routes[1]
    assert (route.when, route.one_in, route.enabled) == ("latent.b > 1.5", 7, False)
    assert after.routes[0] == first.routes[0]
    assert (after.bundles, after.store) == (first.bundles, first.store)
    assert steered(spec, after, {"route": "some", "one_in": None}).routes[1].one_in is None


def test_rules_say_by_their_hash_that_they_are_others(spec: StageSpec) -> None:
    versions = [spec.first_version]
    for change in ({"when": "latent.a < 1"}, {"when": "latent.a<1"}, {"enabled": False}, {"enabled": True}):
        versions.append(steered(spec, versions[-1], {"route": "low"} | change))
    hashes = [make_router(spec, version).rules_sha256 for version in versions]
    assert hashes[0] != hashes[1] == hashes[2] != hashes[3]
    assert hashes[4] == hashes[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"route": "none", "when": "latent.a < 1"}, "no route 'none'; this run has low, some"),
        ({"route": "low"}, "expected a route with when, one_in or enabled"),
        ({"route": "low", "name": "other"}, "expected a route with"),
        ({"route": "low", "one_in": 0}, "route low: one_in"),
        ({"route": "low", "one_in": "3"}, "route low: one_in"),
        ({"route": "low", "enabled": 1}, "route low: enabled"),
        ({"route": "low", "when": "x" * 1001}, "route low: when"),
        ({"route": 7, "when": "a"}, "no route '7'"),
        ({"cluster": "a b", "number": 1}, "cluster name 'a b'"),
        ({"cluster": "rings", "number": -1}, "expected a number from 0 to 9999, got -1"),
        ({"cluster": "rings", "number": True}, "expected a number"),
        ({"store": 1}, "expected a route with"),
        ({}, "expected a route with"),
        ({"store": True, "route": "low"}, "expected a route with"),
    ],
)
def test_what_is_no_change_is_refused(spec: StageSpec, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        steered(spec, spec.first_version, change)


def test_rules_that_would_veto_everything_are_refused(spec: StageSpec) -> None:
    one = steered(spec, spec.first_version, {"route": "low", "enabled": False})
    make_router(spec, one)
    none = steered(spec, one, {"route": "some", "enabled": False})
    with pytest.raises(ConfigError, match="none is enabled, so every event would be vetoed"):
        make_router(spec, none)


def test_clusters_need_a_column_to_be_of(spec: StageSpec) -> None:
    named = steered(spec, spec.first_version, {"cluster": "rings", "number": 3})
    assert named.clusters == {"rings": 3}
    with pytest.raises(ConfigError, match="no bundle of it gives a column `cluster`"):
        make_router(spec, named)
    assert steered(spec, named, {"cluster": "rings", "number": None}) == spec.first_version


def test_a_run_without_files_cannot_begin_to_store(spec: StageSpec) -> None:
    config = spec.config.model_copy(update={"output": spec.config.output.model_copy(update={"store": False})})
    without = spec.model_copy(update={"config": config})
    assert not without.first_version.store
    with pytest.raises(ConfigError, match="started without files"):
        steered(without, without.first_version, {"store": True})
    assert not steered(spec, spec.first_version, {"store": False}).store


def test_the_answer_is_plain(spec: StageSpec) -> None:
    answer = as_answer(4, spec.first_version)
    assert answer["version"] == 4
    assert answer["routes"][1] == {"name": "some", "when": None, "one_in": 10, "enabled": True}
    assert [sorted(bundle) for bundle in answer["bundles"]] == [["name", "sha256"]]


def test_the_options_of_a_command_line() -> None:
    values = {"when": "p.x > 1", "one_in": 0, "enabled": None}
    assert asked("low", values, "rings=3", False) == [
        {"route": "low", "when": "p.x > 1", "one_in": None},
        {"cluster": "rings", "number": 3},
        {"store": False},
    ]
    assert asked(None, {}, "rings=", None) == [{"cluster": "rings", "number": None}]
    for cluster in ("rings", "rings=x", "rings=-1"):
        with pytest.raises(ConfigError, match="expected NAME=NUMBER"):
            asked(None, {}, cluster, None)
    for route, values in (("low", {}), (None, {"when": "p.x > 1"})):
        with pytest.raises(ConfigError, match="--route NAME goes with"):
            asked(route, values, None, None)
    with pytest.raises(ConfigError, match="nothing to change"):
        asked(None, {}, None, None)
