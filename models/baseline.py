"""Asymmetric least-squares baseline of many spectra at once, on the device they are on.

The baseline z of a spectrum y minimises sum w (y - z)^2 + smoothness * sum (second difference of z)^2 with
w = asymmetry where y > z, else 1 - asymmetry; it starts from w = 1 and is solved anew `iterations` times
(P. H. C. Eilers, H. F. M. Boelens, 2005; as European-XFEL-examples/panosc-ml-spectra-classification @1bf5af2
uses it, smoothness 1e5, asymmetry 0.002, 10 iterations).

A baseline cannot bend within less than smoothness^(1/4) points, so z is sought among cubic splines with knots
0.7 of that apart: 339 unknowns in place of 4023, bands of width 3. The result is that of the full system to
5e-5 of the spectrum's range (the tests compare). All spectra are solved at once by cyclic reduction of 3 x 3
blocks: each step eliminates every other block, so a few large operations do the work and nothing waits for
the host. In float64 throughout: the weights span a factor of 500.

B batch, C channels, N points, E = B C spectra, n splines, m blocks, h points from knot to knot.
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.manifest import fault

BLOCK: Final = 3  # a cubic spline overlaps three neighbours on each side
KNOT_SPACING: Final = 0.7  # of that length: 12 points; closer knots change the result by less than 2e-5
MIN_SMOOTHNESS: Final = 1e4  # below it derivatives and differences are no longer the same


class BaselineSubtraction(nn.Module):
    """x [B, C, N] -> x - baseline, float32; the preprocessing step `als_baseline`. Raises BundleError."""

    def __init__(self, points: int, smoothness: float, asymmetry: float, iterations: int) -> None:
        super().__init__()
        _check(points, smoothness, asymmetry, iterations)
        self.points, self.asymmetry, self.iterations = points, asymmetry, iterations
        self.step = int(KNOT_SPACING * smoothness**0.25)
        self.cells = math.ceil(points / self.step)
        spline, bend = _spline(self.step), _second_derivative(self.step)
        # Not persistent: they follow from the numbers above and have no place among a bundle's weights.
        self.register_buffer("spline", spline, persistent=False)
        self.register_buffer("products", _products(spline), persistent=False)
        # Over whole cells: what fills the last one is extrapolated in a straight line, which costs nothing.
        everywhere = torch.ones(1, self.cells, self.step, dtype=torch.float64)
        roughness = _spread(everywhere @ _products(bend))
        self.register_buffer("penalty", smoothness * roughness, persistent=False)

    def forward(self, x_BCN: Tensor) -> Tensor:
        with torch.autocast(x_BCN.device.type, enabled=False):
            y_EN = x_BCN.flatten(0, 1).double()
            return (y_EN - self.baseline(y_EN)).to(torch.float32).reshape(x_BCN.shape)

    def baseline(self, y_EN: Tensor) -> Tensor:
        """The baselines of float64 spectra [E, N]."""
        w_EN = torch.ones_like(y_EN)
        for _ in range(self.iterations):
            z_EN = self._weighted(y_EN, w_EN)
            w_EN = (y_EN > z_EN).to(y_EN.dtype) * (2 * self.asymmetry - 1) + (1 - self.asymmetry)
        return z_EN

    def _weighted(self, y_EN: Tensor, w_EN: Tensor) -> Tensor:
        bands = _spread(self._cells(w_EN) @ self.get_buffer("products")) + self.get_buffer("penalty")
        right = _spread(self._cells(w_EN * y_EN) @ self.get_buffer("spline"))
        return self._evaluate(solve_banded(bands, right[..., 0]))

    def _cells(self, values_EN: Tensor) -> Tensor:
        """[E, cells, h]; the last cell is filled with 0, so those points have no weight."""
        filled = F.pad(values_EN, (0, self.cells * self.step - self.points))
        return filled.reshape(len(values_EN), self.cells, self.step)

    def _evaluate(self, coefficients_En: Tensor) -> Tensor:
        local = torch.stack([coefficients_En[:, i : i + self.cells] for i in range(BLOCK + 1)], 2)
        return (local @ self.get_buffer("spline").T).flatten(1)[:, : self.points]


def _check(points: int, smoothness: float, asymmetry: float, iterations: int) -> None:
    if points < BLOCK or smoothness < MIN_SMOOTHNESS or not 0 < asymmetry < 1 or iterations < 1:
        expected = f"smoothness >= {MIN_SMOOTHNESS:g}, asymmetry between 0 and 1, iterations >= 1"
        got = f"{smoothness:g}, {asymmetry:g}, {iterations} for {points} points"
        raise fault("als_baseline", "preprocess", expected, got, "correct the step in the recipe")


def _spline(step: int) -> Tensor:
    """The four uniform cubic B-splines that a cell of `step` points has a part of, [h, 4], float64."""
    u = torch.arange(step, dtype=torch.float64) / step
    pieces = ((1 - u) ** 3, 4 - 6 * u**2 + 3 * u**3, 1 + 3 * u + 3 * u**2 - 3 * u**3, u**3)
    return torch.stack(pieces, 1) / 6


def _second_derivative(step: int) -> Tensor:
    """Of those splines at the same points; linear between knots, so it is its own second difference."""
    u = torch.arange(step, dtype=torch.float64) / step
    return torch.stack([1 - u, 3 * u - 2, 1 - 3 * u, u], 1) / step**2


def _products(parts: Tensor) -> Tensor:
    """[h, 16] of [h, 4]: part a times part a + lag at [:, 4 a + lag], 0 where there is no such part."""
    further = [F.pad(parts[:, lag:], (0, lag)) for lag in range(BLOCK + 1)]
    return (parts[:, :, None] * torch.stack(further, 2)).flatten(1)


def _spread(local: Tensor) -> Tensor:
    """Sums [E, n, k] over the cells of what each cell adds to its four splines, [E, cells, 4 k]."""
    parts = local.unflatten(2, (BLOCK + 1, -1))
    shifted = [F.pad(parts[:, :, i], (0, 0, i, BLOCK - i)) for i in range(BLOCK + 1)]
    return torch.stack(shifted).sum(0)


def solve_banded(bands: Tensor, right_En: Tensor) -> Tensor:
    """x [E, n] of A x = right; `bands` [E, n, 4] hold A[j, j + d] at [j, d] of symmetric positive A."""
    n = right_En.shape[1]
    spare = -n % BLOCK
    padded = F.pad(bands, (0, 0, 0, spare))
    padded[:, n:, 0] = 1.0  # the unknowns that fill the last block: x = 0
    blocks = padded.unflatten(1, (-1, BLOCK))
    inside = [blocks[:, :, min(r, c), abs(r - c)] for r in range(BLOCK) for c in range(BLOCK)]
    diagonal = torch.stack(inside, 2).unflatten(2, (BLOCK, BLOCK))
    beside = [_beside(blocks, r, c) for r in range(BLOCK) for c in range(BLOCK)]
    off = torch.stack(beside, 2).unflatten(2, (BLOCK, BLOCK))[:, :-1]
    right = F.pad(right_En, (0, spare)).unflatten(1, (-1, BLOCK))
    return _reduce(diagonal, off, right.unsqueeze(3)).flatten(1)[:, :n]


def _beside(blocks: Tensor, r: int, c: int) -> Tensor:
    """Element (r, c) of the blocks right of the diagonal's: the bands end on their own diagonal."""
    return blocks[:, :, r, BLOCK + c - r] if c <= r else torch.zeros_like(blocks[:, :, 0, 0])


