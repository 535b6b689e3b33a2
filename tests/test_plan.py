"""What a run will do: bundles that fit, memory that all compute alike, contradictions refused."""

import os
import re
from pathlib import Path

import pytest
from core_support import COLUMNS, POINTS, config_text, make_bundle

from models.manifest import Column
from streamer import memory
from streamer.config import parse
from streamer.errors import ConfigError
from streamer.ledger import Page
from streamer.pipeline import resolve
from streamer.plan import (
    MIN_SLOTS,
    Shared,
    StageSpec,
    columns_of,
    describe,
    find_bundle,
    layouts,
    parse_attach,
    ring_layout,
    route_names,
)


def refused(text: str, folder: Path) -> str:
    config = parse(text, "test")
    with pytest.raises(ConfigError) as caught:
        resolve(config, config.stream[0], -1, folder)
    return str(caught.value)


def resolved(text: str, folder: Path) -> StageSpec:
    config = parse(text, "test")
    return resolve(config, config.stream[0], -1, folder)


def test_the_spec_survives_its_json_and_gives_the_same_layouts(tmp_path: Path) -> None:
    text = config_text(
        [make_bundle(tmp_path / "tiny")], '[[stream.route]]\nname = "a"\nwhen = "target.x > 1"'
    )
    spec = resolved(text.replace("bundles", 'attach = ["X/Y value"]\nbundles'), tmp_path)
    again = StageSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    before, after = (layouts(s.settings, s.columns) for s in (spec, again))
    assert before == after
    assert (before.ring.packed, before.ring.attached) == (5, 1)
    assert columns_of(again) == COLUMNS


def test_two_processes_see_the_same_pages_and_slots(tmp_path: Path) -> None:
    spec = resolved(config_text(), tmp_path)
    fd = memory.create("test", layouts(spec.settings, spec.columns).size_bytes)
    try:
        spec = spec.model_copy(update={"fd": fd})
        writer, other = Shared(spec), Shared(spec)
        for stage in ("ingest", "inference", "sink"):
            page = Page(writer.pages[stage], getattr(writer.layouts, stage))
            page.values[:] = range(len(page.values))
            page.commit()
        writer.ring.state[-1] = 3
        for stage in ("ingest", "inference", "sink"):
            assert other.reader(stage).read().tolist() == list(range(other.reader(stage).layout.cells))
        assert int(other.ring.state[-1]) == 3
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('dtype = "float32"', 'dtype = "uint16"'),
            "takes float32 events of shape .16., the stream has uint16",
        ),
        ((f"shape = [{POINTS}]", "shape = [17]"), r"the stream has float32 of \[17\]"),
    ],
)
def test_a_bundle_for_other_events_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = config_text([make_bundle(tmp_path / "tiny")]).replace(*change)
    assert re.search(message, refused(text, tmp_path))


def test_two_bundles_of_one_column_are_refused(tmp_path: Path) -> None:
    text = config_text([make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b", 1)])
    message = refused(text, tmp_path)
    assert "the result columns ['latent', 'target'] are given twice" in message


def test_two_bundles_of_different_columns_lie_side_by_side(tmp_path: Path) -> None:
    other = (Column("z", "float32", ("a", "b")), Column("y", "float32", ("x", "y", "z")))
    pair = [make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b", 1, columns=other)]
    spec = resolved(config_text(pair), tmp_path)
    assert [column.name for column in spec.columns] == ["latent", "target", "z", "y"]
    assert describe(spec)["columns"]["z"] == ["float32", "a", "b"]


def test_an_unknown_bundle_is_named_with_those_shipped() -> None:
    with pytest.raises(ConfigError, match=r"no bundle 'nothing': expected a folder .* one of .*droplet_cnn"):
        find_bundle("nothing")


def test_an_altered_manifest_is_refused(tmp_path: Path) -> None:
    (make_bundle(tmp_path / "tiny") / "manifest.json").write_text("{}")
    assert "stream s: missing key" in refused(config_text([tmp_path / "tiny"]), tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SA1_XGM/XGM/DOOCS:output data.intensityTD", ("intensityTD", "data.intensityTD")),
        ("A/B value", ("value", "value")),
        ("A/B actualPosition.value", ("actualPosition", "actualPosition.value")),
        ("energy = A/B data.x", ("energy", "data.x")),
        ("  energy=A/B   data.x ", ("energy", "data.x")),
    ],
)
def test_attached_scalars_have_names(text: str, expected: tuple[str, str]) -> None:
    attach = parse_attach(text)
    assert (attach.name, attach.key) == expected


@pytest.mark.parametrize("text", ["", "A/B", "A B C", "x = A/B", "x = y = A/B c"])
def test_what_is_no_attached_scalar_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected 'SOURCE key' or 'name = SOURCE key'"):
        parse_attach(text)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ('attach = ["A x", "B x"]', "attached scalars need names of their own; ['x'] are taken"),
        ('attach = ["verdict = A x"]', "verdict"),
        ('attach = ["train_id = A x"]', "train_id"),
        ('attach = ["received_at = A x"]', "received_at"),
    ],
)
def test_names_that_are_taken_are_refused(tmp_path: Path, stream: str, message: str) -> None:
    assert message in refused(config_text(stream=stream), tmp_path)


