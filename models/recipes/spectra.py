"""Classifiers of the phase along a pressure ramp, after Sun et al.

All learn from simulated runs alone, each training curve from a run of its own, and are scored on runs
that they have not seen and on the two measured curves. That replaces the published protocol, in which
copies of 4 to 31 curves with noise added were the training data and the run they came from was the test.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from models.recipes.recipe import Data, Recipe, Stage

_ORIGIN: Final = (
    "Sun et al., sunyue-xfel/"
    "Comparing-End-to-End-Machine-Learning-Methods-for-Spectra-Classification @4142f1c"
)
_BINNED_ORIGIN: Final = "Sun et al., European-XFEL-examples/panosc-ml-spectra-classification @1bf5af2"
_ABOUT: Final = "Says of a powder diffractogram which phase the sample is in, or that there is no sample."
_LIMITS: Final = """\
The boundary between the phases is one hand label of the authors on one run (curve 185 of 349); no pressure
was published. Right answers at both ends are checked on measured curves, the place of the boundary only on
simulated ones. Knows one material pair, one photon energy (25.6 keV) and this angular grid. P_conf measures
how orderly the labels of a run are, not whether they are right."""
_RAW_LIMITS: Final = """ No raw measured curve is public: the raw curves of the simulation are subtracted
ones on a smooth background, and the two measured ones had their baseline subtracted before, so they lose a
little of their broad lines a second time."""
# Lines differ in height by a factor of 100: the logarithm lets the weak ones, which vanish first, be seen.
PREPROCESS: Final[Mapping[str, Any]] = {"steps": [{"op": "log1p"}]}
# A network that judges each point alone knows only its height: without this the level that is left under the
# lines, which differs from curve to curve, would vote.
FLOOR_PREPROCESS: Final[Mapping[str, Any]] = {
    "steps": [{"op": "scale", "offset": 0.25, "factor": 1.0}, {"op": "log1p"}]
}
_ALS: Final = {"op": "als_baseline", "smoothness": 1e5, "asymmetry": 0.002, "iterations": 10}  # as published
RAW_PREPROCESS: Final[Mapping[str, Any]] = {"steps": [_ALS, {"op": "log1p"}]}
# 6000 curves are learned by heart within a few epochs.
RAMPS: Final = Data("pressure_ramps", train=20000, validation=1000, test=1500)


def _recipe(name: str, options: Mapping[str, Any], stage: Stage, origin: str = _ORIGIN) -> Recipe:
    return Recipe(
        name=name,
        task="phases",
        architecture=name,
        options=options,
        preprocess=PREPROCESS,
        data=RAMPS,
        stages=(stage,),
        seed=2021,  # the year of the published comparison
        about=_ABOUT,
        origin=origin,
        limits=_LIMITS,
        extra={"mounted_anew": True},
    )


def _fit(epochs: int, learning_rate: float = 3e-3, batch: int = 64) -> Stage:
    return Stage("fit", epochs, 4, batch, learning_rate, weight_decay=1e-2)


def spectra_cnn() -> Recipe:
    """The small convolutional network: the one to stream."""
    options = {
        "widths": [8, 16, 8],
        "kernels": [16, 5, 3],
        "steps": [[8, 2, 1], [1, 1, 2]],
    }
    return _recipe("spectra_cnn", options, _fit(6))


def spectra_cnn_raw() -> Recipe:
    """The same network on curves as they are measured: it subtracts their background itself."""
    # Subtracting baselines costs far more than the network, in training too: fewer curves, fewer epochs.
    data = replace(RAMPS, train=10000, options={"raw": True})
    return replace(
        spectra_cnn(),
        name="spectra_cnn_raw",
        stages=(_fit(5),),
        preprocess=RAW_PREPROCESS,
        data=data,
        about=_ABOUT + " Takes raw curves: the baseline is subtracted on the device.",
        limits=_LIMITS + _RAW_LIMITS,
    )


def spectra_fcnn() -> Recipe:
    """The fully connected network in its published size."""
    return _recipe("spectra_fcnn", {"hidden": [256, 512, 64]}, _fit(6, 1e-3))


def spectra_msresnet() -> Recipe:
    """The multi-scale residual network."""
    return _recipe("spectra_msresnet", {"widths": [8, 16, 16, 8], "stride": 4}, _fit(4))


def spectra_lstm() -> Recipe:
    """The recurrent network, which reads one spectrum window by window."""
    return _recipe("spectra_lstm", {"window": 64, "hidden": 64}, _fit(7))


def spectra_transformer() -> Recipe:
    """The transformer, whose attention is between the windows of one spectrum."""
    return _recipe("spectra_transformer", {"window": 64, "width": 64, "heads": 4}, _fit(5, 1e-3))


def spectra_attention() -> Recipe:
    """Convolutions with multi-head attention over positions and channels."""
    return _recipe("spectra_attention", {"widths": [16, 8], "stride": 4, "embedded": 128}, _fit(5, 2e-3))


def spectra_binned() -> Recipe:
    """A two-layer network for each of 15 bins of angle, weighed by believability."""
    options = {"bins": 15, "hidden": 150, "stride": 4}
    made = _recipe("spectra_binned", options, _fit(2, 8e-3), _BINNED_ORIGIN)
    return replace(made, preprocess=FLOOR_PREPROCESS)


def spectra_autoweights() -> Recipe:
    """Bins whose weights are learned with the rest."""
    return _recipe("spectra_autoweights", {"bins": 15, "hidden": 150, "stride": 4}, _fit(3))


def spectra_selfsupervised() -> Recipe:
    """The attention network, pretrained without labels; then 84 labels, as many as published."""
    return replace(
        spectra_attention(),
        name="spectra_selfsupervised",
        task="few_phases",
        stages=(
            Stage("pretrain", epochs=3, patience=3, batch=128, learning_rate=2e-3, weight_decay=1e-4),
            Stage("labels", epochs=1, patience=1, batch=64, learning_rate=1e-3, weight_decay=1e-2),
            Stage("unsure", epochs=1, patience=1, batch=64, learning_rate=1e-3, weight_decay=1e-2),
        ),
        origin="Sun et al., Sci. Rep. 13, 9370 (2023), SpecRR-Net",
        extra={"labelled": 84},
    )


RECIPES: Final[tuple[Callable[[], Recipe], ...]] = (
    spectra_binned,
    spectra_autoweights,
    spectra_fcnn,
    spectra_cnn,
    spectra_cnn_raw,
    spectra_msresnet,
    spectra_lstm,
    spectra_transformer,
    spectra_attention,
    spectra_selfsupervised,
)
