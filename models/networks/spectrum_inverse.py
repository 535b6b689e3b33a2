"""From a spectrum back to latent numbers and structure: the inverse of an emulator, batched for a stream.

Finds t so that the emulator's spectrum at t is nearest to the measured one, in least squares, and expands it
to a structure. antonvladyka/eca @3aa67b9 does this with up to 1000 steps of Adam for one spectrum at a time
(`adam_inverse`, kept here to compare with). Here: the nearest places of a bank of known spectra as starts,
then a fixed number of damped Gauss-Newton steps (Levenberg 1944, Marquardt 1963) for all events and starts at
once. The emulator's last layer is linear, so all its spectra lie in the span of a few: a spectrum is
projected on it once (QR), what lies outside is the same for every t, and the steps run in that small space.
No step looks at a value to decide what to run, so a CUDA graph can capture it; no event sees another.

B batch, S starts, M places of the bank, k latent, E spectral points, P of the span, N structure coordinates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.networks.eca import ECA
from models.networks.ednn import standardised
from models.networks.nnca import NNCA, VectorCoder

EMULATORS: Final[Mapping[str, type[NNCA] | type[ECA]]] = {"nnca": NNCA, "eca": ECA}
# Standardised structures give t of about unit spread. A difference of 0.02 is large against the rounding of
# float32 spectra (1e-6 / 0.02) and small against their curvature.
PROBE: Final = 0.02
DAMPING: Final = 1e-2  # of the diagonal, at first
EASE, TIGHTEN = 0.3, 4.0  # of the damping after a step that helped, and after one that did not
MOST_DAMPING, LEAST_DAMPING = 1e6, 1e-6
FLOOR: Final = 1e-8  # keeps a direction without any slope from a division by 0
ADAM_RATE, ADAM_STEPS, ADAM_LEAST_STEPS, ADAM_TOLERANCE = 5e-2, 1000, 50, 1e-4


@dataclass(frozen=True)
class Search:
    """How a place is found. emulator: key of EMULATORS; bank: M places, of which the nearest `starts` are
    followed for `steps` steps. Raises ValueError for impossible ones.
    """

    emulator: str
    bank: int = 256
    starts: int = 2
    steps: int = 8

    def __post_init__(self) -> None:
        if self.emulator not in EMULATORS:
            raise ValueError(f"an emulator of {tuple(EMULATORS)}, got {self.emulator!r}")
        if not 1 <= self.starts <= self.bank or self.steps < 1:
            raise ValueError(
                f"1 <= starts <= bank and steps >= 1, got {self.starts}, {self.bank}, {self.steps}"
            )


class SpectrumInverse(nn.Module):
    """[B, 1, E] spectrum -> packed [B, k + N]: latent, structure.

    points: E; targets: N; hidden, latent: of the emulator to invert; search: fields of `Search`.
    """

    def __init__(
        self, points: int, hidden: Sequence[int], latent: int, targets: int, search: Mapping[str, Any]
    ) -> None:
        super().__init__()
        how = Search(**search)
        self.packed_width, self.starts, self.steps = latent + targets, how.starts, how.steps
        self.emulator: VectorCoder = EMULATORS[how.emulator](targets, hidden, latent, points)
        span = min(points, self.emulator.last.in_features)
        self.register_buffer("basis", torch.zeros(points, span))
        self.register_buffer("triangle", torch.zeros(span, self.emulator.last.in_features))
        self.register_buffer("bank_latent", torch.zeros(how.bank, latent))
        self.register_buffer("bank_spectrum", torch.zeros(how.bank, span))

    def prepare(self, latent_Mk: Tensor) -> None:
        """After training of the emulator: its span, and the bank. Best are places of training structures."""
        with torch.no_grad():
            basis, triangle = torch.linalg.qr(self.emulator.last.weight.double())
            self.get_buffer("basis").copy_(basis)
            self.get_buffer("triangle").copy_(triangle)
            self.get_buffer("bank_latent").copy_(latent_Mk)
            self.get_buffer("bank_spectrum").copy_(self._inside(latent_Mk))

    def forward(self, x_B1E: Tensor) -> Tensor:
        with torch.autocast(x_B1E.device.type, enabled=False):
            latent_Bk = self.invert(self._projected(x_B1E.float().flatten(1)))
            return torch.cat([latent_Bk, self.emulator.expand(latent_Bk)], 1)

    def decode(self, latent_Bk: Tensor) -> Tensor:
        """The spectrum [B, E] at a latent place, as preprocessing gives it."""
        return self.emulator.decode(latent_Bk)

    def invert(self, spectrum_BP: Tensor) -> Tensor:
        """Latent [B, k] of projected spectra; NaN where the spectrum has one."""
        place_BSk = self._nearest(spectrum_BP)
        wanted_B1P = spectrum_BP[:, None]
        residual_BSP = wanted_B1P - self._inside(place_BSk)
        damping_BS1 = torch.full_like(place_BSk[..., :1], DAMPING)
        for _ in range(self.steps):
            step_BSk = self._step(place_BSk, wanted_B1P - residual_BSP, residual_BSP, damping_BS1)
            tried_BSP = wanted_B1P - self._inside(place_BSk + step_BSk)
            better_BS1 = _misfit(tried_BSP) < _misfit(residual_BSP)
            place_BSk = torch.where(better_BS1, place_BSk + step_BSk, place_BSk)
            residual_BSP = torch.where(better_BS1, tried_BSP, residual_BSP)
            damping_BS1 = damping_BS1 * torch.where(better_BS1, EASE, TIGHTEN)
            damping_BS1 = damping_BS1.clamp(LEAST_DAMPING, MOST_DAMPING)
        return _best(place_BSk, _misfit(residual_BSP))

    def scaled(self, spectrum_BE: Tensor) -> Tensor:
        """Preprocessed spectra in the scale in which the emulator was trained."""
        return standardised(self.emulator, "target", spectrum_BE)

    def _projected(self, spectrum_BE: Tensor) -> Tensor:
        """Preprocessed spectra -> their part in the span of the emulator, [B, P]."""
        return (self.scaled(spectrum_BE) - self.emulator.last.bias) @ self.get_buffer("basis")

    def _inside(self, latent_BSk: Tensor) -> Tensor:
        """The emulator's spectra at latent places [..., k], in its span: [..., P]."""
        return self.emulator.features(latent_BSk) @ self.get_buffer("triangle").T

    def _nearest(self, spectrum_BP: Tensor) -> Tensor:
        """The S places [B, S, k] of the bank whose spectra are nearest."""
        bank_MP = self.get_buffer("bank_spectrum")
        # |a - b|^2 without |a|^2, which is the same for all places.
        distance_BM = bank_MP.square().sum(1) - 2 * spectrum_BP @ bank_MP.T
        index_BS = distance_BM.topk(self.starts, dim=1, largest=False).indices
        return self.get_buffer("bank_latent")[index_BS]

    def _step(self, place_BSk: Tensor, here_BSP: Tensor, residual_BSP: Tensor, damping_BS1: Tensor) -> Tensor:
        """The damped Gauss-Newton step [B, S, k]; slopes by forward differences."""
        k = place_BSk.shape[-1]
        probes_BSkk = place_BSk[:, :, None] + PROBE * torch.eye(k, device=place_BSk.device)
        slopes_BSkP = (self._inside(probes_BSkk) - here_BSP[:, :, None]) / PROBE
        normal_BSkk = slopes_BSkP @ slopes_BSkP.transpose(-1, -2)
        pull_BSk = (slopes_BSkP @ residual_BSP[..., None])[..., 0]
        diagonal_BSk = normal_BSkk.diagonal(dim1=-2, dim2=-1)
        damped_BSkk = normal_BSkk + torch.diag_embed(damping_BS1 * diagonal_BSk + FLOOR)
        return solve_positive(damped_BSkk, pull_BSk)


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """x of matrix x = right for small symmetric positive matrices [..., k, k]; right [..., k].

    Elimination written out, as torch.linalg.solve waits for the device to report a singular matrix. A
    positive matrix needs no exchange of rows.
    """
    k = right.shape[-1]
    rows = torch.cat([matrix, right[..., None]], -1).unbind(-2)
    for i in range(k):
        pivot = rows[i] / rows[i][..., i : i + 1]
        rows = tuple(pivot if j == i else rows[j] - rows[j][..., i : i + 1] * pivot for j in range(k))
    return torch.stack([row[..., k] for row in rows], -1)


