"""From raw detector numbers to what a network takes; the one piece that training and serving share.

Owns the steps' order: the list `steps` of a bundle's manifest is applied from first to last, on whatever
device the data are. What each does is in `models.steps`, but for those that hold an array with the event's
shape, which lies in the bundle's weights:

    dark, gain   x - array, x * array
    mask         0 where the array is 0, also where x is NaN there: a masked pixel has no say

Shapes: B batch, C channels, H height, W width. A frame [B, H, W] becomes [B, 1, H, W], modules [B, M, H, W]
stay as channels, a spectrum [B, N] becomes [B, 1, N].
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.manifest import check_keys, fault
from models.steps import FIX, STEPS, Apply, Size

ARRAY_STEPS: Final = ("dark", "gain", "mask")
MAX_STEPS: Final = 32  # each is a pass over the event; the longest recipe has three


class Preprocess(nn.Module):
    """The steps of one bundle: raw [B, *event] of any number type -> float32 with a channel axis.

    `arrays` holds dark, gain and mask by name. Raises BundleError for an unknown step, a wrong key or value,
    or a wrong array.
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
        if len(spec["steps"]) > MAX_STEPS:
            raise fault("steps", "preprocess", f"at most {MAX_STEPS}", len(spec["steps"]), FIX)
        steps = [_checked(step, f"preprocess.steps[{i}]") for i, step in enumerate(spec["steps"])]
        self.spec: dict[str, Any] = {"steps": steps}
        self._register(dict(arrays or {}))
        self._apply_in_order = self._made(steps)

    def forward(self, raw: Tensor) -> Tensor:
        """raw [B, *input_shape] -> float32 [B, C, H, W] or [B, 1, N]."""
        x = raw.to(torch.float32)
        if x.ndim < 4:
            x = x.unsqueeze(1)
        for apply in self._apply_in_order:
            x = apply(x)
        return x

    def key(self) -> str:
        """A hash of shape, steps and arrays: bundles with the same key can share one preprocessing."""
        digest = hashlib.sha256(json.dumps([self.input_shape, self.spec], sort_keys=True).encode())
        for name, array in sorted(self.named_buffers()):
            digest.update(name.encode() + array.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _register(self, arrays: dict[str, Tensor]) -> None:
        needed = [step["op"] for step in self.spec["steps"] if step["op"] in ARRAY_STEPS]
        if sorted(arrays) != sorted(needed):
            raise fault("arrays", "preprocess", sorted(needed), sorted(arrays), FIX)
        for name, array in arrays.items():
            if tuple(array.shape) != self.input_shape:
                raise fault(f"shape of {name}", "preprocess", self.input_shape, tuple(array.shape), FIX)
            self.register_buffer(name, array.to(torch.float32))

    def _made(self, steps: list[dict[str, Any]]) -> list[Apply]:
        size = whole = _last_two(self.input_shape)
        made: list[Apply] = []
        for index, step in enumerate(steps):
            op, where = step["op"], f"preprocess.steps[{index}]"
            if op in ARRAY_STEPS:
                if size != whole:
                    raise fault("order", where, f"{op} before the size changes", size, FIX)
                made.append(self._array_step(op))
                continue
            apply, size = STEPS[op].make(size, {k: v for k, v in step.items() if k != "op"}, where)
            if isinstance(apply, nn.Module):  # its constants must move to the device with ours
                self.add_module(f"step{index}", apply)
            made.append(apply)
        return made

    def _array_step(self, op: str) -> Apply:
        """The buffer is looked up in every call: moving to a device replaces it."""
        return {
            "dark": lambda x: x - self.get_buffer("dark"),
            "gain": lambda x: x * self.get_buffer("gain"),
            "mask": lambda x: torch.where(self.get_buffer("mask") != 0, x, 0.0),
        }[op]


def _checked(step: Any, where: str) -> dict[str, Any]:
    """A copy with exactly the keys of its kind; a whole number may stand where any number may."""
    op = step.get("op") if isinstance(step, Mapping) else step
    if not isinstance(step, Mapping) or op not in (*ARRAY_STEPS, *STEPS):
        raise fault("op", where, f"one of {(*ARRAY_STEPS, *STEPS)}", repr(op), FIX)
    keys = {} if op in ARRAY_STEPS else STEPS[op].keys
    copy = {key: float(v) if keys.get(key) is float and type(v) is int else v for key, v in step.items()}
    check_keys(copy, {"op": str, **keys}, where)
    if infinite := [key for key in keys if not math.isfinite(copy[key])]:
        raise fault("values", where, "finite numbers", {key: copy[key] for key in infinite}, FIX)
    return copy


def _last_two(shape: tuple[int, ...]) -> Size:
    """Height and width of an event; a spectrum has height 1."""
    return (shape[-2] if len(shape) > 1 else 1), shape[-1]
