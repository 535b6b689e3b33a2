"""From an input through a few numbers to a target: an encoder-decoder network, in both directions.

After the EDNN of Passilahti et al. (arXiv 2406.14044): feed-forward, a bottleneck of k neurons whose
activations are the latent coordinates, then the target. Theirs maps structure to spectrum (emulation); a
stream sees spectra, so here the same network also maps a spectrum to the structure behind it. Targets are
learned standardised and published in their own units.

B batch, N input points, k latent, T targets.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class EDNN(nn.Module):
    """[B, 1, N] -> packed [B, k + T]: latent, target.

    `scale_inputs`: standardise each input point by what training saw (a structure vector of mixed units); a
    spectrum is standardised by the preprocessing instead.
    """

    def __init__(
        self, points: int, hidden: Sequence[int], latent: int, targets: int, scale_inputs: bool = False
    ) -> None:
        super().__init__()
        check_sizes(points, hidden, latent, targets)
        self.packed_width = latent + targets
        self.encoder = perceptron([points, *hidden, latent])
        self.decoder = perceptron([latent, *reversed(hidden), targets])
        self.scale_inputs = scale_inputs
        register_scale(self, "target", targets)
        if scale_inputs:
            register_scale(self, "input", points)

    def both(self, x_B1N: Tensor) -> tuple[Tensor, Tensor]:
        """Latent [B, k] and standardised target [B, T]."""
        x_BN = x_B1N.flatten(1)
        latent_Bk = self.encoder(standardised(self, "input", x_BN) if self.scale_inputs else x_BN)
        return latent_Bk, self.decoder(latent_Bk)

    def predict_scaled(self, x_B1N: Tensor) -> Tensor:
        """What gradient descent fits to the standardised target, [B, T]."""
        return self.both(x_B1N)[1]

    def decode(self, latent_Bk: Tensor) -> Tensor:
        """The target [B, T] at a place of the latent space, in its own units."""
        return restored(self, "target", self.decoder(latent_Bk))

    def forward(self, x_B1N: Tensor) -> Tensor:
        latent_Bk, scaled_BT = self.both(x_B1N)
        return torch.cat([latent_Bk.float(), restored(self, "target", scaled_BT)], 1)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths, GELU between them: smooth, as an inverse needs slopes."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def check_sizes(points: int, hidden: Sequence[int], latent: int, targets: int) -> None:
    """Raises ValueError unless all sizes are positive and there is a hidden layer."""
    if min(points, latent, targets, *hidden) < 1 or not hidden:
        raise ValueError(
            f"positive sizes and at least one hidden layer, got {points}, {hidden}, {latent}, {targets}"
        )


def register_scale(module: nn.Module, name: str, width: int) -> None:
    """Buffers `name`_mean and `name`_std of a module, 0 and 1 until training sets them."""
    module.register_buffer(f"{name}_mean", torch.zeros(width))
    module.register_buffer(f"{name}_std", torch.ones(width))


def set_scale(module: nn.Module, name: str, values_NT: Tensor, shared: bool) -> None:
    """Mean and spread of the columns of [N, T]; a constant column is only shifted.

    shared: one spread for all columns, the root of their mean variance. Then a squared error is, but for a
    factor, the trace form of the covered variance.
    """
    variance_T = values_NT.double().var(0, correction=0)
    if shared:
        variance_T = variance_T.mean().expand_as(variance_T)
    std_T = variance_T.sqrt()
    module.get_buffer(f"{name}_mean").copy_(values_NT.double().mean(0))
    module.get_buffer(f"{name}_std").copy_(torch.where(std_T > 0, std_T, 1.0))


def standardised(module: nn.Module, name: str, values_BT: Tensor) -> Tensor:
    """(values - mean) / std in float32."""
    return (values_BT.float() - module.get_buffer(f"{name}_mean")) / module.get_buffer(f"{name}_std")


def restored(module: nn.Module, name: str, scaled_BT: Tensor) -> Tensor:
    """The inverse of `standardised`, in float32."""
    return scaled_BT.float() * module.get_buffer(f"{name}_std") + module.get_buffer(f"{name}_mean")
