"""What runs on a GPU, as far as a CPU can tell: the networks of the aims, what a graph can capture, sizes,
gathered uploads, weights kept in bfloat16, and the benchmark's own arithmetic. Marked `gpu`: the rest.
"""

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import numpy as np
import pytest
import torch
from core_support import manifest
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import gpu
from benchmarks.gpu_bundle import Bench, Effort, batches, found, served
from benchmarks.gpu_ceilings import RING_BYTES, Ceilings, shared_frames, upload_rates, work
from benchmarks.gpu_networks import AIMS_HZ, NETWORKS, build
from benchmarks.helper import ROOT
from models.bundle import BFLOAT16, Bundle, load_bundle, run_bundle, save_bundle, verify_golden
from models.manifest import BundleError
from models.networks.ednn import EDNN
from models.preprocess import Preprocess
from models.shipped import SHIPPED
from streamer.cuda import GATHER_BYTES, CudaRunner, cast_once, gathered, graph_sizes
from streamer.engines.plain import MODES
from streamer.networks import Networks
from streamer.runner import CpuRunner

NAMES = [network.name for network in NETWORKS]
SHIPPED_NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/manifest.json"))
LIMITS = Ceilings(upload_bytes_per_s=55e9, flop_per_s=790e12, copy_bytes_per_s=4.3e12)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    built = {path.name: path for path in build(tmp_path_factory.mktemp("aims"))}
    return built | {name: SHIPPED / name for name in SHIPPED_NAMES}


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


