"""The encoders with a mixture: what serving asks of them, and the loss against an independent computation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.networks.ring_vae import RingMixtureEncoder, RingVAE
from models.networks.tcvae import TCVAE, TCVAEMixture, bounded, entropy
from models.networks.vae_encoder import total_correlation

SHIPPED: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (RingMixtureEncoder, {"latent": 3, "hidden": 16, "components": 4}),
    (RingMixtureEncoder, {"latent": 3, "hidden": 16, "components": 4, "lit": True}),
    (TCVAEMixture, {"latent": 3, "size_px": 32, "attention": True, "components": 4}),
]


@pytest.fixture(params=SHIPPED, ids=lambda entry: entry[0].__name__)
def network(request: pytest.FixtureRequest) -> Any:
    architecture, options = request.param
    torch.manual_seed(0)
    return architecture(**options).eval().requires_grad_(False)


@pytest.fixture
def counts() -> Tensor:
    return torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 3000


def test_packed_width_type_and_picture(network: Any, counts: Tensor) -> None:
    packed = network(counts)
    assert packed.shape == (5, network.packed_width)
    assert packed.dtype == torch.float32
    assert network.decode(packed[:, :3]).shape == (5, 1, 32, 32)


def test_bfloat16_autocast_gives_float32_near_the_exact_answer(network: Any, counts: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(counts)
    assert rough.dtype == torch.float32
    assert (rough - network(counts)).abs().max() < 0.1 * network(counts).abs().max()


def test_answer_does_not_depend_on_the_batch(network: Any, counts: Tensor) -> None:
    one_by_one = torch.cat([network(event[None]) for event in counts])
    assert torch.allclose(network(counts), one_by_one, atol=1e-4)


def test_a_bad_event_is_seen_and_does_not_touch_its_neighbours(network: Any, counts: Tensor) -> None:
    spoiled = counts.clone()
    spoiled[2, 0, 10, 10] = float("nan")
    packed = network(spoiled)
    assert torch.isnan(packed[2]).any()
    assert torch.equal(packed[[0, 1, 3, 4]], network(counts)[[0, 1, 3, 4]])


def test_forward_never_looks_at_values(network: Any, counts: Tensor) -> None:
    """Fake tensors have no values: a branch on data or a copy to the host, fatal in a CUDA graph, raises."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert network(mode.from_tensor(counts)).shape == (5, network.packed_width)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 100"):
        TCVAEMixture(4, 100, False, 6)
    with pytest.raises(ValueError, match="must be positive"):
        RingMixtureEncoder(0, 16, 4)


def test_published_sizes() -> None:
    """192 pixels end in 6 x 6 x 512, as published; attention is there when asked for."""
    encoder = TCVAEMixture(4, 192, False, 6).encoder
    assert encoder.dense.in_features == 6 * 6 * 512
    with_attention = TCVAEMixture(4, 64, True, 6).state_dict()
    assert any("query" in name for name in with_attention)
    assert not any("query" in name for name in TCVAEMixture(4, 64, False, 6).state_dict())


@pytest.mark.parametrize("attention", [False, True])
def test_published_loss_learns_and_reaches_all_weights(attention: bool, counts: Tensor) -> None:
    torch.manual_seed(0)
    module = TCVAE(2, 32, attention)
    optimiser = torch.optim.AdamW(module.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        loss = module.loss(counts, counts, 2.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(weight.grad is not None for weight in module.parameters())


def test_bernoulli_loss_less_its_lowest_is_a_divergence(counts: Tensor) -> None:
    p = bounded(counts)
    logits = torch.logit(p.double(), 1e-12)
    lowest = nn.functional.binary_cross_entropy_with_logits(logits, p.double(), reduction="none")
    assert torch.allclose(lowest, entropy(p.double()), atol=1e-6)
    assert torch.equal(entropy(torch.tensor([0.0, 1.0])), torch.zeros(2))


def test_the_picture_moves_no_latent(counts: Tensor) -> None:
    """The gradient of the encoder is the same whatever picture is to be drawn."""
    torch.manual_seed(0)
    module = RingVAE(2, 16).eval()
    module.learn_scale(counts, counts)

    def gradient() -> list[Tensor]:
        torch.manual_seed(3)
        module.zero_grad()
        module.loss(counts, counts, 2.0).backward()
        return [weight.grad.clone() for weight in module.encoder.parameters() if weight.grad is not None]

    before = gradient()
    with torch.no_grad():
        for weight in module.decoder.picture.parameters():
            weight.mul_(3.0)
    after = gradient()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert any(a.abs().max() > 0 for a in before)


Array = NDArray[np.float64]


def estimate_by_loops(z: Array, mu: Array, log_variance: Array) -> float:
    """mean_i [ln sum_j q(z_i | x_j) - sum_d ln sum_j q(z_id | x_j)], one event and one latent at a time."""
    total = 0.0
    for own in z:
        joint, alone = 0.0, np.zeros(z.shape[1])
        for m, v in zip(mu, log_variance, strict=True):
            each = np.exp(-0.5 * ((own - m) ** 2 / np.exp(v) + v))
            joint += float(np.prod(each))
            alone += each
        total += math.log(joint) - float(np.log(alone).sum())
    return total / len(z)


def test_total_correlation_agrees_with_loops() -> None:
    rng = np.random.default_rng(0)
    mu, log_variance = rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) - 1
    z = mu + np.exp(0.5 * log_variance) * rng.normal(size=(20, 3))
    found = total_correlation(*(torch.from_numpy(part) for part in (z, mu, log_variance)))
    assert float(found) == pytest.approx(estimate_by_loops(z, mu, log_variance), abs=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_total_correlation_of_two_correlated_latents_is_the_analytic_value(rho: float) -> None:
    """-1/2 ln(1 - r^2) with r of mean plus noise; the dropped constant is ln N for each latent but one."""
    rng = np.random.default_rng(1)
    n, sigma = 1000, 0.3
    mu = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    z = mu + sigma * rng.normal(size=(n, 2))
    log_variance = np.full((n, 2), 2 * math.log(sigma))
    found = float(total_correlation(*(torch.from_numpy(part) for part in (z, mu, log_variance)))) + math.log(
        n
    )
    r = rho / (1 + sigma**2)
    assert found == pytest.approx(-0.5 * math.log(1 - r**2), abs=0.08)