def adam_inverse(emulator: VectorCoder, spectrum_E: Tensor) -> Tensor:
    """Latent [k] of one standardised spectrum as the published code finds it: Adam from t = 0.

    Rate, limit and tolerance are theirs; it ends as their fit of the vectors does, when a step is hardly
    better than the mean of the five before it.
    """
    t_k = torch.zeros(len(emulator.vectors), requires_grad=True)
    optimiser = torch.optim.Adam([t_k], ADAM_RATE)
    losses: list[float] = []
    while len(losses) < ADAM_STEPS:
        loss = nn.functional.mse_loss(emulator.decode_scaled(t_k[None])[0], spectrum_E)
        (t_k.grad,) = torch.autograd.grad(loss, [t_k])
        optimiser.step()
        losses.append(loss.item())
        if len(losses) > ADAM_LEAST_STEPS and sum(losses[-6:-1]) / 5 - losses[-1] < ADAM_TOLERANCE:
            break
    return t_k.detach()


def _misfit(residual_BSP: Tensor) -> Tensor:
    return residual_BSP.square().mean(-1, keepdim=True)


def _best(place_BSk: Tensor, misfit_BS1: Tensor) -> Tensor:
    """The place of least misfit; a misfit that is not finite makes it NaN."""
    index_B11 = misfit_BS1.argmin(1, keepdim=True)
    best_Bk = place_BSk.gather(1, index_B11.expand(-1, 1, place_BSk.shape[-1]))[:, 0]
    least_B1 = misfit_BS1.gather(1, index_B11)[:, 0]
    return torch.where(least_B1.isfinite(), best_Bk, torch.nan)
