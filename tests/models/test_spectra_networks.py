"""Networks of spectra: sizes, published parameter counts, each event alone, half precision."""

from typing import Any

import pytest
import torch
from torch import nn

from models.architectures import ARCHITECTURES
from models.networks.binned import BinnedNetwork
from models.networks.spectra_attention import SpectraAttention
from models.networks.spectra_autoweights import SpectraAutoWeights
from models.networks.spectra_cnn import SpectraCNN
from models.networks.spectra_fcnn import SpectraFCNN
from models.networks.spectra_head import PhaseNetwork, windows
from models.networks.spectra_lstm import SpectraLSTM
from models.networks.spectra_msresnet import SpectraMSResNet
from models.networks.spectra_transformer import SpectraTransformer

POINTS = 240
SMALL: dict[type[PhaseNetwork], dict[str, Any]] = {
    SpectraFCNN: {"hidden": [16, 8]},
    SpectraCNN: {"widths": [4, 4, 4], "kernels": [8, 3, 3], "steps": [[4, 2, 1], [1, 1, 2]]},
    SpectraMSResNet: {"widths": [4, 4, 4, 4]},
    SpectraLSTM: {"window": 16, "hidden": 8},
    SpectraTransformer: {"window": 16, "width": 16, "heads": 2},
    SpectraAttention: {"widths": [4, 4], "embedded": 16},
    BinnedNetwork: {"bins": 5, "hidden": 6, "stride": 2},
    SpectraAutoWeights: {"bins": 5, "hidden": 6, "stride": 2},
}
each = pytest.mark.parametrize("kind", list(SMALL), ids=lambda kind: kind.__name__)


def small(kind: type[PhaseNetwork], classes: int = 3) -> PhaseNetwork:
    torch.manual_seed(0)
    return kind(points=POINTS, classes=classes, **SMALL[kind])  # type: ignore[arg-type]


def spectra(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 1, POINTS, generator=torch.Generator().manual_seed(1))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "published"),
    [  # networks that vote have one linear layer more than published
        (SpectraFCNN(4023, 1), 1_204_335),
        (SpectraCNN(4023, 1), 22_803),
        (SpectraAttention(4023, 1), 659_525),
        (SpectraAutoWeights(4023, 1, bins=1), 1_059 + 2),
        (SpectraAutoWeights(4023, 1, bins=15), 15_871 + 2),
        # 752 a bin, as published
        (BinnedNetwork(4023, 2, bins=15), 15 * (2 * 150 + 150 + 150 * 2 + 2) + 6),
    ],
)
def test_parameters_are_the_published_number(network: nn.Module, published: int) -> None:
    assert parameters(network) == published


def test_all_are_in_the_table() -> None:
    assert set(SMALL) <= set(ARCHITECTURES.values())


@each
def test_probabilities_and_the_most_probable_class(kind: type[PhaseNetwork]) -> None:
    network = small(kind, 4).eval()
    answer = network(spectra())
    assert answer.shape == (6, network.packed_width) == (6, 5)
    assert torch.allclose(answer[:, :4].sum(1), torch.ones(6), atol=1e-5)
    assert torch.equal(answer[:, 4], answer[:, :4].argmax(1).float())


@each
def test_each_event_is_answered_alone(kind: type[PhaseNetwork]) -> None:
    network, x = small(kind).eval(), spectra()
    alone = torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    assert torch.allclose(network(x), alone, atol=1e-6)
    x[2] = float("nan")
    others = [0, 1, 3, 4, 5]
    assert torch.allclose(network(x)[others], alone[others], atol=1e-6)


@each
def test_half_precision_answers_in_float32(kind: type[PhaseNetwork]) -> None:
    network, x = small(kind).eval(), spectra()
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough[:, :3], network(x)[:, :3], atol=0.05)


@each
def test_learns_two_kinds_of_spectra(kind: type[PhaseNetwork]) -> None:
    network, x = small(kind, 2), 0.1 * spectra(24)
    target = torch.eye(2)[torch.arange(24) % 2]
    x[1::2, :, 100:140] += 2.0
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    first = network.loss(x, target).item()
    for _ in range(25):
        optimiser.zero_grad()
        loss = network.loss(x, target)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.9 * first


@pytest.mark.parametrize("kind", [SpectraCNN, SpectraMSResNet, SpectraAttention])
def test_features_lead_to_the_logits(kind: type[PhaseNetwork]) -> None:
    network, x = small(kind).eval(), spectra()
    features = network.features(x)
    assert features.ndim == 3
    assert torch.allclose(network.logits_of(features), network.logits(x), atol=1e-6)


@each
def test_refuses_sizes_that_do_not_fit(kind: type[PhaseNetwork]) -> None:
    with pytest.raises(ValueError, match="whole numbers above 0"):
        kind(points=POINTS, classes=0, **SMALL[kind])  # type: ignore[arg-type]


def test_binned_vote_by_hand() -> None:
    network = BinnedNetwork(9, 2, bins=2, hidden=1)
    for layer in (network.first, network.second):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        network.first.weight[:, 0, 1] = 1.0  # the hidden neuron is the intensity
        network.second.weight[:, 1, 0] = 1.0  # class 1 has that as its logit,
        network.second.bias[:, 0, 0] = 0.5  # class 0 always 0.5
        network.believability_K.copy_(torch.tensor([0.3, 0.1]))
    x = torch.tensor([[[1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 9.0]]])  # the ninth point is behind the bins
    # bin 0: two votes each; bin 1: three for class 0, one for class 1
    expected = torch.tensor([0.3 * 2 + 0.1 * 3, 0.3 * 2 + 0.1 * 1]) / 1.6
    votes = network.votes(x)
    assert torch.allclose(votes, torch.tensor([[[0.5, 0.5], [0.75, 0.25]]]))
    assert torch.allclose(network.shares(x)[0], expected, atol=1e-4)
    assert network(x)[0, 2] == 0  # the most votes decide until the decision is fitted


def test_a_network_that_believes_no_bin_does_not_decide() -> None:
    network = small(BinnedNetwork).eval()
    network.believability_K.zero_()
    assert torch.allclose(network(spectra())[:, :3], torch.tensor(1 / 3), atol=1e-6)


def test_windows_keep_every_point_in_order() -> None:
    x = torch.arange(10.0)[None, None]
    assert windows(x, 4).flatten().tolist() == [*range(10), 0, 0]


def test_sequence_lies_inside_one_spectrum() -> None:
    """Exchanging two spectra of a batch exchanges their answers and changes no other."""
    for kind in (SpectraLSTM, SpectraTransformer):
        network, x = small(kind).eval(), spectra()
        order = torch.tensor([1, 0, 2, 3, 5, 4])
        assert torch.allclose(network(x[order]), network(x)[order], atol=1e-6)
