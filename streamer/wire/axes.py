"""The names of a received array's axes.

Owns the axes string of the configuration, which says what no version of the Karabo Bridge sends: it is 'pulse
module slow fast' here and 'module fast slow pulse' there (European-XFEL/karabo-bridge-py#48). Looks at shapes
only, never at data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

_EVENT_AXES: Final = {3: ("module", "slow", "fast"), 2: ("slow", "fast"), 1: ("bin",)}


@dataclass(frozen=True, slots=True)
class Axes:
    """The wire's axes of one source, and how they become (pulse, *event axes)."""

    tokens: tuple[str, ...]
    sizes: tuple[int | None, ...]  # expected on the wire, in its order; None for the pulse axis
    pulse: int | None  # position of the pulse axis; None: one frame per train
    order: tuple[int, ...]  # transposition of the wire's axes to (pulse if any, *event axes)
    is_canonical: bool  # nothing to transpose
    has_modules: bool  # the source holds all modules


def parse_axes(axes: str, event_shape: Sequence[int]) -> Axes:
    """The axes of one source from their names, e.g. 'pulse module slow fast' for (modules, slow, fast).

    A three-dimensional event without 'module' in `axes` is stacked from one source per module.
    Raises ValueError with what would be right.
    """
    event_axes = _EVENT_AXES.get(len(event_shape))
    if event_axes is None or any(size < 1 for size in event_shape):
        raise ValueError(
            f"event shape {tuple(event_shape)}: expected (modules, slow, fast), (slow, fast) or (bins,)"
            " of sizes >= 1"
        )
    tokens = tuple(axes.split())
    size_of: dict[str, int | None] = dict(zip(event_axes, event_shape, strict=True))
    if len(event_shape) == 3 and "module" not in tokens:
        event_axes = event_axes[1:]
    if sorted(set(tokens) - {"pulse"}) != sorted(event_axes) or len(set(tokens)) != len(tokens):
        raise ValueError(
            f"axes {axes!r}: expected each of {', '.join(event_axes)} once, and pulse at most once, "
            f"in the order of the wire, for an event of shape {tuple(event_shape)}"
        )
    canonical = ("pulse", *event_axes) if "pulse" in tokens else event_axes
    order = tuple(tokens.index(token) for token in canonical)
    return Axes(
        tokens=tokens,
        sizes=tuple(size_of.get(token) for token in tokens),
        pulse=tokens.index("pulse") if "pulse" in tokens else None,
        order=order,
        is_canonical=order == tuple(range(len(order))),
        has_modules="module" in tokens,
    )


def fits(shape: tuple[int, ...], sizes: tuple[int | None, ...]) -> bool:
    """True if `shape` has the expected sizes; None among them stands for any."""
    return len(shape) == len(sizes) and all(
        want is None or got == want for got, want in zip(shape, sizes, strict=True)
    )


def fitting_axes(shape: tuple[int, ...], event_shape: Sequence[int], stacks: bool) -> list[str]:
    """Up to three axes strings under which `shape` would hold events of the configured shape."""
    names = _EVENT_AXES[len(event_shape)]
    if stacks:
        names = names[1:]
    tokens = (*names, "pulse") if len(shape) > len(names) else names
    orders = (" ".join(order) for order in permutations(tokens) if len(order) == len(shape))
    return [order for order in orders if fits(shape, parse_axes(order, event_shape).sizes)][:3]
