"""What the steering card offers is what the stream would take."""

import os
from pathlib import Path

import pytest
from core_support import config_text, place

from models.manifest import read_manifest
from models.shipped import shipped_names
from streamer.bundles import Loaded, replace
from streamer.config import parse
from streamer.dashboard.board import Past, View, make_view
from streamer.dashboard.overview import note
from streamer.dashboard.state import StreamState
from streamer.dashboard.steering_view import swap_choices
from streamer.device import NoRunner
from streamer.errors import ConfigError
from streamer.plan import StageSpec, make_router


@pytest.fixture
def spec(tmp_path: Path) -> StageSpec:
    """A stream of droplets."""
    text = config_text([Path("droplet_cnn"), Path("droplet_vae")]).replace('"float32"', '"uint16"')
    text = text.replace('"pulse bin"', '"pulse slow fast"').replace("1048576", str(16 << 20))
    lines = ["shape = [128, 128]" if line.startswith("shape = ") else line for line in text.splitlines()]
    spec, fd = place(parse("\n".join(lines), "test"), tmp_path)
    os.close(fd)
    return spec


def view(spec: StageSpec) -> View:
    return make_view("s", StreamState(spec), (Past(), Past()), 0.0)


def test_a_bundle_is_offered_if_a_swap_takes_it(spec: StageSpec) -> None:
    version = spec.first_version
    manifests = tuple(read_manifest(Path(ref.path)) for ref in version.bundles)
    loaded = Loaded(version, manifests, NoRunner(), make_router(spec))

    def taken(name: str) -> bool:
        try:
            return bool(replace(loaded, name))
        except ConfigError:
            return False

    expected = [name for name in shipped_names() if taken(name)]
    assert {"droplet_cnn", "droplet_vae"} <= set(expected) < set(shipped_names())
    assert list(swap_choices(view(spec))) == expected


def test_what_did_not_reach_the_page_is_told(spec: StageSpec) -> None:
    shown = view(spec)
    assert note(shown) == ""
    shown.state.linked(missed_blocks=3, bad_messages=4)
    assert "missed 3 blocks" in note(shown)
    assert "4 messages on the address of the results" in note(shown)
