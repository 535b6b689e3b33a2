"""Grad-CAM and Grad-CAM++ against values worked out by hand and by finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.gradcam import class_map, grad_cam, grad_cam_pp, mean_weights, plus_weights
from models.manifest import ModelError
from models.networks.droplet_cnn import DropletCNN
from models.networks.resnet import ResNet
from models.networks.vgg import VGG


class Linear(nn.Module):
    """Features are the input; the logits a weighted sum of all of it."""

    def __init__(self, weight_LCS: Tensor) -> None:
        super().__init__()
        self.weight = weight_LCS

    def features(self, x: Tensor) -> Tensor:
        return x

    def logits_of(self, features: Tensor) -> Tensor:
        return torch.einsum("bcs,lcs->bl", features.flatten(2), self.weight)


def test_maps_of_a_linear_network_are_as_worked_out_by_hand() -> None:
    """A = [[1, 2], [3, 0]] in two channels, gradients [[1, 0], [2, -1]].

    Grad-CAM: w = (0.5, 0.5), map = relu(0.5 (1, 2) + 0.5 (3, 0)) = (2, 1).
    Grad-CAM++: channel 0 has sum A = 3: alpha(1) = 1 / (2 + 3) = 0.2, w = 0.2. Channel 1 has sum 3 and g = 2:
    alpha = 4 / (8 + 8 * 3) = 0.125, w = 0.25 (g = -1 counts as 0). Map = (0.2 + 0.75, 0.4).
    """
    x = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    network = Linear(torch.tensor([[[1.0, 0.0], [2.0, -1.0]], [[0.0, 0.0], [0.0, 1.0]]]))
    assert class_map(network, x, 0, mean_weights).tolist() == [[2.0, 1.0]]
    assert class_map(network, x, 0, plus_weights)[0].tolist() == pytest.approx([0.95, 0.4])
    assert grad_cam(network, x, 0).tolist() == [[1.0, 0.5]]
    assert grad_cam_pp(network, x, 0)[0].tolist() == pytest.approx([1.0, 0.4 / 0.95])


def test_another_class_has_another_map_and_nothing_is_zero() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    network = Linear(torch.tensor([[[1.0, 0.0], [2.0, -1.0]], [[-1.0, -1.0], [0.0, 0.0]]]))
    assert grad_cam_pp(network, x, 1).tolist() == [[0.0, 0.0]]  # only negative gradients


@pytest.mark.parametrize("weigh", [plus_weights, mean_weights])
def test_maps_agree_with_finite_differences(weigh: object) -> None:
    """The gradient by central differences in float64 numpy, the formulas in loops."""
    torch.manual_seed(1)
    network = DropletCNN(3, [4, 6], [1, 1]).eval().requires_grad_(False)
    x = torch.rand(1, 1, 32, 32) * 50
    features = network.features(x).detach()
    gradient = np.zeros(features.shape)
    for index in np.ndindex(*features.shape):
        step = torch.zeros_like(features)
        step[index] = 1e-2
        difference = network.logits_of(features + step) - network.logits_of(features - step)
        gradient[index] = float(difference[0, 2]) / 2e-2
    a, g = features[0].double().numpy(), gradient[0]
    expected = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = g[k].mean()
        if weigh is plus_weights:
            total = a[k][a[k] > 0].sum()
            weight = sum(v**2 / (2 * v**2 + v**3 * total) * v for v in g[k].flat if v > 0)
        expected += weight * a[k]
    got = class_map(network, x, 2, weigh)[0].numpy()  # type: ignore[arg-type]
    assert got == pytest.approx(np.maximum(expected, 0), abs=0.02 * max(np.abs(expected).max(), 1e-3))


def test_the_map_lies_where_the_class_is_seen() -> None:
    """Only the right half of the picture moves this class, and so only there is the map bright."""
    weight = torch.zeros(1, 1, 64)
    weight.view(8, 8)[:, 4:] = 1
    picture = grad_cam_pp(Linear(weight), torch.rand(1, 1, 8, 8) * torch.arange(8).ge(4), 0)
    assert picture.shape == (1, 8, 8)
    assert picture[0, :, :4].sum() < 0.01 * picture[0, :, 4:].sum()


def test_places_lie_where_the_network_says() -> None:
    """The middle of the pixels that reach one place, by its gradient."""
    torch.manual_seed(3)
    network = DropletCNN(2, [16, 16], [1, 1]).eval()
    x = torch.rand(1, 1, 128, 128).requires_grad_(True)
    network.features(x)[:, :, 8, 8].square().sum().backward()
    assert x.grad is not None
    seen = (x.grad[0, 0].abs().sum(0) > 0).nonzero()[:, 0].double()
    assert float(seen[0] + seen[-1]) / 2 == pytest.approx(network.first_px + 8 * network.stride_px, abs=2)


def test_the_large_networks_state_their_places() -> None:
    """Each layer moves the first place by its stride so far times (kernel - 1) / 2 - padding."""
    assert (ResNet.stride_px, ResNet.first_px) == (2**5, 0.0)  # 7, 3 and 3 padded by 3, 1 and 1
    assert (VGG.stride_px, VGG.first_px) == (2**5, 0.5 * (1 + 2 + 4 + 8 + 16))  # five 2 x 2 without padding


def test_between_the_places_is_linear_and_beyond_them_constant() -> None:
    network = Linear(torch.ones(1, 1, 3))
    network.stride_px, network.first_px = 4, 0.0  # type: ignore[assignment]
    network.features = lambda x: x[:, :, ::4]  # type: ignore[method-assign]
    picture = grad_cam(network, torch.tensor([[[1.0] * 4 + [2.0] * 4 + [4.0] * 4]]), 0)[0]
    expected = [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4, 4, 4]
    assert picture.tolist() == pytest.approx([value / 4 for value in expected])


@pytest.mark.parametrize(
    "network",
    [
        DropletCNN(4, [4, 4], [1, 1], opposite=True, hierarchy={"kinds": [[0, 1], [2]], "nothing": 3}),
        ResNet(4, 18, attention=True),
        VGG(4, size_px=32, dense=8),
    ],
    ids=lambda network: type(network).__name__,
)
def test_every_network_is_explained_event_by_event(network: nn.Module) -> None:
    x = torch.rand(2, 1, 32, 32) * 100
    with torch.inference_mode():  # as a report may call it
        both = grad_cam_pp(network.requires_grad_(False), x, 1)
    assert both.shape == (2, 32, 32)
    assert both.min() >= 0
    assert both.max() <= 1
    assert torch.allclose(both[1:], grad_cam_pp(network, x[1:], 1), atol=1e-3)


def test_what_cannot_be_explained_is_refused() -> None:
    with pytest.raises(ModelError, match="class below 2"):
        grad_cam_pp(Linear(torch.zeros(2, 1, 4)), torch.zeros(1, 1, 4), 2)
    with pytest.raises(ModelError, match="features"):
        grad_cam(nn.Linear(2, 2), torch.zeros(1, 1, 2), 0)