@pytest.mark.parametrize("name", ["verdict", "flags", "pulse_id"])
def test_a_bundle_may_not_replace_what_every_event_has(tmp_path: Path, name: str) -> None:
    columns = (Column(name, "float32", ("a", "b")), COLUMNS[1])
    assert name in refused(config_text([make_bundle(tmp_path / "tiny", columns=columns)]), tmp_path)


@pytest.mark.parametrize(
    ("axes", "shape"), [("pulse", "[16]"), ("pulse bin bin", "[16]"), ("pulse slow", "[16]"), ("", "[16]")]
)
def test_axes_that_cannot_be_are_refused(tmp_path: Path, axes: str, shape: str) -> None:
    text = config_text().replace("pulse bin", axes).replace(f"[{POINTS}]", shape)
    assert refused(text, tmp_path).startswith("stream s: source:")


def test_sources_must_be_as_many_as_modules(tmp_path: Path) -> None:
    text = config_text().replace('"SIM_DET/DET/SPEC:output"', '"D/{0..3}"')
    assert "4 sources are stacked as modules, so source.shape must be [4, slow, fast]" in refused(
        text, tmp_path
    )


def test_rules_that_read_what_there_is_not_are_refused(tmp_path: Path) -> None:
    message = refused(config_text(routes='[[stream.route]]\nname = "a"\nwhen = "p.x > 1"'), tmp_path)
    assert "route 'a'" in message


def test_without_rules_everything_is_kept() -> None:
    assert route_names(parse(config_text(), "t").stream[0]) == ["all"]


def test_a_ring_too_small_to_turn_is_refused_with_the_size_it_needs() -> None:
    stream = parse(config_text().replace(f"[{POINTS}]", "[65536]"), "t").stream[0]
    with pytest.raises(ConfigError, match="holds 0 blocks of 8 events of 262144 bytes; at least 8") as caught:
        ring_layout(stream, 0)
    needed = int(str(caught.value).split("set ring_bytes = ")[1].split()[0])
    assert ring_layout(stream.model_copy(update={"ring_bytes": needed}), 0).slots == MIN_SLOTS


@pytest.mark.parametrize(
    ("bundles", "ring_mib", "expected"),
    [(("b",), 64, (64, 64)), ((), 64, (256, 16)), ((), 256, (256, 64)), ((), 16, (64, 16))],
)
def test_blocks_are_about_a_mebibyte_and_more_without_a_network(
    bundles: tuple[str, ...], ring_mib: int, expected: tuple[int, int]
) -> None:
    text = config_text().replace("block_events = 8\n", "").replace("1048576", str(ring_mib << 20))
    stream = parse(text.replace(f"[{POINTS}]", "[4096]"), "t").stream[0]
    ring = ring_layout(stream.model_copy(update={"bundles": bundles}), 0)
    assert (ring.events, ring.slots) == expected
