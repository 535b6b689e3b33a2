"""The table of architectures: the only names a manifest may ask for, each with its class."""

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

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
    except (TypeError, ValueError) as error:
        raise fault(
            "options", where, "those of the architecture", error, "train or export it again"
        ) from error
    _check_width(network, manifest, where)
    return network


def _check_width(network: Any, manifest: Manifest, where: str) -> None:
    if network.packed_width != manifest.packed_width:
        remedy = "manifest and architecture do not belong together: export the bundle again"
        raise fault("packed width", where, network.packed_width, manifest.packed_width, remedy)