def in_bfloat16(bundle: Bundle) -> Any:
    def run(raw: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return Networks([bundle])(raw).float()

    return run


# --- the networks of the aims ---------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS, ids=NAMES)
def test_a_network_of_an_aim_is_a_bundle_that_answers_in_bfloat16_too(
    paths: dict[str, Path], network: Any
) -> None:
    bundle = load_bundle(paths[network.name])
    assert bundle.manifest.input_shape == network.shape
    assert bundle.manifest.input_dtype == "uint16"
    got = Networks([bundle])(bundle.golden_input)
    assert got.shape == (len(bundle.golden_input), bundle.manifest.packed_width)
    assert torch.equal(got, run_bundle(bundle, bundle.golden_input))
    verify_golden(bundle, in_bfloat16(bundle), BFLOAT16, network.name)
    # Events that all give one answer would hide a mixed-up batch.
    assert (got.std(0) > 0).any()


def test_the_networks_cost_what_the_aims_were_set_for(paths: dict[str, Path]) -> None:
    """MFLOP an event of the rooflines: 3470, 47.5, 3.9 (the encoder alone), 65 (the published has more)."""
    mflop = {name: work(load_bundle(paths[name])).flop / 1e6 for name in NAMES}
    assert mflop["resnet18_224"] == pytest.approx(3470, rel=0.01)
    assert mflop["spectra_cnn_1280"] == pytest.approx(47.5, rel=0.1)
    assert 3.9 <= mflop["ednn_1280"] <= 6
    assert mflop["tcvae_mixture_128"] > 65
    assert set(NAMES) <= set(AIMS_HZ)
    for name in NAMES:
        limits = LIMITS.events_per_s(work(load_bundle(paths[name])))
        assert min(limits.values()) > AIMS_HZ[name], f"{name}: an aim that no device of this kind can reach"


# --- what a CUDA graph can capture ----------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Notes the operations after which the host would wait for a value of the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "linalg", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.found += [name] if name.startswith(self.WAITS) else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*NAMES, *SHIPPED_NAMES])
def test_no_network_reads_a_value_or_makes_a_tensor_elsewhere(paths: dict[str, Path], name: str) -> None:
    """Either would break the capture. A tensor made without naming a device comes out on `meta` here."""
    bundle = load_bundle(paths[name])
    with torch.inference_mode(), torch.device("meta"), Reads() as reads:
        Networks([bundle])(bundle.golden_input[:2])
    assert not reads.found


def test_the_check_finds_a_value_that_is_read() -> None:
    with Reads() as reads:
        torch.ones(2).sum().item()
        torch.tensor([1.0])
    assert reads.found == ["_local_scalar_dense", "lift_fresh"]


@pytest.mark.parametrize("name", [*NAMES, *SHIPPED_NAMES])
def test_weights_that_are_cast_once_give_the_same_bits(paths: dict[str, Path], name: str) -> None:
    bundle = load_bundle(paths[name])
    raw = bundle.golden_input[:4]
    want, exact = in_bfloat16(bundle)(raw), run_bundle(bundle, raw)
    undo = cast_once(Networks([bundle]), raw[:1])
    cast = [p for p in bundle.network.parameters() if p.dtype == torch.bfloat16]
    assert len(cast) > 0 or name == "water_nnca"  # which computes in float32 throughout
    assert torch.equal(in_bfloat16(bundle)(raw), want)
    undo()
    assert torch.equal(run_bundle(bundle, raw), exact)


@pytest.mark.parametrize("largest", [1, 2, 8, 9, 16, 100, 352, 512, 8192])
def test_every_batch_has_a_graph_that_is_at_most_half_as_large_again(largest: int) -> None:
    sizes = graph_sizes(largest)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == largest
    assert len(sizes) <= 2 * largest.bit_length()
    for n in range(1, largest + 1):
        size = next(size for size in sizes if size >= n)
        assert size <= (1.5 * n if n > 8 else 2 * n)


def test_many_small_blocks_are_put_side_by_side_and_large_ones_left() -> None:
    staging = np.zeros((8, GATHER_BYTES // 2), np.uint8)
    small = [np.full((n, GATHER_BYTES // 2), n, np.uint8) for n in (1, 2, 1)]
    assert gathered(small, staging)
    assert staging[:, 0].tolist() == [1, 2, 2, 1, 0, 0, 0, 0]
    assert not gathered(small[:1], staging)
    assert not gathered([np.ones((4, GATHER_BYTES // 2), np.uint8)] * 2, staging)


# --- the benchmark --------------------------------------------------------------------------------------


def test_rates_and_latencies_come_out_of_any_runner(paths: dict[str, Path]) -> None:
    bundle = load_bundle(paths["ednn_1280"])
    frames = np.resize(bundle.golden_input.numpy(), (4, 64, 1280))
    runner = CpuRunner([bundle], 64, MODES[0])
    bench = Bench(frames, runner, bundle.manifest.columns, Effort(repeats=2, window_s=0.05, blocks=10))
    values = found(bench, (1, 64)) | {"name": "ednn_1280", "work": asdict(work(bundle))}
    assert all(rate > 0 for rates in (*values["rates"].values(), values["small"]) for rate in rates)
    assert all(0 < s < 1 for seconds in values["latency_s"].values() for s in seconds)
    table = list(gpu.lines(values, LIMITS))
    assert [line.contender for line in table[:2]] == ["batch 1", "batch 64"]
    assert table[1].values["aim"] == 10e6
    # 2560 bytes at 55 GB/s are the least of the three limits.
    assert table[1].values["share"] == pytest.approx(table[1].measured.median * 2560 / 55e9)
    assert "by upload; " in table[1].note


def test_the_limit_is_the_slowest_of_three(paths: dict[str, Path]) -> None:
    limits = LIMITS.events_per_s(work(load_bundle(paths["resnet18_224"])))
    assert limits["arithmetic"] == pytest.approx(790e12 / 3.47e9, rel=0.01)
    assert limits["upload"] == pytest.approx(55e9 / (2 * 224 * 224))
    line = gpu.rate_line("resnet18_224", "batch 512", [57e3], limits)
    assert min(limits, key=lambda kind: limits[kind]) == "arithmetic"
    assert "25% of the roofline" in line.note
    assert "0.95 of the aim" in line.note


def test_the_frames_are_one_shared_memory() -> None:
    frames = shared_frames((224, 224), 512, "uint16")
    assert frames.shape[1:] == (512, 224, 224)
    assert frames.nbytes > RING_BYTES * 3 // 4
    assert isinstance(frames.base, np.ndarray)
    assert frames.base.nbytes == frames.nbytes


def test_what_fails_is_named_and_what_has_no_time_left_too() -> None:
    """Without a device the process answers with the reason; with one, an unknown folder does."""
    run = gpu.Run(time.monotonic() + 60)
    assert run.ask("served", Path("/nowhere/at_all"), 60.0) is None
    assert "BundleError" in run.left_out["at_all served"]
    run.give_up_s = time.monotonic()
    assert run.ask("compiled", Path("/nowhere/at_all"), 60.0) is None
    assert run.left_out["at_all compiled"] == "no time left"


def test_the_measuring_process_needs_neither_zeromq_nor_pydantic() -> None:
    code = "import sys, benchmarks.gpu_bundle; print([m for m in ('zmq', 'pydantic') if m in sys.modules])"
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# --- on a device ----------------------------------------------------------------------------------------

cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
_KEPT: list[np.ndarray] = []  # registered memory stays: its address must not come back as another array's


def ring(bundle: Bundle, slots: int, events: int) -> np.ndarray:
    """Each slot with other events than the next, so that a mixed-up upload shows."""
    golden = bundle.golden_input.numpy()
    whole = np.empty((slots, events, *golden.shape[1:]), golden.dtype)
    for slot in range(slots):
        whole[slot] = golden[(np.arange(events) + slot) % len(golden)]
    _KEPT.append(whole)
    return whole


def served_by_cuda(path: Path, events: int = 24) -> tuple[CudaRunner, np.ndarray, Any]:
    """The runner, its ring, and the CPU's answers for (slot, number of events)."""
    bundle, plain = load_bundle(path), load_bundle(path)
    frames = ring(bundle, 64, events)
    runner = CudaRunner([bundle], frames, events, torch.device("cuda"))
    return runner, frames, lambda block: run_bundle(plain, torch.from_numpy(block)).numpy()


def agree(bundle_path: Path, got: np.ndarray, want: np.ndarray) -> None:
    start = 0
    for column in load_bundle(bundle_path).manifest.columns:
        part = slice(start, start := start + column.width)
        if column.dtype == "float32":
            # Twice what the golden answers may: another batch size may take another kernel.
            bound = 2 * BFLOAT16.share * np.abs(want[:, part]).max()
            assert np.abs(got[:, part] - want[:, part]).max() <= bound, column.name


@pytest.mark.parametrize("name", [*NAMES, *SHIPPED_NAMES])
class TestOnADevice:
    pytestmark = cuda

    def test_every_batch_size_gives_the_cpus_answers(self, paths: dict[str, Path], name: str) -> None:
        runner, frames, plain = served_by_cuda(paths[name])
        for n in graph_sizes(24):
            agree(paths[name], runner.submit([frames[1, :n]]).wait(), plain(frames[1, :n]))

    def test_blocks_of_one_event_come_out_in_their_order(self, paths: dict[str, Path], name: str) -> None:
        """Gathered on the host where events are small, one copy each where they are not."""
        runner, frames, plain = served_by_cuda(paths[name])
        blocks = [frames[(3 * i) % 64, i : i + 1] for i in range(20)]
        agree(paths[name], runner.submit(blocks).wait(), plain(np.concatenate(blocks)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_ring_is_page_locked_and_a_batch_that_is_too_large_leaves_the_lane_usable(
    paths: dict[str, Path],
) -> None:
    runner, frames, plain = served_by_cuda(paths["ednn_1280"])
    assert torch.from_numpy(frames[3, :5]).is_pinned()
    pending = runner.submit([frames[0]])
    with pytest.raises(ValueError, match="expected at most 24 events, got 48"):
        runner.submit([frames[1], frames[2]])
    agree(paths["ednn_1280"], pending.wait(), plain(frames[0]))
    for slot in (1, 2, 3):
        agree(paths["ednn_1280"], runner.submit([frames[slot]]).wait(), plain(frames[slot]))


def too_coarse(folder: Path) -> Path:
    """Answers that lie in the last bits of large numbers: bfloat16 has 8 of them."""
    torch.manual_seed(0)
    network = EDNN(16, [8], 2, 3)
    first = network.encoder[0]
    first.weight.data -= first.weight.data.mean(1, keepdim=True)
    raw = (30000 + torch.randint(0, 9, (8, 16), dtype=torch.int32)).to(torch.uint16)
    described = manifest("coarse", input_dtype="uint16", preprocess={"steps": []})
    save_bundle(folder, described, (Preprocess({"steps": []}, (16,)), network), raw, lambda _: "# coarse\n")
    return folder


def test_what_is_too_coarse_for_bfloat16_is_found_by_its_golden_answers(tmp_path: Path) -> None:
    bundle = load_bundle(too_coarse(tmp_path / "coarse"))
    with pytest.raises(BundleError, match="column 'latent'"):
        verify_golden(bundle, in_bfloat16(bundle), BFLOAT16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_runs_in_float32_then_and_wrong_answers_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = too_coarse(tmp_path / "coarse")
    runner, frames, plain = served_by_cuda(path)
    assert "bfloat16 is too coarse" in caplog.text
    agree(path, runner.submit([frames[5, :3]]).wait(), plain(frames[5, :3]))
    bundle = load_bundle(path)
    wrong = replace(bundle, golden_output=bundle.golden_output + 1)
    with pytest.raises(BundleError, match="column 'latent' in coarse on cuda"):
        CudaRunner([wrong], frames, 24, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_batches_in_flight_keep_their_own_answers_under_load(paths: dict[str, Path]) -> None:
    runner, frames, plain = served_by_cuda(paths["ednn_1280"])
    want, under_way = [plain(frames[slot]) for slot in range(64)], []
    for step in range(2000):
        under_way.append((step % 64, runner.submit([frames[step % 64]])))
        if len(under_way) == runner.depth:
            slot, pending = under_way.pop(0)
            agree(paths["ednn_1280"], pending.wait(), want[slot])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_upload_from_the_ring_is_that_of_locked_memory() -> None:
    """Unlocked memory gives 10 to 17 GB/s on such machines, locked more than 20 on any PCIe of 16 lanes."""
    from streamer.cuda import register

    frames = shared_frames((128, 128), 512, "uint16")
    frames[:] = 1
    _KEPT.append(frames)
    register(frames, torch.device("cuda"))
    assert max(upload_rates(frames).values()) > 20e9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_bundle_is_measured_from_end_to_end(paths: dict[str, Path]) -> None:
    values = served(paths["ednn_1280"])
    assert set(values["rates"]) == {str(n) for n in batches(load_bundle(paths["ednn_1280"]))}
    assert min(values["rates"]["8192"]) > 0
