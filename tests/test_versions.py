"""Which bundles made a result: noted whole, in order, before the first result leaves."""

from pathlib import Path

import pytest
from core_support import config_text

from streamer.config import parse
from streamer.pipeline import resolve
from streamer.plan import BundleRef, StageSpec
from streamer.versions import all_versions, current_version, hashes, note_engine, note_version, noted_engine


def ref(name: str) -> BundleRef:
    return BundleRef(name=name, path=f"/{name}", sha256=name * 64)


@pytest.fixture
def spec(tmp_path: Path) -> StageSpec:
    config = parse(config_text(), "test")
    made = resolve(config, config.stream[0], -1, tmp_path)
    return made.model_copy(update={"bundles": (ref("a"), ref("b"))})


def test_without_a_swap_the_run_has_its_first_version(spec: StageSpec) -> None:
    assert all_versions(spec) == [(ref("a"), ref("b"))] == [current_version(spec)]


def test_swaps_are_kept_in_order(spec: StageSpec) -> None:
    note_version(spec, [ref("c"), ref("b")])
    note_version(spec, [ref("c"), ref("d")])
    assert all_versions(spec) == [(ref("a"), ref("b")), (ref("c"), ref("b")), (ref("c"), ref("d"))]
    assert current_version(spec) == (ref("c"), ref("d"))


def test_a_note_that_was_not_finished_does_not_count(spec: StageSpec) -> None:
    note_version(spec, [ref("c"), ref("b")])
    spec.swapped_file.with_suffix(".part").write_text("[[{")
    assert current_version(spec) == (ref("c"), ref("b"))
    note_version(spec, [ref("d"), ref("b")])
    assert len(all_versions(spec)) == 3


def test_hashes_stand_as_in_a_slot_header() -> None:
    assert hashes((ref("a"), ref("b"))) == b"\xaa" * 32 + b"\xbb" * 32
    assert hashes(()) == b""


def test_an_engine_is_noted_for_its_bundles(spec: StageSpec) -> None:
    one, other = (ref("a"), ref("b")), (ref("c"), ref("b"))
    assert noted_engine(spec, one) is None
    note_engine(spec, one, "plain")
    note_engine(spec, other, "fast")
    note_engine(spec, one, "faster")
    assert (noted_engine(spec, one), noted_engine(spec, other)) == ("faster", "fast")
