"""From raw detector numbers to what a network takes; the one piece that training and serving share.

Owns the steps and their order: the list `steps` of a bundle's manifest is applied from first to last, on
whatever device the data are. Constants that are arrays (dark, gain, mask) lie in the bundle's weights. Every
step works on each event alone, so a NaN or an infinity of one event never reaches another. Steps, with their
keys beside `op`:

    dark, gain   x - array, x * array        the array has the event's shape
    mask         0 where the array is 0      also where x is NaN: a masked pixel has no say
    scale        (x - offset) * factor
    crop         top, left, height, width    of the last two axes; a spectrum has top 0 and height 1
    bin          means of factor x factor pixels, or of factor points; sizes must be multiples of it
    resize       height, width (1 and width for a spectrum): bilinear, weighted over all pixels that a new
                 one covers, so that nothing between the samples is lost
    log1p        ln(1 + max(x, 0))
    signed_log   sgn(x) alpha (ln(|x| + 1/e) + 1): julian-carpenter/airynet @7ad87bb, alpha 0.2
    two_point_correlation  rings, angles, floor: the image over (q, angle) that no turning changes
    als_baseline smoothness, asymmetry, iterations: a spectrum less its asymmetric-least-squares baseline
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
import torch.nn.functional as F
from torch import Tensor, nn

from models.baseline import BaselineSubtraction
from models.correlation import two_point_correlation
from models.manifest import MAX_EVENT_ELEMENTS, check_keys, fault

_FIX = "correct `preprocess` in the recipe and train or export again"
ARRAY_STEPS: Final = ("dark", "gain", "mask")
_STEP_KEYS: Final[dict[str, dict[str, type]]] = {
    "dark": {},
    "gain": {},
    "mask": {},
    "scale": {"offset": float, "factor": float},
    "crop": {"top": int, "left": int, "height": int, "width": int},
    "bin": {"factor": int},
    "resize": {"height": int, "width": int},
    "log1p": {},
    "signed_log": {"alpha": float},
    "two_point_correlation": {"rings": int, "angles": int, "floor": float},
    "als_baseline": {"smoothness": float, "asymmetry": float, "iterations": int},
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
        # Height and width, as the steps change them.
        self._size: tuple[int, int] = _last_two(self.input_shape)
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

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of what the network takes; a spectrum has height 1."""
        return self._size

    def _build(self, step: Mapping[str, Any], index: int) -> Step:
        where, op = f"preprocess.steps[{index}]", step.get("op")
        if op not in _STEP_KEYS:
            raise fault("op", where, f"one of {tuple(_STEP_KEYS)}", repr(op), _FIX)
        check_keys(step, {"op": str} | _STEP_KEYS[op], where)
        if op in ARRAY_STEPS and self._size != _last_two(self.input_shape):
            raise fault("order", where, f"{op} before the size changes", self._size, _FIX)
        if op == "als_baseline":
            return self._baseline_step(step, index)
        self._size = _size_after(step, self._size, where)
        steps: dict[str, Step] = {
            "dark": lambda x: x - self.get_buffer("dark"),
            "gain": lambda x: x * self.get_buffer("gain"),
            "mask": lambda x: torch.where(self.get_buffer("mask") != 0, x, 0.0),
            "scale": lambda x: _scale(x, step["offset"], step["factor"]),
            "crop": lambda x: _crop(x, step),
            "bin": lambda x: _bin(x, step["factor"]),
            "resize": lambda x: _resize(x, step["height"], step["width"]),
            "two_point_correlation": lambda x: two_point_correlation(
                x, step["rings"], step["angles"], step["floor"]
            ),
            "log1p": lambda x: torch.log1p(x.clamp_min(0.0)),
            "signed_log": lambda x: signed_log(x, step["alpha"]),
            "standardise": lambda x: standardise(x, step["epsilon"]),
        }
        return steps[op]

    def _baseline_step(self, step: Mapping[str, Any], index: int) -> Step:
        """A module, because its constants must move to the device with the others."""
        where = f"preprocess.steps[{index}]"
        if len(self.input_shape) != 1:
            raise fault("als_baseline", where, "a spectrum", f"events of shape {self.input_shape}", _FIX)
        options = {key: value for key, value in step.items() if key != "op"}
        module = BaselineSubtraction(self._size[1], **options)
        self.add_module(f"step{index}", module)
        return module


def _scale(x: Tensor, offset: float, factor: float) -> Tensor:
    """A factor of 1 is left out: a pass over the frame costs as much as a layer of a small network."""
    return x - offset if factor == 1.0 else (x - offset) * factor


def _crop(x: Tensor, step: Mapping[str, Any]) -> Tensor:
    top, left = step["top"], step["left"]
    columns = slice(left, left + step["width"])
    return x[..., columns] if x.ndim == 3 else x[..., top : top + step["height"], columns]


def _bin(x: Tensor, factor: int) -> Tensor:
    return F.avg_pool1d(x, factor) if x.ndim == 3 else F.avg_pool2d(x, factor)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    image = x.unsqueeze(2) if x.ndim == 3 else x
    resized = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return resized.squeeze(2) if x.ndim == 3 else resized


def _last_two(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an event; a spectrum has height 1."""
    return (shape[-2] if len(shape) > 1 else 1), shape[-1]


def _size_after(step: Mapping[str, Any], size: tuple[int, int], where: str) -> tuple[int, int]:
    """Height and width behind a step. Raises BundleError for one that these cannot take."""
    match step["op"]:
        case "crop":
            return _cropped(step, size, where)
        case "bin":
            return _binned(step["factor"], size, where)
        case "resize":
            height, width = step["height"], step["width"]
            flat_stays_flat = (height == 1) == (size[0] == 1)
            if min(height, width) < 1 or height * width > MAX_EVENT_ELEMENTS or not flat_stays_flat:
                raise fault(
                    "resize", where, f"positive sizes, height 1 for a spectrum ({size})", dict(step), _FIX
                )
            return height, width
        case "two_point_correlation":
            return _correlated(step, size, where)
    return size


def _correlated(step: Mapping[str, Any], size: tuple[int, int], where: str) -> tuple[int, int]:
    rings, angles = step["rings"], step["angles"]
    if size[0] == 1 or rings < 1 or angles < 4 or angles % 2 or rings * angles > MAX_EVENT_ELEMENTS:
        expected = "a frame, rings >= 1 and an even number of angles >= 4"
        raise fault("two_point_correlation", where, expected, (size, dict(step)), _FIX)
    return rings, angles // 2


def _cropped(step: Mapping[str, Any], size: tuple[int, int], where: str) -> tuple[int, int]:
    for first, length, whole in (("top", "height", size[0]), ("left", "width", size[1])):
        if not 0 <= step[first] < step[first] + step[length] <= whole:
            raise fault("crop", where, f"a rectangle inside {size[0]} x {size[1]}", dict(step), _FIX)
    return step["height"], step["width"]


def _binned(factor: int, size: tuple[int, int], where: str) -> tuple[int, int]:
    down = (1 if size[0] == 1 else factor, factor)
    if factor < 1 or size[0] % down[0] or size[1] % down[1]:
        remedy = "crop to a multiple first"
        raise fault("bin", where, f"a factor of {size[0]} and {size[1]}", factor, remedy)
    return size[0] // down[0], size[1] // down[1]
