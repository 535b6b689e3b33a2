"""OpenVINO: the cover of a batch, and the operations it is told in other words."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from core_support import COLUMNS, events, make_bundle
from torch import Tensor, nn

pytest.importorskip("openvino", reason="the extra cpu is not installed")

from models.bundle import load_bundle
from streamer.engines.choice import OPENVINO
from streamer.engines.openvino import OpenVinoEngine, OpenVinoSource, covers
from streamer.runner import CpuRunner


def engine(network: nn.Module, *shape: int, sizes: tuple[int, ...] = (1, 4)) -> OpenVinoEngine:
    made = OpenVinoEngine(OpenVinoSource(network.eval(), shape), OPENVINO[0], True, 1)
    made.prepare(sizes)
    return made


@pytest.mark.parametrize(
    ("seconds", "n", "sizes"),
    [
        ({1: 1.0, 4: 2.0}, 1, (1,)),
        ({1: 1.0, 4: 2.0}, 2, (1, 1)),
        ({1: 1.0, 4: 2.0}, 3, (4,)),  # filled up with one that is not there
        ({1: 1.0, 4: 2.0, 16: 20.0}, 16, (4, 4, 4, 4)),  # the large one does not pay
        ({1: 1.0, 4: 2.0, 16: 4.0}, 9, (16,)),
        ({1: 1.0, 4: 2.0, 16: 4.0}, 5, (4, 1)),
    ],
)
def test_a_batch_is_covered_in_the_least_time(
    seconds: dict[int, float], n: int, sizes: tuple[int, ...]
) -> None:
    assert covers(seconds)[n] == sizes


class Rewritten(nn.Module):
    """Every operation that is said in other words."""

    def forward(self, x_BNN: Tensor) -> Tensor:
        x = x_BNN.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        x = x.as_strided(x.shape, (9, 1, 3, 1))[:, 0]
        bias = torch.tensor([1.0, 20.0, 300.0])
        parts = [
            bias + x.square().sum(2),
            torch.hypot(x[:, 0], x[:, 1]),
            x.diagonal(dim1=-2, dim2=-1),
            torch.diag_embed(x[:, 2]).flatten(1),
        ]
        return torch.cat(parts, 1)


def test_operations_in_other_words_have_the_same_values() -> None:
    x = torch.randn(4, 3, 3)
    got = engine(Rewritten(), 3, 3).run(x.numpy())
    assert np.allclose(got, Rewritten()(x).numpy(), rtol=1e-5, atol=1e-5)


class Turned(nn.Module):
    def forward(self, x_BNN: Tensor) -> Tensor:
        return x_BNN.as_strided(x_BNN.shape, (9, 1, 3)).flatten(1)


def test_strides_that_move_numbers_are_obeyed() -> None:
    x = torch.randn(4, 3, 3)
    assert np.allclose(engine(Turned(), 3, 3).run(x.numpy()), x.transpose(1, 2).flatten(1).numpy())


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operation_it_lacks_is_an_error() -> None:
    with pytest.raises(Exception, match="bessel"):
        engine(Unknown(), 3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 16, 27])
def test_answers_are_in_order_and_the_callers_own(n: int) -> None:
    network = nn.Linear(3, 2)
    made = engine(network, 3)
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    got = made.run(x)
    made.run(x + 1)
    assert np.allclose(got, network(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


def test_a_second_runner_is_made_beside_one_at_work(tmp_path: Path) -> None:
    """A swap: it is built in a thread while the old one serves."""
    torch.set_num_threads(1)
    old, new = (load_bundle(make_bundle(tmp_path / name, seed)) for seed, name in enumerate(("old", "new")))
    serving, made = CpuRunner([old], 4, OPENVINO[0]), []
    want = serving.submit([events(4)]).wait()
    thread = threading.Thread(target=lambda: made.append(CpuRunner([new], 4)))
    thread.start()
    while thread.is_alive():
        assert np.array_equal(serving.submit([events(4)]).wait(), want)
    thread.join()
    assert made[0].submit([events(4)]).wait().shape == (4, sum(max(1, len(c.labels)) for c in COLUMNS))


def test_it_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    """The package's telemetry writes to the user's home and asks for a host outside."""
    code = "import sys, streamer.engines.openvino; assert not sys.modules['openvino_telemetry']"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
