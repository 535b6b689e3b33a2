"""Networks of labels: sizes worked out by formula, what serving asks, attention, and consistency."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.networks.attention import SelfAttention
from models.networks.consistent import Consistency, nested
from models.networks.droplet_cnn import DropletCNN
from models.networks.resnet import ResNet
from models.networks.vgg import VGG
from models.simulation.labels import CLASSES, label_combinations

SPEC = {"kinds": [[0, 1, 2], [3, 4, 5]], "nothing": 10}
RULES = Consistency(SPEC, 11)
NETWORKS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (DropletCNN, {"labels": 11, "widths": [4, 8], "blocks": [1, 1], "opposite": True, "hierarchy": SPEC}),
    (ResNet, {"labels": 11, "depth": 18, "attention": True, "hierarchy": SPEC}),
    (VGG, {"labels": 11, "size_px": 32, "dense": 16}),
]


@pytest.fixture(params=NETWORKS, ids=lambda entry: entry[0].__name__, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    network, options = request.param
    torch.manual_seed(0)
    return network(**options).eval().requires_grad_(False), torch.rand(4, 1, 32, 32) * 100


def test_packed_width_type_and_autocast(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x)
    assert exact.shape == rough.shape == (4, network.packed_width)
    assert exact.dtype == rough.dtype == torch.float32
    assert (exact[:, :11] - rough[:, :11]).abs().max() < 0.1


def test_events_do_not_touch_each_other(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    spoiled = x.clone()
    spoiled[2] = float("nan")
    together, one_by_one = network(spoiled), torch.cat([network(event[None]) for event in x])
    assert torch.allclose(together[[0, 1, 3]], one_by_one[[0, 1, 3]], atol=1e-5)
    assert torch.isnan(together[2, :11]).any()


def test_forward_never_looks_at_values(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert network(mode.from_tensor(x)).shape == (4, network.packed_width)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def basic(width_in: int, width: int, stride: int) -> int:
    """Two normalisations (2 numbers a channel), two 3 x 3, and a 1 x 1 where the shape changes."""
    skip = width_in * width if stride > 1 or width_in != width else 0
    return 2 * width_in + 2 * width + 9 * width_in * width + 9 * width * width + skip


def bottleneck(width_in: int, inner: int, stride: int) -> int:
    skip = 4 * width_in * inner if stride > 1 or width_in != 4 * inner else 0
    return 2 * width_in + 4 * inner + width_in * inner + 9 * inner * inner + 4 * inner * inner + skip


@pytest.mark.parametrize(
    ("depth", "counts", "block", "expansion"),
    [(18, (2, 2, 2, 2), basic, 1), (34, (3, 4, 6, 3), basic, 1), (50, (3, 4, 6, 3), bottleneck, 4)],
)
def test_resnets_have_the_parameters_of_the_formula(
    depth: int, counts: tuple[int, ...], block: Any, expansion: int
) -> None:
    total, width_in = 49 * 64, 64
    for stage, (count, width) in enumerate(zip(counts, (64, 128, 256, 512), strict=True)):
        for index in range(count):
            total += block(width_in, width, 2 if stage and not index else 1)
            width_in = expansion * width
    total += 2 * width_in + (width_in + 1) * 11
    with torch.device("meta"):
        assert parameters(ResNet(11, depth)) == total
    # The well-known sizes with 3 channels and 1000 classes, post-activation; ours have 1 channel, 11 classes,
    # and the normalisations elsewhere: less than 0.2 % apart once those two are put back.
    known = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}[depth]
    assert total + 98 * 64 + (width_in + 1) * 989 == pytest.approx(known, rel=2e-3)


def test_vgg_has_the_parameters_of_the_formula() -> None:
    widths = [1, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum((9 * a + 1) * b for a, b in itertools.pairwise(widths))
    dense = (49 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 11
    with torch.device("meta"):
        # The first convolution has no bias: nothing but the logarithm stands behind it.
        assert parameters(VGG(11)) == convolutions - 64 + dense
    # VGG-16 with 3 channels and 1000 classes: 138 357 544.
    assert convolutions + dense + 2 * 9 * 64 + 4097 * 989 == 138_357_544


def test_large_images_give_the_vgg_more_places() -> None:
    network = VGG(3, size_px=32, dense=8).eval()
    assert network(torch.rand(1, 1, 64, 96)).shape == (1, 4)
    assert network.features(torch.rand(1, 1, 64, 96)).shape == (1, 512, 2, 3)


def test_attention_starts_as_nothing_and_is_a_weighted_mean() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(16).requires_grad_(False), torch.randn(2, 16, 3, 4)
    assert torch.equal(layer(x), x)
    layer.scale.fill_(0.7)
    query, key, value = (
        part.weight[:, :, 0, 0].double().numpy() for part in (layer.query, layer.key, layer.value)
    )
    places = x.flatten(2).double().numpy()
    for event, got in zip(places, layer(x).flatten(2).double().numpy(), strict=True):
        for i in range(12):
            likeness = np.array([(query @ event[:, i]) @ (key @ event[:, j]) for j in range(12)])
            weight = np.exp(likeness - likeness.max())
            mean = (value @ event * (weight / weight.sum())).sum(1)
            assert got[:, i] == pytest.approx(event[:, i] + 0.7 * mean, abs=1e-4)


def test_consistent_probabilities_follow_the_formula() -> None:
    torch.manual_seed(0)
    z = torch.randn(50, 11) * 3
    p = torch.sigmoid(RULES.logits(z)).double().numpy()
    own = 1 / (1 + np.exp(-z.double().numpy()))
    power = np.exp(z.double().numpy())
    total = 1 + power[:, 0] + power[:, 3] + power[:, 10]
    for kind, under in ((0, (1, 2)), (3, (4, 5))):
        assert p[:, kind] == pytest.approx(power[:, kind] / total, abs=1e-5)
        for label in under:
            assert p[:, label] == pytest.approx(p[:, kind] * own[:, label], abs=1e-5)
    assert p[:, 10] == pytest.approx(power[:, 10] / total, abs=1e-5)
    for label in (6, 7, 8, 9):
        assert p[:, label] == pytest.approx((1 - p[:, 10]) * own[:, label], abs=1e-5)


def test_extreme_outputs_stay_finite_with_finite_slopes() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0] * 3 + [1e4, -1e4], [-1e4] * 11]).requires_grad_(True)
    logits = RULES.logits(z)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert torch.isfinite(z.grad).all()


def contradicts(said: np.ndarray) -> np.ndarray:
    """Written out: what must not be said together, [N]."""
    a = said.astype(bool)
    return (
        (a[:, 0] & a[:, 3])
        | ((a[:, 1] | a[:, 2]) & ~a[:, 0])
        | ((a[:, 4] | a[:, 5]) & ~a[:, 3])
        | (a[:, 10] & a[:, :10].any(1))
    )


def test_labels_never_contradict_and_the_measured_ones_stay() -> None:
    torch.manual_seed(0)
    said = RULES.labels(torch.rand(3000, 11), torch.rand(11) * 0.8 + 0.1).numpy()
    assert not contradicts(said).any()
    sets, counts = label_combinations()
    again = RULES.labels(torch.from_numpy(sets).float(), torch.full((11,), 0.5)).numpy() > 0.5
    changed = (again != sets).any(1)
    assert (changed == contradicts(sets)).all()
    assert counts[changed].sum() == 6  # streaks without Prolate, of 7264 images


def test_the_hierarchy_is_that_of_the_droplet_classes_in_any_order() -> None:
    assert nested(CLASSES) == SPEC
    assert nested(("Empty", "Bent", "Streak", "Prolate", "Elliptical", "Round", "Spherical_Oblate")) == {
        "kinds": [[6, 5, 4], [3, 2, 1]],
        "nothing": 0,
    }
    assert nested(("hit", "miss")) is None


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (ResNet, {"labels": 2, "depth": 19}, "depth"),
        (ResNet, {"labels": 0, "depth": 18}, "labels"),
        (VGG, {"labels": 2, "size_px": 48}, "multiple of 32"),
        (DropletCNN, {"labels": 2, "widths": [4], "blocks": [1], "hierarchy": SPEC}, "hierarchy"),
    ],
)
def test_impossible_options_are_refused(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        network(**options)
