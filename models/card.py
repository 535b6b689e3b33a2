"""The model card of a bundle: what a person should know before trusting it, from the manifest alone."""

from typing import Any

from models.manifest import Manifest

_WHAT = {
    "classifier": "Says which of 11 non-exclusive shapes a helium nanodroplet diffraction image shows.",
    "vae_mixture": "Places a nanodroplet image in a latent space and says how usual that place is.",
    "ednn": "Reads lattice spacings and the place on a pressure ramp from a powder diffractogram.",
}
_LIMITS = {
    "classifier": """\
Thresholds maximise F1 on events with rare shapes made more frequent; where rare shapes are as rare as
measured, more of those found are false. Whether a fringe system is called NewtonRings, DoubleRings or
Layered follows our reading of the published pictures.""",
    "vae_mixture": """\
Clusters are not classes: their numbers mean nothing by themselves. The log-likelihood ranks events; it is no
probability of being new. Take thresholds from the percentiles of a run.""",
    "ednn": """\
The simulation is calibrated on two measured curves (n = 0 and 340 of the ramp); on those two the spacings are
right within 0.002 angstrom and the place on the ramp within 0.01. Nothing between them could be checked.
Knows one material pair, one photon energy (25.6 keV) and this angular grid. Latent numbers have no physical
unit. A curve without sample still gets an answer: look at the intensity first.""",
}


def model_card(manifest: Manifest) -> str:
    """Markdown."""
    training = manifest.training
    return f"""# {manifest.name}

{_WHAT[manifest.kind]}

| | |
|---|---|
| hash (of manifest.json) | `{manifest.sha256}` |
| architecture | `{manifest.architecture}` {manifest.options} |
| input | {manifest.input_dtype} {list(manifest.input_shape)}, raw |
| columns | {", ".join(_column(manifest))} |
| made by | `{training["command"]}`, {manifest.created} |
| recipe | `models/recipes.py: {manifest.name}`, seed {training["seed"]}, {training["epochs_run"]} epochs |
| training | {training["cpu_s"]} s of CPU time |

## Data

Simulated ({_data(manifest)}):
{training["train_events"]} events for training, {training["validation_events"]} for validation,
{training["test_events"]} held out, from disjoint seeds. No measured image was seen.

## Scores on held-out events

{_scores(manifest.scores)}
`baseline_...` is what the same score is without a network: the most frequent label set, a mixture on
principal components, or a linear map from principal components.

## Limits

Trained on simulation: on measured data expect less, and score it before relying on it.
{_LIMITS[manifest.kind]}
"""


def _column(manifest: Manifest) -> list[str]:
    return [f"`{column.name}` {column.dtype} x {column.width}" for column in manifest.columns]


def _data(manifest: Manifest) -> str:
    if manifest.kind == "ednn":
        return "`models/simulation/diffractograms.py`"
    evenness = manifest.training["evenness"]
    return f"`models/simulation/nanodroplets.py`, evenness {evenness}; `natural`: measured label statistics"


def _scores(scores: dict[str, Any]) -> str:
    return "".join(f"### {name}\n\n{_table(values)}\n" for name, values in scores.items())


def _table(values: dict[str, Any]) -> str:
    rows = ["| score | value |", "|---|---|"]
    for name, value in values.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        rows += [f"| {name} {label} | {number} |" for label, number in entries]
    return "\n".join(rows) + "\n"
