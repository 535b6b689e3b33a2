"""The bundles of a stream between their folder and a warm runner."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from core_support import COLUMNS, POINTS, Line, config_text, events, line, make_bundle, until

from models.manifest import Column
from streamer.bundles import Loaded, Swap, load, replace
from streamer.errors import ConfigError
from streamer.plan import BundleRef

OTHER = (Column("z", "float32", ("a", "b")), Column("y", "float32", ("x", "y", "z")))


@pytest.fixture
def stream(folder: Path) -> Iterator[Line]:
    pair = [make_bundle(folder / "one"), make_bundle(folder / "two", 1, columns=OTHER)]
    with line(folder, config_text(pair)) as made:
        yield made


@pytest.fixture
def loaded(stream: Line) -> Loaded:
    return load(stream.spec, stream.spec.first_version, stream.shared.ring.frames)


def test_they_are_those_of_the_spec_and_warm(loaded: Loaded, stream: Line) -> None:
    assert [manifest.name for manifest in loaded.manifests] == ["one", "two"]
    assert loaded.refs == stream.spec.bundles
    assert loaded.runner.submit([events(3)]).wait().shape == (3, 10)


def test_a_bundle_that_changed_since_the_start_is_refused(stream: Line, folder: Path) -> None:
    make_bundle(folder / "one", 5)
    with pytest.raises(ConfigError, match=r"one changed since the run began.*put the old files back"):
        load(stream.spec, stream.spec.first_version, stream.shared.ring.frames)


def test_an_altered_file_is_refused(stream: Line, folder: Path) -> None:
    (folder / "one" / "golden.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match="sha256"):
        load(stream.spec, stream.spec.first_version, stream.shared.ring.frames)


@pytest.mark.parametrize(("columns", "place"), [(COLUMNS, 0), (OTHER, 1)])
def test_a_new_bundle_takes_the_place_of_the_one_like_it(
    loaded: Loaded, folder: Path, columns: tuple[Column, ...], place: int
) -> None:
    new = make_bundle(folder / "new", 7, columns=columns)
    refs = replace(loaded, str(new))
    assert refs[place] == BundleRef(name="new", path=str(new.resolve()), sha256=refs[place].sha256)
    assert refs[1 - place] == loaded.refs[1 - place]


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "no bundle 'nothing'"), ("broken", "sha256"), ("alien", "a swap needs")]
)
def test_a_swap_that_fails_says_why(
    stream: Line, loaded: Loaded, folder: Path, name: str, message: str
) -> None:
    make_bundle(folder / "alien", columns=(Column("q", "float32", ("a", "b")), COLUMNS[1]))
    make_bundle(folder / "broken", 3)
    (folder / "broken" / "weights.safetensors").write_bytes(b"x")
    asked = str(folder / name) if name != "nothing" else name
    swap = Swap(stream.spec, stream.shared.ring.frames, loaded, asked)
    until(lambda: swap._thread.join(0.05) or swap.finished())  # type: ignore[func-returns-value]
    assert swap.loaded is None
    assert message in swap.error


def test_a_swap_loads_beside_the_stream(stream: Line, loaded: Loaded, folder: Path) -> None:
    new = make_bundle(folder / "new", 7)
    swap = Swap(stream.spec, stream.shared.ring.frames, loaded, str(new))
    until(lambda: swap._thread.join(0.05) or swap.finished())  # type: ignore[func-returns-value]
    assert swap.error == ""
    assert swap.loaded is not None
    before, after = (x.runner.submit([events(2)]).wait() for x in (loaded, swap.loaded))
    assert not np.allclose(before[:, :5], after[:, :5])
    assert np.allclose(before[:, 5:], after[:, 5:], rtol=0.1, atol=0.1)
    assert events(2).shape == (2, POINTS)
