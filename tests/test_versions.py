"""Which versions of a stream there are: noted whole, in order, before the first result leaves."""

from pathlib import Path

import pytest
from core_support import config_text

from streamer.config import parse
from streamer.errors import ConfigError
from streamer.pipeline import resolve
from streamer.plan import BundleRef, StageSpec
from streamer.versions import FIRST, current_version, note_engine, note_version, noted_engine, version


def ref(name: str) -> BundleRef:
    return BundleRef(name=name, path=f"/{name}", sha256=name * 64)


@pytest.fixture
def spec(tmp_path: Path) -> StageSpec:
    config = parse(config_text(), "test")
    made = resolve(config, config.stream[0], -1, tmp_path)
    return made.model_copy(update={"bundles": (ref("a"), ref("b"))})


def test_a_run_begins_with_its_first_version(spec: StageSpec) -> None:
    number, first = current_version(spec)
    assert number == FIRST
    assert first == spec.first_version == version(spec, FIRST)
    assert first.bundles == (ref("a"), ref("b"))
    assert [route.name for route in first.routes] == ["all"], "nothing is vetoed unasked"
    assert first.store == spec.config.output.store


def test_versions_are_kept_by_number(spec: StageSpec) -> None:
    other = spec.first_version.model_copy(update={"bundles": (ref("c"), ref("b"))})
    quiet = other.model_copy(update={"store": False, "clusters": {"rings": 3}})
    assert [note_version(spec, other), note_version(spec, quiet)] == [2, 3]
    assert version(spec, 2) == other
    assert current_version(spec) == (3, quiet)
    for _ in range(8):
        note_version(spec, other)
    assert current_version(spec)[0] == 11, "numbers, not names, are in order"


def test_a_note_that_was_not_finished_does_not_count(spec: StageSpec) -> None:
    note_version(spec, spec.first_version)
    spec.version_file(3).with_suffix(".part").write_text("{")
    assert current_version(spec)[0] == 2
    assert note_version(spec, spec.first_version) == 3


def test_an_engine_is_noted_for_its_bundles(spec: StageSpec) -> None:
    one, other = (ref("a"), ref("b")), (ref("c"), ref("b"))
    assert noted_engine(spec, one) is None
    note_engine(spec, one, "plain")
    note_engine(spec, other, "fast")
    note_engine(spec, one, "faster")
    assert (noted_engine(spec, one), noted_engine(spec, other)) == ("faster", "fast")


def test_a_change_that_cannot_be_noted_is_refused(spec: StageSpec) -> None:
    spec.version_file(2).with_suffix(".part").mkdir()
    with pytest.raises(ConfigError, match="cannot note the change"):
        note_version(spec, spec.first_version)
    assert current_version(spec)[0] == FIRST
