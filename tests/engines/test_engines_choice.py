"""The engines of a CPU: right answers or none, and the rule of choice."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from core_support import POINTS, events, make_bundle, manifest
from torch import Tensor, nn

from models.bundle import Bundle, load_bundle, save_bundle
from models.manifest import BundleError
from models.networks.ednn import EDNN
from models.preprocess import Preprocess
from models.shipped import SHIPPED
from streamer.engines import choice as engines
from streamer.engines.choice import OPENVINO, Trial, batch_sizes, check, choose, edge_events, fastest, named
from streamer.engines.guard import Guarded, always_masked
from streamer.engines.plain import MODES, Engine, Events, Packed, Run, TorchEngine
from streamer.networks import Networks
from streamer.runner import CpuRunner

OWN = "streamer.engines.openvino"
SHIPPED_NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/manifest.json"))
NEEDS_OPENVINO = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (extra cpu)"
)


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(make_bundle(tmp_path_factory.mktemp("bundles") / "one", 0))


# --- the rule -------------------------------------------------------------------------------------------


def trial(name: str, single_hz: float, full_hz: float, exact: bool = True) -> Trial:
    return Trial(name, exact, single_hz, full_hz)


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([trial("a", 1, 100)], "a"),
        ([trial("a", 1, 100), trial("b", 1, 120)], "b"),
        ([trial("a", 2, 100), trial("b", 1, 104)], "a"),  # as near as a measurement repeats
        ([trial("a", 2, 100), trial("b", 1, 106)], "b"),
        ([trial("a", 1, 100), trial("b", 9, 109, exact=False)], "a"),  # its rounding does not pay
        ([trial("a", 9, 100), trial("b", 1, 111, exact=False)], "b"),
        ([trial("a", 9, 100), trial("b", 1, 111, exact=False), trial("c", 2, 109)], "c"),
    ],
)
def test_the_rule_of_choice(trials: list[Trial], chosen: str) -> None:
    assert choose(trials).name == chosen


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (3, [1, 3]), (4, [1, 4]), (32, [1, 4, 16, 32]), (4096, [1, 4, 16, 64])]
)
def test_batch_sizes_begin_with_one_and_end_with_the_largest(most: int, sizes: list[int]) -> None:
    assert batch_sizes(most) == sizes


# --- right answers, or refused --------------------------------------------------------------------------


class Changed:
    """The plain engine with something wrong in its answers."""

    name, exact = "changed", True

    def __init__(self, networks: nn.Module, offset: float = 0.0, number: float | None = None) -> None:
        self._plain, self._offset, self._number = TorchEngine(networks, exact=True), offset, number

    def prepare(self, sizes: Sequence[int]) -> None:
        pass

    def run(self, events: Events) -> Packed:
        packed = self._plain.run(events) + np.float32(self._offset)
        return packed if self._number is None else np.nan_to_num(packed, nan=self._number)

    def forms(self) -> list[Run]:
        return [self.run]


class Broken(Changed):
    name = "broken"

    def prepare(self, sizes: Sequence[int]) -> None:
        raise RuntimeError(f"no such operation for {sizes}:\naten::nothing")


def test_an_engine_that_answers_wrongly_swallows_a_nan_or_breaks_is_not_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    networks = Networks([bundle])
    plain = TorchEngine(networks, exact=True)
    bad = [Changed(networks, offset=1.0), Changed(networks, number=0.0), Broken(networks)]
    monkeypatch.setattr(engines, "engines", lambda *_: [plain, *bad])
    with caplog.at_level("WARNING"):
        assert fastest(networks, [bundle], 16) is plain
    assert "changed is not used: column 'latent' in one in changed" in caplog.text
    assert "expected numbers that are not finite" in caplog.text
    assert "broken is not used: no such operation for [1]: aten::nothing" in caplog.text


class WrongAt64(Changed):
    """Right alone and in the batch that is timed."""

    name, offset = "wrong at 64", 0.0

    def prepare(self, sizes: Sequence[int]) -> None:
        self._offset = float(64 in sizes)


def test_an_engine_is_checked_in_every_size_that_it_will_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    networks = Networks([bundle])
    plain = TorchEngine(networks, exact=True)
    monkeypatch.setattr(engines, "engines", lambda *_: [plain, WrongAt64(networks)])
    monkeypatch.setattr(engines, "choose", lambda trials: trials[-1])
    with caplog.at_level("WARNING"):
        assert fastest(networks, [bundle], 64) is plain
    assert "wrong at 64 is not used: column 'latent'" in caplog.text


def test_a_broken_installation_costs_itself_only(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('a library is missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino" or name == OWN]:
        monkeypatch.delitem(sys.modules, name)
    with caplog.at_level("WARNING"):
        assert fastest(Networks([bundle]), [bundle], 4).name in MODES
    assert "OpenVINO is not used: a library is missing" in caplog.text


def test_every_bundle_of_a_stream_is_checked(bundle: Bundle) -> None:
    networks = Networks([bundle, bundle])
    plain = TorchEngine(networks, exact=True)
    check(plain, plain, [bundle, bundle])
    wrong = replace(bundle, golden_output=bundle.golden_output + 1)
    with pytest.raises(BundleError, match="column 'latent'"):
        check(plain, plain, [bundle, wrong])


def test_an_engine_that_is_not_there_is_named(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match=r"engine: expected one of .*, got 'none such'"):
        named("none such", Networks([bundle]), [bundle], 16)


# --- events that are not ordinary numbers ---------------------------------------------------------------


class Deaf(nn.Module):
    """A network whose answer is finite whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0).sum(1, keepdim=True)


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)


