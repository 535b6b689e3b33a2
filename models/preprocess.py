"""From raw detector numbers to what a network takes; the one piece that training and serving share.

Owns the steps and their order: the list `steps` of a bundle's manifest is applied from first to last, on
whatever device the data are. Constants that are arrays (dark, gain, mask) lie in the bundle's weights. Every
step works on each event alone, so a NaN or an infinity of one event never reaches another. Steps, with their
keys beside `op`:

    dark, gain   x - array, x * array        the array has the event's shape
    mask         0 where the array is 0      also where x is NaN: a masked pixel has no say
    scale        (x - offset) * factor
    crop         top, left, height, width    of the last two axes; a spectrum has top 0 and height 1
    log1p        ln(1 + max(x, 0))
    signed_log   sgn(x) alpha (ln(|x| + 1/e) + 1): julian-carpenter/airynet @7ad87bb, alpha 0.2
    standardise  (x - mean) / std of the event, as the LayerNorm in front of the networks of
                 sunyue-xfel/Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c

Shapes: B batch, C channels, H height, W width. A frame [B, H, W] becomes [B, 1, H, W], modules [B, M, H, W]
stay as channels, a spectrum [B, N] becomes [B, 1, N].
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.manifest import check_keys, fault

_FIX = "correct `preprocess` in the recipe and train or export again"
ARRAY_STEPS: Final = ("dark", "gain", "mask")
_STEP_KEYS: Final[dict[str, dict[str, type]]] = {
    "dark": {},
    "gain": {},
    "mask": {},
    "scale": {"offset": float, "factor": float},
    "crop": {"top": int, "left": int, "height": int, "width": int},
    "log1p": {},
    "signed_log": {"alpha": float},
    "standardise": {"epsilon": float},
}

Step = Callable[[Tensor], Tensor]


def signed_log(x: Tensor, alpha: float) -> Tensor:
    """airynet's logarithmic activation: odd, finite at 0; six decades of counts become about 3 units."""
    return torch.sign(x) * alpha * (torch.log(x.abs() + math.exp(-1)) + 1)


def standardise(x_BCHW: Tensor, epsilon: float) -> Tensor:
    """Each event to mean 0 and standard deviation 1; `epsilon` keeps a constant event finite."""
    axes = tuple(range(1, x_BCHW.ndim))
    centred = x_BCHW - x_BCHW.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)


class Preprocess(nn.Module):
    """The steps of one bundle: raw [B, *event] of any number type -> float32 with a channel axis.

    `arrays` holds dark, gain and mask by name. Raises BundleError for an unknown step, a wrong key or a wrong
    array.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        input_shape: tuple[int, ...],
        arrays: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_keys(spec, {"steps": list}, "preprocess")
        self.input_shape = tuple(input_shape)
        self.spec: dict[str, Any] = {"steps": [dict(step) for step in spec["steps"]]}
        self._register(dict(arrays or {}))
        self._steps = [self._build(step, i) for i, step in enumerate(self.spec["steps"])]

    def forward(self, raw: Tensor) -> Tensor:
        """raw [B, *input_shape] -> float32 [B, C, H, W] or [B, 1, N]."""
        x = raw.to(torch.float32)
        if x.ndim < 4:
            x = x.unsqueeze(1)
        for step in self._steps:
            x = step(x)
        return x

    def key(self) -> str:
        """A hash of shape, steps and arrays: bundles with the same key can share one preprocessing."""
        digest = hashlib.sha256(json.dumps([self.input_shape, self.spec], sort_keys=True).encode())
        for name, array in sorted(self.named_buffers()):
            digest.update(name.encode() + array.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _register(self, arrays: dict[str, Tensor]) -> None:
        needed = [step["op"] for step in self.spec["steps"] if step.get("op") in ARRAY_STEPS]
        if sorted(arrays) != sorted(needed):
            raise fault("arrays", "preprocess", sorted(needed), sorted(arrays), _FIX)
        for name, array in arrays.items():
            if tuple(array.shape) != self.input_shape:
                raise fault(f"shape of {name}", "preprocess", self.input_shape, tuple(array.shape), _FIX)
            self.register_buffer(name, array.to(torch.float32))

    def _build(self, step: Mapping[str, Any], index: int) -> Step:
        where, op = f"preprocess.steps[{index}]", step.get("op")
        if op not in _STEP_KEYS:
            raise fault("op", where, f"one of {tuple(_STEP_KEYS)}", repr(op), _FIX)
        check_keys(step, {"op": str} | _STEP_KEYS[op], where)
        steps: dict[str, Step] = {
            "dark": lambda x: x - self.get_buffer("dark"),
            "gain": lambda x: x * self.get_buffer("gain"),
            "mask": lambda x: torch.where(self.get_buffer("mask") != 0, x, 0.0),
            "scale": lambda x: _scale(x, step["offset"], step["factor"]),
            "crop": lambda x: _crop(x, step),
            "log1p": lambda x: torch.log1p(x.clamp_min(0.0)),
            "signed_log": lambda x: signed_log(x, step["alpha"]),
            "standardise": lambda x: standardise(x, step["epsilon"]),
        }
        if op == "crop":
            _check_crop(step, self.input_shape, where)
        return steps[op]


def _scale(x: Tensor, offset: float, factor: float) -> Tensor:
    """A factor of 1 is left out: a pass over the frame costs as much as a layer of a small network."""
    return x - offset if factor == 1.0 else (x - offset) * factor


def _crop(x: Tensor, step: Mapping[str, Any]) -> Tensor:
    top, left = step["top"], step["left"]
    columns = slice(left, left + step["width"])
    return x[..., columns] if x.ndim == 3 else x[..., top : top + step["height"], columns]


def _check_crop(step: Mapping[str, Any], input_shape: tuple[int, ...], where: str) -> None:
    height, width = (1, *input_shape)[-2:]
    if not (0 <= step["top"] < step["top"] + step["height"] <= height) or not (
        0 <= step["left"] < step["left"] + step["width"] <= width
    ):
        raise fault("crop", where, f"a rectangle inside {height} x {width}", dict(step), _FIX)
