"""Events in memory, as training and scoring take them.

N events, T targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class DataSet:
    """inputs: raw [N, *event] on the CPU, as the stream sees them.

    targets: float32 [N, T]: classes as 0 and 1 (one of them 1 where they exclude each other), or structure in
    the units of its name. facts: [N] or [N, ...] by name, known of simulated events, used for scores only.
    """

    inputs: Tensor
    targets: Tensor
    target_names: tuple[str, ...]
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor) -> "DataSet":
        """The events at `index` (int64), in that order."""
        facts = {name: values[index] for name, values in self.facts.items()}
        return DataSet(_rows(self.inputs, index), self.targets[index], self.target_names, facts)

    def to(self, device: torch.device) -> "DataSet":
        """Inputs and targets on `device`; the facts stay where they are."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """torch cannot index uint16 and uint32: those go as the signed type of the same size and back."""
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32}.get(values.dtype)
    return values[index] if signed is None else values.view(signed)[index].view(values.dtype)
