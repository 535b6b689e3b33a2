"""All bundles of a stream as one module.

B batch, R packed width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.bundle import Bundle


class Networks(nn.Module):
    """All bundles of a stream as one module: raw [B, *event] -> packed float32 [B, R].

    Bundles whose preprocessing is the same share it.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        super().__init__()
        self._keys = [bundle.preprocess_key for bundle in bundles]
        self._steps = nn.ModuleDict({bundle.preprocess_key: bundle.preprocess for bundle in bundles})
        self._networks = nn.ModuleList(bundle.network for bundle in bundles)

    def forward(self, raw: Tensor) -> Tensor:
        ready = {key: steps(raw) for key, steps in self._steps.items()}
        packed = [net(ready[key]) for key, net in zip(self._keys, self._networks, strict=True)]
        return torch.cat(packed, dim=1)


def channels_last(networks: Networks) -> Networks:
    """Convolutions are faster with the channels of a pixel side by side (docs/decisions/cpu-inference.md)."""
    for parameter in networks.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return networks.eval()
