"""The table of architectures: the only names a manifest may ask for, each with its class."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from models.manifest import Manifest, fault
from models.networks.binned import BinnedNetwork
from models.networks.droplet_cnn import DropletCNN
from models.networks.eca import ECA
from models.networks.ednn import EDNN
from models.networks.nnca import NNCA
from models.networks.resnet import ResNet
from models.networks.ring_vae import RingMixtureEncoder
from models.networks.spectra_attention import SpectraAttention
from models.networks.spectra_autoweights import SpectraAutoWeights
from models.networks.spectra_cnn import SpectraCNN
from models.networks.spectra_fcnn import SpectraFCNN
from models.networks.spectra_lstm import SpectraLSTM
from models.networks.spectra_msresnet import SpectraMSResNet
from models.networks.spectra_transformer import SpectraTransformer
from models.networks.spectrum_inverse import SpectrumInverse
from models.networks.tcvae import TCVAEMixture
from models.networks.vgg import VGG

ARCHITECTURES: Final[Mapping[str, type[nn.Module]]] = {
    "droplet_cnn": DropletCNN,
    "ring_mixture_encoder": RingMixtureEncoder,
    "tcvae_mixture": TCVAEMixture,
    "ednn": EDNN,
    "nnca": NNCA,
    "eca": ECA,
    "spectrum_inverse": SpectrumInverse,
    "spectra_fcnn": SpectraFCNN,
    "spectra_cnn": SpectraCNN,
    "spectra_msresnet": SpectraMSResNet,
    "spectra_lstm": SpectraLSTM,
    "spectra_transformer": SpectraTransformer,
    "spectra_attention": SpectraAttention,
    "spectra_autoweights": SpectraAutoWeights,
    "spectra_binned": BinnedNetwork,
    "resnet": ResNet,
    "vgg": VGG,
}

# Parameters that some constructors register, replace or drop again on their way (a parametrisation).
SPARE_TENSORS: Final = 64


def build_network(manifest: Manifest) -> nn.Module:
    """An untrained network of the manifest's architecture and options; raises BundleError."""
    where = f"bundle {manifest.name!r}"
    if manifest.architecture not in ARCHITECTURES:
        remedy = "install the version of this package that wrote the bundle"
        raise fault(
            "architecture", where, f"one of {tuple(ARCHITECTURES)}", repr(manifest.architecture), remedy
        )
    try:
        network = ARCHITECTURES[manifest.architecture](**manifest.options)
    except Exception as error:  # options come from a file: whatever they break, the bundle is refused
        got = f"{type(error).__name__}: {error}"
        raise fault("options", where, "those of the architecture", got, "train or export it again") from error
    _check_width(network, manifest, where)
    return network


def check_tensors(manifest: Manifest, tensors: Mapping[str, Tensor], where: object) -> None:
    """That `tensors` are those of the network, before memory is taken for it; raises BundleError.

    The network is built without memory (device meta), and no further than the file has tensors: neither a
    width of 10**9 nor a million layers in the options cost more than the file itself.
    """
    remedy = "architecture and weights do not belong together: export the bundle again"
    with torch.device("meta"), _at_most(len(tensors)):
        wanted = build_network(manifest).state_dict()
    if set(tensors) != set(wanted):
        differing = sorted(set(tensors) ^ set(wanted))[:8]
        raise fault("tensor names", where, "those of the architecture", f"differing: {differing}", remedy)
    for name, tensor in tensors.items():
        expected, got = (wanted[name].dtype, tuple(wanted[name].shape)), (tensor.dtype, tuple(tensor.shape))
        if expected != got:
            raise fault(f"tensor {name!r}", where, expected, got, remedy)


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """No network gets more parameters than this while the context lasts; raises ValueError."""
    count = 0

    def heard(_module: nn.Module, _name: str, _value: object) -> None:
        nonlocal count
        count += 1
        if count > 2 * tensors + SPARE_TENSORS:
            raise ValueError(f"more than the {tensors} tensors of the file")

    hook = register_module_parameter_registration_hook(heard)
    try:
        yield
    finally:
        hook.remove()


def _check_width(network: Any, manifest: Manifest, where: str) -> None:
    if network.packed_width != manifest.packed_width:
        remedy = "manifest and architecture do not belong together: export the bundle again"
        raise fault("packed width", where, network.packed_width, manifest.packed_width, remedy)
