"""Neural network component analysis: one linear encoder of orthonormal vectors, a nonlinear decoder.

After the NNCA of Passilahti et al. (arXiv 2406.14044): t = z V^T with k orthonormal rows of V and no bias, z
the standardised structure, then a decoder trained together with V. Because the encoder is linear, a latent
place expands back to a structure, z ~ t V, which holds the mean for whatever the spectrum does not depend on.
While it trains, torch.nn.utils.parametrizations.orthogonal keeps V orthonormal; a bundle holds the plain
vectors.

B batch, N structure coordinates, k latent, T targets (spectral points).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from models.networks.ednn import check_sizes, perceptron, register_scale, restored, standardised


class VectorCoder(nn.Module):
    """What NNCA and ECA share: [B, 1, N] structure -> packed [B, k + T], over vectors V [k, N].

    Small and sensitive: all of it runs in float32, under autocast too.
    """

    def __init__(self, points: int, latent: int, targets: int) -> None:
        super().__init__()
        if latent > points:
            raise ValueError(f"at most as many latent numbers as the {points} coordinates, got {latent}")
        self.packed_width = latent + targets
        register_scale(self, "input", points)
        register_scale(self, "target", targets)

    @property
    def vectors(self) -> Tensor:
        """V [k, N], rows orthonormal."""
        raise NotImplementedError

    def features(self, latent_Bk: Tensor) -> Tensor:
        """What the last, linear layer is given at latent places [..., k]: [..., hidden]."""
        raise NotImplementedError

    @property
    def last(self) -> nn.Linear:
        """The layer from `features` to the standardised target."""
        raise NotImplementedError

    def decode_scaled(self, latent_Bk: Tensor) -> Tensor:
        """Standardised target [..., T] at latent places [..., k]."""
        scaled_BT: Tensor = self.last(self.features(latent_Bk))
        return scaled_BT

    def predict_scaled(self, x_B1N: Tensor) -> Tensor:
        """What gradient descent fits to the standardised target, [B, T]."""
        with torch.autocast(x_B1N.device.type, enabled=False):
            return self.decode_scaled(self.encode(x_B1N.float()))

    def encode(self, x_B1N: Tensor) -> Tensor:
        """Structure -> latent [B, k]."""
        return standardised(self, "input", x_B1N.flatten(1)) @ self.vectors.T

    def expand(self, latent_Bk: Tensor) -> Tensor:
        """The structure [B, N] of a latent place, in its own units."""
        return restored(self, "input", latent_Bk.float() @ self.vectors)

    def decode(self, latent_Bk: Tensor) -> Tensor:
        """The target [B, T] at a latent place, in its own units."""
        return restored(self, "target", self.decode_scaled(latent_Bk))

    def forward(self, x_B1N: Tensor) -> Tensor:
        with torch.autocast(x_B1N.device.type, enabled=False):
            latent_Bk = self.encode(x_B1N.float())
            return torch.cat([latent_Bk, self.decode(latent_Bk)], 1)


class NNCA(VectorCoder):
    """Encoder of k orthonormal vectors and a decoder with the widths `hidden`."""

    def __init__(self, points: int, hidden: Sequence[int], latent: int, targets: int) -> None:
        check_sizes(points, hidden, latent, targets)
        super().__init__(points, latent, targets)
        self.encoder = nn.Linear(points, latent, bias=False)
        nn.init.orthogonal_(self.encoder.weight)
        self.decoder = perceptron([latent, *hidden, targets])

    @property
    def vectors(self) -> Tensor:
        return self.encoder.weight

    def features(self, latent_Bk: Tensor) -> Tensor:
        return body(self.decoder, latent_Bk)

    @property
    def last(self) -> nn.Linear:
        return last_layer(self.decoder)

    def constrain(self) -> None:
        """Before training: from now on every step leaves the vectors orthonormal."""
        if not parametrize.is_parametrized(self.encoder):
            # Not torch's choice for a matrix that is not square, Householder: there the vectors hardly turn
            # while the decoder learns (covered variance 0.74 against 0.99 on water, k = 3).
            parametrizations.orthogonal(self.encoder, orthogonal_map="cayley")
            for base in self.encoder.buffers():  # torch leaves it transposed, which no checkpoint takes
                base.data = base.data.contiguous()

    def release(self) -> None:
        """After training: plain vectors, their last rounding errors removed."""
        if parametrize.is_parametrized(self.encoder):
            parametrize.remove_parametrizations(self.encoder, "weight", leave_parametrized=True)
        with torch.no_grad():
            self.encoder.weight.copy_(nearest_orthonormal(self.encoder.weight))


def body(network: nn.Sequential, x: Tensor) -> Tensor:
    """All but the last layer."""
    for layer in list(network)[:-1]:
        x = layer(x)
    return x


def last_layer(network: nn.Sequential) -> nn.Linear:
    """The last layer of a perceptron. Raises TypeError for another network."""
    layer = network[-1]
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"a linear last layer, got {type(layer).__name__}")
    return layer


def nearest_orthonormal(vectors_kN: Tensor) -> Tensor:
    """The orthonormal rows nearest to these (polar decomposition, in float64), as float32."""
    left, _, right = torch.linalg.svd(vectors_kN.detach().double(), full_matrices=False)
    nearest: Tensor = (left @ right).float()
    return nearest


def departure(vectors_kN: Tensor) -> float:
    """max |V V^T - 1|: 0 for orthonormal rows."""
    v = vectors_kN.detach().double()
    identity = torch.eye(len(v), dtype=torch.float64, device=v.device)
    return float((v @ v.T - identity).abs().max())
