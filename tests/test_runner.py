"""The networks on a device: one upload, shared preprocessing, the golden answers, the neighbours of a NaN."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from core_support import COLUMNS, POINTS, events, make_bundle

from models.bundle import BFLOAT16, Bundle, load_bundle, run_bundle
from models.manifest import BundleError
from streamer import runner
from streamer.cuda import CudaRunner
from streamer.device import NoRunner, Runner
from streamer.engines.plain import MODES
from streamer.networks import Networks
from streamer.runner import CpuRunner, Wanted, batches, make_runner

PLAIN = MODES[0]
OTHER = tuple(replace(column, name=f"{column.name}2") for column in COLUMNS)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """`twin` shares the preprocessing of `one`; `apart` has its own."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {
        "one": make_bundle(folder / "one", 0),
        "twin": make_bundle(folder / "twin", 1, columns=OTHER),
        "apart": make_bundle(folder / "apart", 2, dark=9.0, columns=OTHER),
    }
    return {name: load_bundle(path) for name, path in made.items()}


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


def plain(bundle: Bundle, frames: np.ndarray) -> np.ndarray:
    return run_bundle(bundle, torch.from_numpy(frames)).numpy()


def calls(bundle: Bundle) -> list[int]:
    """Sizes of the batches that the bundle's preprocessing sees from now on."""
    seen: list[int] = []
    bundle.preprocess.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize(("second", "runs"), [("twin", 1), ("apart", 2)])
def test_bundles_share_the_preprocessing_where_they_agree(
    bundles: dict[str, Bundle], second: str, runs: int
) -> None:
    pair = [bundles["one"], bundles[second]]
    seen = calls(pair[0]), calls(pair[1])
    got = Networks(pair)(torch.from_numpy(events(3))).numpy()
    assert sum(map(len, seen)) == runs
    assert np.array_equal(got, np.concatenate([plain(b, events(3)) for b in pair], axis=1))


@pytest.mark.parametrize("sizes", [[1], [5], [3, 4], [1, 1, 1], [40], [16, 16], [17, 30]])
def test_the_cpu_gives_the_plain_answers_for_blocks_of_any_size(
    bundles: dict[str, Bundle], sizes: list[int]
) -> None:
    pair = [bundles["one"], bundles["apart"]]
    blocks = [events(n, seed) for seed, n in enumerate(sizes)]
    got = CpuRunner(pair, 16, PLAIN).submit(blocks).wait()
    want = np.concatenate([plain(bundle, np.concatenate(blocks)) for bundle in pair], axis=1)
    assert got.dtype == np.float32
    assert np.allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_a_batch_is_cut_at_the_largest_size(bundles: dict[str, Bundle]) -> None:
    cpu = CpuRunner([bundles["one"]], 16, PLAIN)
    seen = calls(bundles["one"])
    assert cpu.submit([events(40)]).wait().shape == (40, 5)
    assert seen == [16, 16, 8]


def test_small_blocks_share_a_batch_and_only_a_larger_one_is_cut() -> None:
    blocks = [events(n) for n in (3, 4, 12, 5, 40, 1)]
    sizes = [[len(part) for part in group] for group in batches(blocks, 16)]
    assert sizes == [[3, 4], [12], [5], [16], [16], [8, 1]]


@pytest.mark.parametrize("mode", MODES)
def test_a_nan_in_one_event_leaves_its_neighbours_bitwise_as_they_were(
    bundles: dict[str, Bundle], mode: str
) -> None:
    cpu, frames = CpuRunner([bundles["one"]], 16, mode), events(8)
    clean = cpu.submit([frames]).wait()
    spoilt = frames.copy()
    spoilt[3, 7] = np.nan
    got = cpu.submit([spoilt]).wait()
    others = [i for i in range(8) if i != 3]
    assert np.isnan(got[3]).any()
    assert np.array_equal(got[others], clean[others])


