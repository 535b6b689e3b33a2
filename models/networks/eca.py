"""Emulator-based component analysis: the few directions of a structure on which a trained emulator depends.

After Niskanen et al. (R. Soc. Open Sci. 2022) and their code (antonvladyka/eca @3aa67b9): with an emulator
f of standardised structures z, vectors v_1 .. v_k are found one after another, each orthogonal to those
before, so that f(sum_j (z.v_j) v_j) covers most of the variance of the spectra. t = z V^T are the latent
numbers, t V expands them back. The emulator itself is not changed.

B batch, N structure coordinates, k latent, T targets (spectral points).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.networks.ednn import check_sizes, perceptron, standardised
from models.networks.nnca import VectorCoder, body, last_layer, nearest_orthonormal


class ECA(VectorCoder):
    """An emulator with the widths `hidden`, seen through k of its directions."""

    def __init__(self, points: int, hidden: Sequence[int], latent: int, targets: int) -> None:
        check_sizes(points, hidden, latent, targets)
        super().__init__(points, latent, targets)
        self.emulator = perceptron([points, *hidden, targets])
        self.register_buffer("directions", torch.eye(points)[:latent].clone())

    @property
    def vectors(self) -> Tensor:
        return self.get_buffer("directions")

    def features(self, latent_Bk: Tensor) -> Tensor:
        return body(self.emulator, latent_Bk @ self.vectors)

    @property
    def last(self) -> nn.Linear:
        return last_layer(self.emulator)

    def predict_scaled(self, x_B1N: Tensor) -> Tensor:
        """The emulator alone is trained, on whole structures."""
        with torch.autocast(x_B1N.device.type, enabled=False):
            scaled_BT: Tensor = self.emulator(standardised(self, "input", x_B1N.flatten(1)))
            return scaled_BT

    def set_directions(self, vectors_kN: Tensor) -> None:
        """Take the vectors that `fit_directions` found."""
        self.get_buffer("directions").copy_(nearest_orthonormal(vectors_kN))


@dataclass(frozen=True)
class DirectionFit:
    """The published fit (eca/eca.py).

    starts: how often each vector is begun anew, the best is kept; theirs is 1. events: use the first so many
    only, where later ones are noise copies of them; 0: all.
    """

    learning_rate: float = 1e-3
    batch: int = 200
    most_epochs: int = 10_000
    least_epochs: int = 50
    tolerance: float = 1e-4
    starts: int = 1
    events: int = 0
    seed: int = 0


Emulate = Callable[[Tensor], Tensor]


def fit_directions(emulate: Emulate, data: tuple[Tensor, Tensor], k: int, fit: DirectionFit) -> Tensor:
    """V [k, N] for an emulator of standardised structures; data: z [n, N] and standardised targets [n, T]."""
    generator = torch.Generator().manual_seed(fit.seed)
    data = data[0][: fit.events or None], data[1][: fit.events or None]
    found = data[0].new_zeros(0, data[0].shape[1])
    for _ in range(k):
        tries = [_one_direction(emulate, data, found, (fit, generator)) for _ in range(fit.starts)]
        best = min(tries, key=lambda v: _uncovered(emulate, data, torch.cat([found, v])))
        found = torch.cat([found, best])
    return nearest_orthonormal(found)


def _one_direction(
    emulate: Emulate, data: tuple[Tensor, Tensor], found: Tensor, how: tuple[DirectionFit, torch.Generator]
) -> Tensor:
    """The next vector [1, N], orthogonal to those found."""
    fit, generator = how
    raw = nn.Parameter(_away_from(found, _xavier(found.shape[1], generator).to(found)))
    optimiser = torch.optim.Adam([raw], fit.learning_rate)
    losses: list[float] = []
    while len(losses) < fit.most_epochs and not _settled(losses, fit):
        order = torch.randperm(len(data[0]), generator=generator).to(found.device)
        steps = [_step(emulate, data, (raw, found, optimiser), part) for part in order.split(fit.batch)]
        losses.append(float(torch.stack(steps).mean()))
    return nn.functional.normalize(raw.detach())


def _step(
    emulate: Emulate,
    data: tuple[Tensor, Tensor],
    what: tuple[nn.Parameter, Tensor, torch.optim.Optimizer],
    part: Tensor,
) -> Tensor:
    raw, found, optimiser = what
    vectors = torch.cat([found, nn.functional.normalize(raw)])
    loss = _uncovered(emulate, (data[0][part], data[1][part]), vectors)
    (raw.grad,) = torch.autograd.grad(loss, [raw])
    optimiser.step()
    with torch.no_grad():
        raw.copy_(_away_from(found, raw))
    return loss.detach()


def _uncovered(emulate: Emulate, data: tuple[Tensor, Tensor], vectors_kN: Tensor) -> Tensor:
    """1 - rho of these events: the share of their variance that the emulator misses through V."""
    z_BN, target_BT = data
    said_BT = emulate(z_BN @ vectors_kN.T @ vectors_kN)
    missed: Tensor = (target_BT - said_BT).square().sum()
    whole: Tensor = (target_BT - target_BT.mean(0)).square().sum()
    return missed / whole


def _settled(losses: list[float], fit: DirectionFit) -> bool:
    """The last epoch is hardly better than the five before it."""
    if len(losses) <= fit.least_epochs:
        return False
    return sum(losses[-6:-1]) / 5 - losses[-1] < fit.tolerance


def _away_from(found_jN: Tensor, raw_1N: Tensor) -> Tensor:
    return raw_1N - raw_1N @ found_jN.T @ found_jN


def _xavier(points: int, generator: torch.Generator) -> Tensor:
    bound = (6 / (points + 1)) ** 0.5
    drawn: Tensor = (2 * torch.rand(1, points, generator=generator) - 1) * bound
    return drawn
