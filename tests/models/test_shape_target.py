"""The picture that the decoder of the droplet encoder has to draw."""

import torch

from models.networks.vae_encoder import shape_of


def rings(stretch: float, brightness: float = 1.0) -> torch.Tensor:
    axis = torch.linspace(-1, 1, 64)
    radius = torch.hypot(axis[None] * stretch, axis[:, None])
    return (brightness * torch.exp(-3 * radius) * (1 + torch.cos(20 * radius)) / 2)[None, None]


def test_rings_leave_nothing_and_ellipses_do() -> None:
    assert shape_of(rings(1.0)).shape == (1, 1, 32, 32)
    round_left, elliptical_left = (shape_of(rings(stretch)).abs().mean() for stretch in (1.0, 1.5))
    assert elliptical_left > 2 * round_left  # square pixels leave a little of a circle


def test_ring_means_are_zero() -> None:
    left = shape_of(torch.rand(3, 1, 64, 64))
    assert left.mean((1, 2, 3)).abs().max() < 1e-6


def test_events_are_apart() -> None:
    pair = torch.cat([rings(1.0), rings(1.4)])
    assert torch.allclose(shape_of(pair)[1:], shape_of(rings(1.4)), atol=1e-6)