def test_the_chosen_engine_gives_the_golden_answers(
    bundles: dict[str, Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = bundles["one"]
    with caplog.at_level("INFO"):
        cpu = CpuRunner([bundle], 16)
    assert f"chosen: {cpu.mode}" in caplog.text
    got = cpu.submit([bundle.golden_input.numpy()]).wait()
    want = bundle.golden_output.numpy()
    assert np.abs(got - want).max() <= BFLOAT16.share * np.abs(want).max()


def test_a_bundle_that_does_not_give_its_golden_answers_is_refused(bundles: dict[str, Bundle]) -> None:
    wrong = replace(bundles["one"], golden_output=bundles["one"].golden_output + 1)
    with pytest.raises(BundleError, match=r"column 'latent' in one in float32"):
        CpuRunner([wrong], 16)


def test_without_bundles_every_event_has_an_empty_row() -> None:
    none = make_runner([], np.zeros((8, 8, POINTS), np.float32), Wanted(16, "cpu", 1))
    assert isinstance(none, NoRunner)
    assert none.submit([events(3), events(4)]).wait().shape == (7, 0)
    assert none.submit([events(3)]).done()


def test_the_device_and_the_threads_are_those_asked_for(bundles: dict[str, Bundle]) -> None:
    frames = np.zeros((8, 8, POINTS), np.float32)
    assert isinstance(make_runner([bundles["one"]], frames, Wanted(16, "cpu", 1)), CpuRunner)
    assert torch.get_num_threads() == 1
    assert runner.default_threads() >= 1
    before = torch.get_num_threads()
    make_runner([bundles["one"]], frames, Wanted(16, "cpu"))
    first = torch.get_num_threads()
    make_runner([bundles["one"]], frames, Wanted(16, "cpu"))  # as a swap does
    assert torch.get_num_threads() == first
    torch.set_num_threads(before)


def test_an_engine_that_was_chosen_before_is_taken_again_or_another_one(
    bundles: dict[str, Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    frames = np.zeros((8, 8, POINTS), np.float32)
    again = make_runner([bundles["one"]], frames, Wanted(16, "cpu", 1, MODES[0]))
    assert isinstance(again, CpuRunner)
    assert again.mode == MODES[0]
    with caplog.at_level("WARNING"):
        other = make_runner([bundles["one"]], frames, Wanted(16, "cpu", 1, "an engine of last year"))
    assert isinstance(other, CpuRunner)
    assert "the engine chosen before is not used again: engine: expected one of" in caplog.text


def test_integer_frames_of_several_blocks(tmp_path: Path) -> None:
    """uint16, as detectors deliver: torch knows few operations on it."""
    from models.bundle import save_bundle
    from models.networks.ednn import EDNN
    from models.preprocess import Preprocess

    torch.manual_seed(0)
    steps = {"steps": [{"op": "standardise", "epsilon": 1e-6}]}
    raw = torch.randint(0, 65535, (4, POINTS)).to(torch.uint16)
    from core_support import manifest

    modules = (Preprocess(steps, (POINTS,)), EDNN(POINTS, [8], 2, 3))
    described = manifest("u2", input_dtype="uint16", preprocess=steps)
    save_bundle(tmp_path / "u2", described, modules, raw, lambda _: "# u2\n")
    bundle = load_bundle(tmp_path / "u2")
    blocks = [np.full((n, POINTS), 60000, np.uint16) + np.arange(POINTS, dtype=np.uint16) for n in (3, 20)]
    got = CpuRunner([bundle], 8, PLAIN).submit(blocks).wait()
    assert got.shape == (23, 5)
    assert np.allclose(got, got[0], atol=1e-4 * np.abs(got).max() + 1e-6)


# --- CUDA ---------------------------------------------------------------------------------------------

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def cuda(bundles: list[Bundle], max_events: int = 16) -> tuple[Runner, np.ndarray]:
    frames = np.zeros((8, 16, POINTS), np.float32)
    return CudaRunner(bundles, frames, max_events, torch.device("cuda")), frames


def close_enough(got: np.ndarray, want: np.ndarray) -> bool:
    return bool((np.abs(got - want) <= BFLOAT16.share * np.abs(want).max(axis=0) + 1e-6).all())


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 16])
def test_the_gpu_gives_the_cpus_answers_in_every_bucket(bundles: dict[str, Bundle], n: int) -> None:
    want = plain(bundles["one"], events(n, 7))
    device, frames = cuda([bundles["one"]])
    frames[2, :n] = events(n, 7)
    got = device.submit([frames[2, :n]]).wait()
    bundles["one"].preprocess.cpu()
    bundles["one"].network.cpu()
    assert got.shape == want.shape
    assert close_enough(got, want)


@gpu
@pytest.mark.gpu
def test_two_batches_under_way_do_not_touch_each_other(bundles: dict[str, Bundle]) -> None:
    want = [plain(bundles["one"], events(16, seed)) for seed in range(64)]
    device, frames = cuda([bundles["one"]])
    assert device.depth == 2
    for round_ in range(32):
        pair = []
        for lane in (0, 1):
            frames[lane] = events(16, 2 * round_ + lane)
            pair.append(device.submit([frames[lane]]))
        for lane, pending in enumerate(pair):
            assert close_enough(pending.wait(), want[2 * round_ + lane])
            assert pending.done()
    bundles["one"].preprocess.cpu()
    bundles["one"].network.cpu()


@gpu
@pytest.mark.gpu
def test_a_second_runner_on_the_same_ring_while_the_first_serves(bundles: dict[str, Bundle]) -> None:
    """A swap: the memory is page-locked already, and capture must not disturb who is at work."""
    import threading

    want = plain(bundles["one"], events(16, 3))
    device, frames = cuda([bundles["one"]])
    frames[0] = events(16, 3)
    made: list[Runner] = []
    thread = threading.Thread(
        target=lambda: made.append(CudaRunner([bundles["apart"]], frames, 16, torch.device("cuda")))
    )
    thread.start()
    while thread.is_alive():
        pending = device.submit([frames[0]])
        pending.done()
        assert close_enough(pending.wait(), want)
    thread.join()
    assert made[0].submit([frames[0]]).wait().shape == (16, 5)
