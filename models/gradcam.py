"""Where a network looked: Grad-CAM++ and Grad-CAM maps of one class, for images and for spectra.

Grad-CAM (Selvaraju et al., arXiv 1610.02391) weighs each channel A_k of the last activations by the mean of
the gradient g of the class; Grad-CAM++ (Chattopadhay et al., arXiv 1710.11063) by

    w_k = sum over places of alpha relu(g),   alpha = g^2 / (2 g^2 + g^3 sum over places of A_k)

and both draw relu(sum_k w_k A_k). One class at a time: the maps of julian-carpenter/airynet @7ad87bb add up
all classes before the one asked for. Off the hot path: it needs gradients.

A network offers `features(x)` -> [B, C, h, w] or [B, C, n] and `logits_of(features)` -> [B, L]. Place i of
its features looks at the input around `first_px` + i `stride_px`, two numbers that it may state: padded
kernels of odd size give first_px 0. Else the places are taken to share the input evenly.
B batch, C channels, S all places (h w or n), H height, W width, L labels, P pixels and N places of an axis.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.manifest import ModelError

TINY: Final = 1e-30  # keeps 0 / 0 away; gradients that matter are far above

Weigh = Callable[[Tensor, Tensor], Tensor]


def grad_cam_pp(network: nn.Module, x: Tensor, class_index: int) -> Tensor:
    """Grad-CAM++ of one class, float32 0..1 of the places of x: [B, H, W], or [B, N] for spectra.

    `x` is preprocessed, [B, C, H, W] or [B, C, N]. A map without any positive value is 0 everywhere. Raises
    ModelError if the network has no features to look at, or no such class.
    """
    return _spread(network, class_map(network, x, class_index, plus_weights), x)


def grad_cam(network: nn.Module, x: Tensor, class_index: int) -> Tensor:
    """Plain Grad-CAM, as `grad_cam_pp`."""
    return _spread(network, class_map(network, x, class_index, mean_weights), x)


def class_map(network: nn.Module, x: Tensor, class_index: int, weigh: Weigh) -> Tensor:
    """relu(sum_k w_k A_k) as it comes: float32 [B, h, w] or [B, n], as coarse as the features."""
    network = network.eval()
    look: Any = network
    if not hasattr(network, "features") or not hasattr(network, "logits_of"):
        raise ModelError(
            f"Grad-CAM of {type(network).__name__}: expected a network with `features` and `logits_of`, got "
            "one without; choose a convolutional network, or its gradient times its input"
        )
    with torch.inference_mode(False), torch.enable_grad():
        features = look.features(x.clone()).float().detach().requires_grad_(True)
        logits_BL = look.logits_of(features)
        if not 0 <= class_index < logits_BL.shape[1]:
            raise ModelError(
                f"Grad-CAM: expected a class below {logits_BL.shape[1]}, got {class_index}; name a class of "
                "the bundle"
            )
        # Events do not mix, so the gradient of the sum holds the gradient of each.
        (gradient,) = torch.autograd.grad(logits_BL[:, class_index].sum(), features)
    places = features.detach().flatten(2)
    weight_BC = weigh(places, gradient.flatten(2))
    coarse_BS = torch.einsum("bc,bcs->bs", weight_BC, places).clamp_min(0)
    return coarse_BS.view(features.shape[0], *features.shape[2:])


def plus_weights(features_BCS: Tensor, gradient_BCS: Tensor) -> Tensor:
    """Grad-CAM++ weights [B, C].

    Activations below 0 (leaky units) are taken as 0 in the sum: the formula is derived for relu, and with
    them its denominator may vanish.
    """
    total_BC1 = features_BCS.clamp_min(0).sum(2, keepdim=True)
    square = gradient_BCS.square()
    denominator = 2 * square + gradient_BCS.pow(3) * total_BC1
    # Places with g <= 0 have no say in the sum; for the others the denominator is positive.
    alpha = square / denominator.clamp_min(TINY)
    return (alpha * gradient_BCS.clamp_min(0)).sum(2)


def mean_weights(_features_BCS: Tensor, gradient_BCS: Tensor) -> Tensor:
    """Grad-CAM weights [B, C]."""
    return gradient_BCS.mean(2)


def _spread(network: nn.Module, coarse: Tensor, x: Tensor) -> Tensor:
    """Over its largest value, and as large as the input (linear between the places)."""
    largest = coarse.flatten(1).amax(1).clamp_min(TINY)
    whole = coarse / largest.view(-1, *[1] * (coarse.ndim - 1))
    for axis, pixels in enumerate(x.shape[2:], start=1):
        weight_PN = _between(network, pixels, whole.shape[axis]).to(whole.device)
        whole = torch.movedim(torch.movedim(whole, axis, -1) @ weight_PN.T, -1, axis)
    return whole


def _between(network: nn.Module, pixels: int, places: int) -> Tensor:
    """How much each place says of each pixel, [P, N]: linear between two places, the nearest beyond them."""
    stride_px = getattr(network, "stride_px", pixels / places)
    first_px = getattr(network, "first_px", (stride_px - 1) / 2)
    at_P1 = ((torch.arange(pixels) - first_px) / stride_px).clamp(0, places - 1)[:, None]
    return (1 - (at_P1 - torch.arange(places)).abs()).clamp_min(0)