def guarded(masked: np.ndarray | None) -> Guarded:
    return Guarded(TorchEngine(Deaf(), exact=True), TorchEngine(Summed(), exact=True), masked)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20])
@pytest.mark.parametrize("n", [1, 5])
def test_an_event_with_no_ordinary_number_goes_the_plain_way(value: float, n: int) -> None:
    frames = np.ones((n, 4), np.float32)
    frames[n // 2, 3] = value
    got = guarded(None).run(frames)[:, 0]
    assert np.array_equal(got, frames.sum(1), equal_nan=True)


def test_a_masked_pixel_may_hold_anything() -> None:
    frames = np.ones((3, 4), np.float32)
    frames[:, 0] = np.nan
    frames[2, 1] = np.nan
    got = guarded(np.array([True, False, False, False])).run(frames)[:, 0]
    assert got[:2].tolist() == [3.0, 3.0]
    assert np.isnan(got[2])


def test_only_pixels_that_every_bundle_masks_before_they_can_spread_count_as_masked(
    bundle: Bundle, tmp_path: Path
) -> None:
    def with_steps(name: str, *ops: str) -> Bundle:
        steps = {"steps": [{"op": "standardise", "epsilon": 1e-6} if op == "s" else {"op": op} for op in ops]}
        mask = torch.ones(POINTS)
        mask[2] = 0
        modules = (Preprocess(steps, (POINTS,), {"mask": mask}), EDNN(POINTS, [8], 2, 3))
        described = manifest(name, preprocess=steps)
        save_bundle(tmp_path / name, described, modules, torch.rand(4, POINTS), lambda _: "# m\n")
        return load_bundle(tmp_path / name)

    first, late = with_steps("first", "mask", "s"), with_steps("late", "s", "mask")
    masked = always_masked([first])
    assert masked is not None
    assert np.flatnonzero(masked).tolist() == [2]
    assert always_masked([late]) is None
    assert always_masked([first, bundle]) is None


# --- all engines, all shipped bundles -------------------------------------------------------------------


@pytest.fixture(scope="module", params=SHIPPED_NAMES)
def served(request: pytest.FixtureRequest) -> tuple[Bundle, dict[str, Engine]]:
    """A shipped bundle and the engines that are not refused, for up to 4 events at once."""
    torch.set_num_threads(1)
    bundle = load_bundle(SHIPPED / request.param)
    networks = Networks([bundle])
    plain, *others = engines.engines(networks, [bundle])
    usable = {plain.name: plain}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "TRIALS", 1)  # nothing is chosen here
        for engine in others:
            if engines._try(engine, plain, [bundle], 4) is not None:
                usable[engine.name] = engine
    return bundle, usable


def test_every_usable_engine_gives_the_golden_answers(served: tuple[Bundle, dict[str, Engine]]) -> None:
    bundle, usable = served
    for engine in usable.values():
        check(engine, usable[MODES[0]], [bundle])


@NEEDS_OPENVINO
def test_openvino_runs_every_shipped_bundle(served: tuple[Bundle, dict[str, Engine]]) -> None:
    assert OPENVINO[0] in served[1]


def test_an_event_gets_the_same_labels_alone_and_in_a_batch(
    served: tuple[Bundle, dict[str, Engine]],
) -> None:
    bundle, usable = served
    raw = bundle.golden_input.numpy()[:7].astype(np.float32)
    whole = [column for column in bundle.manifest.columns if column.dtype != "float32"]
    for engine in usable.values():
        alone = np.concatenate([engine.run(raw[i : i + 1].copy()) for i in range(len(raw))])
        batch = engine.run(raw)
        largest = np.abs(batch).max(0)
        assert (np.abs(alone - batch) <= (1e-3 if engine.exact else 2e-2) * largest.max()).all()
        start = 0
        for column in bundle.manifest.columns:
            if column in whole and engine.exact:
                assert np.array_equal(alone[:, start], batch[:, start]), (engine.name, column.name)
            start += column.width


def test_no_engine_makes_a_number_of_what_is_none(served: tuple[Bundle, dict[str, Engine]]) -> None:
    bundle, usable = served
    edges = edge_events(bundle)
    want = np.isfinite(usable[MODES[0]].run(edges))
    for engine in usable.values():
        assert not (np.isfinite(engine.run(edges)) & ~want).any(), engine.name


@NEEDS_OPENVINO
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float64])
def test_raw_events_of_any_type(bundle: Bundle, dtype: type) -> None:
    cpu = CpuRunner([bundle], 4, OPENVINO[0])
    raw = (events(11) * 10).clip(0, 200).astype(dtype)
    want = TorchEngine(Networks([bundle]), exact=True).run(raw.astype(np.float32))
    got = cpu.submit([raw[:2], raw[2:]]).wait()
    assert np.allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