def _reduce(diagonal: Tensor, off: Tensor, right: Tensor) -> Tensor:
    """Block cyclic reduction: diagonal [E, m, 3, 3], off [E, m - 1, 3, 3] (block i with i + 1), right
    [E, m, 3, 1]. Every other block is expressed by its two neighbours, then those are solved the same way."""
    m = diagonal.shape[1]
    if m == 1:
        return inverse(diagonal) @ right
    if m % 2 == 0:  # the last eliminated block has no right neighbour: couple it with nothing
        off = F.pad(off, (0, 0, 0, 0, 0, 1))
    # Both neighbours of an eliminated block side by side: [E, m // 2, 6, 3].
    both = torch.cat([off[:, 0::2], off[:, 1::2].transpose(2, 3)], 2)
    inner = inverse(diagonal[:, 1::2])
    solved = both @ inner
    schur, shift = solved @ both.transpose(2, 3), solved @ right[:, 1::2]
    kept = _less(diagonal[:, 0::2], schur[..., :BLOCK, :BLOCK], schur[..., BLOCK:, BLOCK:])
    rest = _less(right[:, 0::2], shift[..., :BLOCK, :], shift[..., BLOCK:, :])
    coupled = -schur[:, : kept.shape[1] - 1, :BLOCK, BLOCK:]
    even = F.pad(_reduce(kept, coupled, rest), (0, 0, 0, 0, 0, 1 - m % 2))
    neighbours = torch.cat([even[:, :-1], even[:, 1:]], 2)
    odd = inner @ (right[:, 1::2] - both.transpose(2, 3) @ neighbours)
    woven = torch.stack([even[:, :-1], odd], 2).flatten(1, 2)
    return torch.cat([woven, even[:, -1:]], 1).narrow(1, 0, m)


def _less(values: Tensor, of_left: Tensor, of_right: Tensor) -> Tensor:
    """The kept blocks, less what the eliminated ones right and left of them take."""
    taken = F.pad(of_left, (0, 0, 0, 0, 0, 1)) + F.pad(of_right, (0, 0, 0, 0, 1, 0))
    return values - taken[:, : values.shape[1]]


def inverse(a: Tensor) -> Tensor:
    """Of 3 x 3 matrices [..., 3, 3] by the cross products of their rows: no call into LAPACK per matrix."""
    rows = a.unbind(-2)
    crosses = [torch.linalg.cross(rows[(i + 1) % 3], rows[(i + 2) % 3]) for i in range(3)]
    determinant = (rows[0] * crosses[0]).sum(-1)
    inverted: Tensor = torch.stack(crosses, -1) / determinant[..., None, None]
    return inverted
