"""NNCA, ECA and the inverse: vectors orthonormal, known directions found, known places found again."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.networks.eca import ECA, DirectionFit, fit_directions
from models.networks.ednn import EDNN, set_scale
from models.networks.nnca import NNCA, departure, nearest_orthonormal
from models.networks.spectrum_inverse import SpectrumInverse, adam_inverse, solve_positive


def inverse(emulator: str = "nnca", latent: int = 2, **options: Any) -> SpectrumInverse:
    """An inverse of an emulator with random weights, its bank on a grid of latent places."""
    torch.manual_seed(1)
    network = SpectrumInverse(40, [16, 16], latent, 3, {"emulator": emulator, "bank": 25, **options})
    for layer in network.emulator.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data *= 2  # as it is after training: spectra differ
    if isinstance(network.emulator, NNCA):
        network.emulator.release()
    network.prepare(torch.randn(25, latent))
    return network.eval().requires_grad_(False)


NETWORKS = {
    "ednn": lambda: EDNN(9, [8], 2, 5, scale_inputs=True),
    "nnca": lambda: NNCA(9, [8], 2, 5),
    "eca": lambda: ECA(9, [8], 2, 5),
    "inverse_nnca": inverse,
    "inverse_eca": lambda: inverse("eca", 3),
}


@pytest.fixture(params=NETWORKS, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    network = NETWORKS[request.param]().eval().requires_grad_(False)
    return network, torch.randn(5, 1, 40 if "inverse" in request.param else 9)


def test_packed_answer_in_float32_also_under_autocast(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x)
    assert exact.shape == (5, network.packed_width)
    assert rough.dtype == exact.dtype == torch.float32
    if not isinstance(network, EDNN):
        assert torch.equal(rough, exact), "all of it is kept in float32"


def test_answer_does_not_depend_on_the_batch(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    assert torch.allclose(network(x), torch.cat([network(event[None]) for event in x]), atol=1e-3)


def test_nan_stays_with_its_event(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    spoiled = x.clone()
    spoiled[2] = float("nan")
    assert torch.isnan(network(spoiled)[2]).all()
    others = [0, 1, 3, 4]
    assert torch.equal(network(spoiled)[others], network(x)[others])


def test_forward_never_looks_at_values(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert network(mode.from_tensor(x)).shape == (5, network.packed_width)


def test_decode_gives_the_target_of_the_latent(pair: tuple[Any, Tensor]) -> None:
    network, x = pair
    if isinstance(network, SpectrumInverse):
        assert network.decode(torch.zeros(4, network.packed_width - 3)).shape == (4, 40)
        return
    packed = network(x)
    assert torch.allclose(network.decode(packed[:, :2]), packed[:, 2:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NNCA(3, [8], 4, 5), "at most as many"),
        (lambda: ECA(3, [8], 4, 5), "at most as many"),
        (lambda: NNCA(3, [], 2, 5), "hidden layer"),
        (lambda: SpectrumInverse(8, [8], 2, 3, {"emulator": "pca"}), "emulator"),
        (lambda: SpectrumInverse(8, [8], 2, 3, {"emulator": "nnca", "bank": 4, "starts": 5}), "starts"),
        (lambda: SpectrumInverse(8, [8], 2, 3, {"emulator": "eca", "steps": 0}), "steps"),
    ],
)
def test_impossible_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_vectors_stay_orthonormal_while_they_are_trained_and_after() -> None:
    torch.manual_seed(0)
    network, x = NNCA(9, [8], 3, 5), torch.randn(64, 9)
    target, before = x[:, :5].sin(), network.vectors.detach().clone()
    network.constrain()
    optimiser = torch.optim.AdamW(network.parameters(), 3e-2)
    for _ in range(25):
        optimiser.zero_grad()
        (network.predict_scaled(x) - target).square().mean().backward()
        optimiser.step()
        assert departure(network.vectors) < 1e-5
    network.release()
    assert departure(network.vectors) < 1e-6
    assert "encoder.weight" in network.state_dict()
    assert (network.vectors - before).abs().max() > 0.1, "they did move"


def test_nearest_orthonormal_leaves_orthonormal_rows() -> None:
    rows = torch.linalg.qr(torch.randn(5, 3, dtype=torch.float64))[0].T.float()
    assert torch.allclose(nearest_orthonormal(rows), rows, atol=1e-6)
    assert torch.allclose(nearest_orthonormal(3 * rows), rows, atol=1e-6)


def test_expansion_gives_the_mean_across_the_vectors() -> None:
    network = NNCA(3, [4], 1, 2)
    network.encoder.weight.data = torch.tensor([[1.0, 0.0, 0.0]])
    x = torch.tensor([[1.0, 10.0, 5.0], [3.0, 20.0, 7.0]])
    set_scale(network, "input", x, shared=False)
    back = network.expand(network.encode(x))
    assert torch.allclose(back, torch.tensor([[1.0, 15.0, 6.0], [3.0, 15.0, 6.0]]))


def test_shared_scale_weighs_all_targets_alike() -> None:
    network = EDNN(2, [2], 1, 2)
    set_scale(network, "target", torch.tensor([[0.0, 5.0], [2.0, 5.0]]), shared=True)
    assert network.get_buffer("target_std").tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    set_scale(network, "target", torch.tensor([[0.0, 5.0], [2.0, 5.0]]), shared=False)
    assert network.get_buffer("target_std").tolist() == [1.0, 1.0], "a constant target is only shifted"


def test_directions_of_an_emulator_that_depends_on_known_ones() -> None:
    """f depends strongly on u and weakly on w: v_1 must be u and v_2 must be w, but for their sign."""
    torch.manual_seed(0)
    z = torch.randn(200, 5)
    u, w = torch.tensor([[3.0, 4, 0, 0, 0]]) / 5, torch.tensor([[0.0, 0, 1, 0, 0]])

    def emulate(z_BN: Tensor) -> Tensor:
        strong, weak = z_BN @ u.T, z_BN @ w.T
        return torch.cat([strong.tanh(), 2 * strong, strong.sin(), 0.5 * weak], 1)

    found = fit_directions(
        emulate, (z, emulate(z)), 2, DirectionFit(learning_rate=3e-2, batch=100, most_epochs=60)
    )
    assert abs(float(found[0] @ u[0])) > 0.999
    assert abs(float(found[1] @ w[0])) > 0.999
    assert departure(found) < 1e-6


@pytest.mark.parametrize(("emulator", "latent"), [("nnca", 1), ("nnca", 2), ("eca", 2), ("eca", 3)])
def test_inverse_finds_the_place_of_a_spectrum(emulator: str, latent: int) -> None:
    network = inverse(emulator, latent, starts=4, steps=20)
    torch.manual_seed(5)
    place = 0.8 * torch.randn(40, latent)
    packed = network(network.decode(place)[:, None])
    spectra = network.decode(packed[:, :latent])
    right = (spectra - network.decode(place)).abs().amax(1) < 1e-3
    assert right.float().mean() > 0.9, "the same spectrum from another place counts as found"
    assert torch.allclose(packed[:, latent:], network.emulator.expand(packed[:, :latent]))


def test_inverse_is_at_least_as_near_as_the_published_one() -> None:
    network = inverse(steps=12)
    spectrum = network.decode(torch.tensor([[0.4, -0.7]]))
    batched, single = network(spectrum[:, None])[:, :2], adam_inverse(network.emulator, spectrum[0])[None]
    misfits = [(network.decode(place) - spectrum).square().mean() for place in (batched, single)]
    assert misfits[0] <= misfits[1] + 1e-6


def test_solve_positive_agrees_with_linalg() -> None:
    torch.manual_seed(0)
    half, right = torch.randn(7, 2, 3, 3), torch.randn(7, 2, 3)
    matrix = half @ half.transpose(-1, -2) + torch.eye(3)
    assert torch.allclose(solve_positive(matrix, right), torch.linalg.solve(matrix, right), atol=1e-4)
