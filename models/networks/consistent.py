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
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LABELS = 24  # the bitmask travels in a float32, exact below 2**24
LOG_RANGE = -30.0  # p = 1e-13: beyond it the logarithm of 1 - p is 0 in float32


@dataclass(frozen=True)
class Hierarchy:
    """kinds: of each kind its own index, then those of its labels. nothing: index of the empty class."""

    kinds: tuple[tuple[int, ...], ...]
    nothing: int

    @staticmethod
    def checked(spec: Mapping[str, Any], labels: int) -> "Hierarchy":
        """From the options of a manifest; raises ValueError for indices that are not there or come twice."""
        kinds = tuple(tuple(int(i) for i in kind) for kind in spec["kinds"])
        own = [i for kind in kinds for i in kind] + [int(spec["nothing"])]
        if len(set(own)) != len(own) or not all(0 <= i < labels for i in own) or not all(kinds):
            raise ValueError(f"hierarchy: expected different indices below {labels}, got {dict(spec)}")
        return Hierarchy(kinds, int(spec["nothing"]))

    def free(self, labels: int) -> list[int]:
        """Labels under no kind."""
        bound = {i for kind in self.kinds for i in kind} | {self.nothing}
        return [i for i in range(labels) if i not in bound]


def consistent_logits(z_BL: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Logits of the probabilities above, float32 [B, L]; a sigmoid gives the probabilities themselves."""
    z_BL = z_BL.float()
    heads = [kind[0] for kind in hierarchy.kinds]
    of_kind_BK = torch.cat([z_BL[:, [hierarchy.nothing, *heads]], torch.zeros_like(z_BL[:, :1])], 1)
    log_kind_BK = F.log_softmax(of_kind_BK, 1)
    log_something_B = torch.logsumexp(log_kind_BK[:, 1:], 1)
    log_p = list(F.logsigmoid(z_BL).unbind(1))
    for place, (head, *under) in enumerate(hierarchy.kinds):
        log_p[head] = log_kind_BK[:, 1 + place]
        for i in under:
            log_p[i] = log_p[i] + log_p[head]
    for i in hierarchy.free(len(log_p)):
        log_p[i] = log_p[i] + log_something_B
    log_p[hierarchy.nothing] = log_kind_BK[:, 0]
    # Between the two bounds both log p and log(1 - p) are finite, with finite slopes. A NaN stays one.
    log_p_BL = torch.stack(log_p, 1).clamp(LOG_RANGE, -1e-6)
    return log_p_BL - torch.log(-torch.expm1(log_p_BL))


def consistent_labels(p_BL: Tensor, threshold_L: Tensor, hierarchy: Hierarchy) -> Tensor:
    """float32 [B, L] of 0 and 1: above the threshold and not against the hierarchy.

    Of several kinds above their thresholds the one most above counts, as a share of the threshold.
    """
    above = list((p_BL > threshold_L).float().unbind(1))
    heads = [kind[0] for kind in hierarchy.kinds]
    best_BK = F.one_hot((p_BL / threshold_L)[:, heads].argmax(1), len(heads)).float()
    something_B = 1 - above[hierarchy.nothing]
    for place, (head, *under) in enumerate(hierarchy.kinds):
        above[head] = above[head] * best_BK[:, place] * something_B
        for i in under:
            above[i] = above[i] * above[head]
    for i in hierarchy.free(len(above)):
        above[i] = above[i] * something_B
    return torch.stack(above, 1)


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
        self.hierarchy = None if hierarchy is None else Hierarchy.checked(hierarchy, labels)
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
        return z_BL.float() if self.hierarchy is None else consistent_logits(z_BL, self.hierarchy)

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """[B, L], what training compares with the labels."""
        return self.logits_of(self.features(x_BCHW))

    def said(self, p_BL: Tensor) -> Tensor:
        """float32 [B, L] of 0 and 1: which labels these probabilities give."""
        if self.hierarchy is None:
            return (p_BL > self.get_buffer("threshold")).float()
        return consistent_labels(p_BL, self.get_buffer("threshold"), self.hierarchy)

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
