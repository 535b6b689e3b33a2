"""What serving asks of every network: events apart, bfloat16 autocast, no look at values, packed width."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.networks.droplet_cnn import DropletCNN
from models.networks.ednn import EDNN
from models.networks.ring_vae import RingMixtureEncoder

NETWORKS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (DropletCNN, {"labels": 11, "widths": [4, 8], "blocks": [1, 1]}, (1, 32, 32)),
    (RingMixtureEncoder, {"latent": 3, "hidden": 16, "components": 4}, (1, 32, 32)),
    (EDNN, {"points": 50, "hidden": [8], "latent": 2, "targets": 3}, (1, 50)),
]


@pytest.fixture(params=NETWORKS, ids=lambda entry: entry[0].__name__)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    network, options, shape = request.param
    torch.manual_seed(0)
    return network(**options).eval().requires_grad_(False), torch.rand(5, *shape) * 100


def test_packed_width_and_type(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    packed = network(x)
    assert packed.shape == (5, network.packed_width)
    assert packed.dtype == torch.float32


def test_bfloat16_autocast_gives_float32_near_the_exact_answer(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x)
    assert rough.dtype == torch.float32
    assert (rough - network(x)).abs().max() < 0.1 * network(x).abs().max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_event_does_not_touch_its_neighbours(pair: tuple[Any, Tensor], bad: float) -> None:
    network, x = pair
    spoiled = x.clone()
    spoiled[2] = bad
    others = [0, 1, 3, 4]
    assert torch.equal(network(spoiled)[others], network(x)[others])


def test_nan_in_is_nan_out(pair: tuple[Any, Tensor]) -> None:
    """A NaN must be seen by the stream, which keeps the event; it must not become a confident answer."""
    network, x = pair
    spoiled = x.clone()
    spoiled[2] = float("nan")
    assert torch.isnan(network(spoiled)[2]).any()


def test_answer_does_not_depend_on_the_batch(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    assert torch.allclose(network(x), torch.cat([network(event[None]) for event in x]), atol=1e-5)


def test_forward_never_looks_at_values(pair: tuple[Any, Tensor]) -> None:
    """Fake tensors have no values: a branch on data or a copy to the host, fatal in a CUDA graph, raises."""
    network, x = pair
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert network(mode.from_tensor(x)).shape == (5, network.packed_width)


def test_bitmask_holds_the_labels_above_their_threshold() -> None:
    torch.manual_seed(0)
    network = DropletCNN(11, [4], [1]).eval()
    network.get_buffer("threshold")[:] = torch.linspace(0.4, 0.6, 11)
    packed = network(torch.rand(4, 1, 16, 16) * 100)
    expected = [
        sum(2**i for i in range(11) if row[i] > network.get_buffer("threshold")[i]) for row in packed.tolist()
    ]
    assert packed[:, 11].tolist() == expected


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (DropletCNN, {"labels": 25, "widths": [4], "blocks": [1]}, r"labels 1\.\.24"),
        (DropletCNN, {"labels": 2, "widths": [4], "blocks": []}, "as many widths as blocks"),
        (RingMixtureEncoder, {"latent": 2, "hidden": 0, "components": 2}, "must be positive"),
        (RingMixtureEncoder, {"latent": 2, "hidden": 8, "components": 0}, "components"),
        (EDNN, {"points": 5, "hidden": [], "latent": 1, "targets": 1}, "hidden layer"),
    ],
)
def test_impossible_options_are_refused(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**options)
