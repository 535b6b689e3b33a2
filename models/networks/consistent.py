"""Classes that contradict each other never said together: probabilities and labels that respect a hierarchy.

Helium droplets are one of several kinds (Spherical_Oblate, Prolate) or there is nothing (Empty); some labels
exist only under one kind (Round and Elliptical; Streak and Bent). Of the 7264 hand-labelled images of
Zimmermann et al. (PRE 99, 063309, 2019) 6 break this (a streak without Prolate). With s the logistic function
and z the outputs of a network,

    p(nothing), p(kind) from one softmax over z of nothing, of every kind, and 0 for "none of them"
    p(label under a kind) = p(kind) s(z)          p(any other label) = (1 - p(nothing)) s(z)

and said are only labels whose kind is said; the kinds exclude each other, and nothing excludes all.
`LabelNetwork` is the base of all multi-label networks; without a hierarchy p = s(z), each label on its own.

B batch, C channels, H height, W width, L labels, K kinds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LABELS = 24  # the bitmask travels in a float32, exact below 2**24
LOG_RANGE = -30.0  # p = 1e-13: beyond it the logarithm of 1 - p is 0 in float32


class Consistency(nn.Module):
    """The rules of one hierarchy. Its indices are buffers: a list would be copied to the device in each call.

    spec: `kinds`, of each kind its own index, then those of its labels; `nothing`, the index of the empty
    class. Raises ValueError for indices that are not there or come twice.
    """

    def __init__(self, spec: Mapping[str, Any], labels: int) -> None:
        super().__init__()
        kinds, nothing = [[int(i) for i in kind] for kind in spec["kinds"]], int(spec["nothing"])
        every = [nothing, *(i for kind in kinds for i in kind)]
        if len(set(every)) != len(every) or not all(0 <= i < labels for i in every) or not all(kinds):
            raise ValueError(f"hierarchy: expected different indices below {labels}, got {dict(spec)}")
        self.heads = (nothing, *(kind[0] for kind in kinds))
        places = {i: 1 + place for place, kind in enumerate(kinds) for i in kind} | {nothing: 0}
        free = len(self.heads)  # the column of "anything at all", behind nothing and the kinds
        self._keep("head", torch.tensor(self.heads))
        self._keep("context", torch.tensor([places.get(i, free) for i in range(labels)]))
        self._keep("own", torch.tensor([float(i not in self.heads) for i in range(labels)]))
        self._keep("kind", torch.arange(len(kinds)))

    def _keep(self, name: str, values: Tensor) -> None:
        """Not in the weights: the options decide them."""
        self.register_buffer(name, values, persistent=False)

    def logits(self, z_BL: Tensor) -> Tensor:
        """Logits of the probabilities above, float32 [B, L]; a sigmoid gives the probabilities themselves."""
        z_BL = z_BL.float()
        of_kind = torch.cat([z_BL.index_select(1, self.get_buffer("head")), torch.zeros_like(z_BL[:, :1])], 1)
        log_kind = F.log_softmax(of_kind, 1)
        something_B1 = torch.logsumexp(log_kind[:, 1:], 1, keepdim=True)
        log_context = torch.cat([log_kind[:, :-1], something_B1], 1)
        own_BL = self.get_buffer("own") * F.logsigmoid(z_BL)
        log_p_BL = own_BL + log_context.index_select(1, self.get_buffer("context"))
        # Between the two bounds both log p and log(1 - p) are finite, with finite slopes. A NaN stays one.
        log_p_BL = log_p_BL.clamp(LOG_RANGE, -1e-6)
        return log_p_BL - torch.log(-torch.expm1(log_p_BL))

    def labels(self, p_BL: Tensor, threshold_L: Tensor) -> Tensor:
        """float32 [B, L] of 0 and 1: above the threshold and not against the hierarchy.

        Of several kinds above their thresholds the one most above counts, as a share of the threshold.
        """
        head, own = self.get_buffer("head"), self.get_buffer("own")
        above_BL = (p_BL > threshold_L).float()
        first_B = (p_BL / threshold_L).index_select(1, head[1:]).argmax(1)
        chosen_BK = (first_B[:, None] == self.get_buffer("kind")).float()
        heads_above = above_BL.index_select(1, head)
        something_B1 = 1 - heads_above[:, :1]
        context = torch.cat(
            [heads_above[:, :1], heads_above[:, 1:] * chosen_BK * something_B1, something_B1], 1
        )
        return context.index_select(1, self.get_buffer("context")) * (own * above_BL + 1 - own)


class LabelNetwork(nn.Module):
    """[B, 1, H, W] -> packed [B, L + 1]: probabilities, then the bitmask of the labels that are said.

    A network gives `features` and `scores_of`; this adds probabilities, thresholds and consistency. Place i
    of the features looks at the image around pixel first_px + i stride_px.
    """

    stride_px: int
    first_px: float = 0.0  # padded kernels of odd size: the first place looks at the first pixel

    def __init__(self, labels: int, hierarchy: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not 1 <= labels <= MAX_LABELS:
            raise ValueError(f"labels 1..{MAX_LABELS}, got {labels}")
        self.packed_width = labels + 1
        self.consistency = None if hierarchy is None else Consistency(hierarchy, labels)
        self.register_buffer("threshold", torch.full((labels,), 0.5))
        self.register_buffer("bit", 2.0 ** torch.arange(labels))

    def features(self, x_BCHW: Tensor) -> Tensor:
        """The last activations that still have places, [B, C, h, w]: what an explanation looks at."""
        raise NotImplementedError

    def scores_of(self, features_BCHW: Tensor) -> Tensor:
        """[B, L], one number a label, free of constraints."""
        raise NotImplementedError

    def logits_of(self, features_BCHW: Tensor) -> Tensor:
        """[B, L], the logits of the published probabilities."""
        z_BL = self.scores_of(features_BCHW)
        return z_BL.float() if self.consistency is None else self.consistency.logits(z_BL)

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """[B, L], what training compares with the labels."""
        return self.logits_of(self.features(x_BCHW))

    def said(self, p_BL: Tensor) -> Tensor:
        """float32 [B, L] of 0 and 1: which labels these probabilities give."""
        threshold_L = self.get_buffer("threshold")
        if self.consistency is None:
            return (p_BL > threshold_L).float()
        return self.consistency.labels(p_BL, threshold_L)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        p_BL = torch.sigmoid(self.logits(x_BCHW))
        return torch.cat([p_BL, (self.said(p_BL) * self.get_buffer("bit")).sum(1, keepdim=True)], 1)


def nested(names: Sequence[str]) -> dict[str, Any] | None:
    """The hierarchy of the droplet classes for `names` in any order; None unless all of them are there."""
    kinds = [["Spherical_Oblate", "Round", "Elliptical"], ["Prolate", "Streak", "Bent"]]
    if not {"Empty", *kinds[0], *kinds[1]} <= set(names):
        return None
    place = {name: i for i, name in enumerate(names)}
    return {"kinds": [[place[name] for name in kind] for kind in kinds], "nothing": place["Empty"]}
