"""The model card of a bundle: what a person should know before trusting it, from the manifest alone."""

from typing import Any

from models.manifest import Manifest


def model_card(manifest: Manifest) -> str:
    """Markdown."""
    training = manifest.training
    return f"""# {manifest.name}

{training["about"]}

| | |
|---|---|
| hash (of manifest.json) | `{manifest.sha256}` |
| follows | {training["origin"]} |
| architecture | `{manifest.architecture}` {manifest.options} |
| parameters | {training["parameters"]:,} |
| input | {manifest.input_dtype} {list(manifest.input_shape)}, raw |
| columns | {", ".join(_column(manifest))} |
| made by | `{training["command"]}`, {manifest.created} |
| training | {_stages(training)}, seed {training["seed"]}, {training["cpu_s"]} s of CPU time |
| speed | {training["events_per_s"]:,.0f} events/s on one core of the machine that trained it |

## Data

{_data(training)}

## Scores on held-out events

{_scores(manifest.scores)}
`baseline_...` is what the same score is for a simpler answer to the same question.
{_calibrated(manifest)}
## Limits

{training["limits"]}
"""


def _column(manifest: Manifest) -> list[str]:
    return [f"`{column.name}` {column.dtype} x {column.width}" for column in manifest.columns]


def _stages(training: dict[str, Any]) -> str:
    return ", ".join(f"{stage['name']}: {stage['epochs_run']} epochs" for stage in training["stages"])


def _data(training: dict[str, Any]) -> str:
    numbers = _counts(training["events"])
    if "files" in training:
        return _files(training["files"], numbers)
    if "data" not in training:
        return f"Not named: {numbers}."
    data = training["data"]
    return (
        f"Simulated (`{data['source']}` of `models/data_sets/simulated.py`, {data['options']}): {numbers}, "
        "from disjoint seeds. Trained on no measured event.\n"
        "On measured data expect less, and score it before relying on it."
    )


def _counts(events: dict[str, int]) -> str:
    """Every split that is in the manifest; all but two of them are held out."""
    held_out = [f"{name} {n}" for name, n in events.items() if name not in ("train", "validation")]
    parts = f"{events['train']} events for training, {events['validation']} for validation"
    return f"{parts}, held out: {', '.join(held_out)}"


def _files(files: dict[str, Any], numbers: str) -> str:
    named = [f"{key} `{files[key]}`" for key in ("dataset", "source", "key", "labels") if files[key]]
    by = {"group": f"their group (`{files['group']}`)", "ids": "train and pulse", "content": "their bytes"}
    source = ", ".join([f"`{files['data']}`", *named])
    return f"Events of {source}, split by a hash of {by[files['named_by']]}: {numbers}."


def _scores(scores: dict[str, Any]) -> str:
    return "".join(f"### {name}\n\n{_table(values)}\n" for name, values in scores.items())


def _table(values: dict[str, Any]) -> str:
    rows = ["| score | value |", "|---|---|"]
    return "\n".join(rows + [f"| {name} | {value} |" for name, value in _flat(values, "")]) + "\n"


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Nested tables as rows; lists (curves) are for the report, not for the card."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            rows.append((f"{prefix}{name}", value))
    return rows


def _calibrated(manifest: Manifest) -> str:
    if not manifest.calibrated:
        return ""
    rows = [
        f"| {c.label} | {c.threshold:.6g} | {c.recall} | {c.confidence} | {c.positives} "
        f"| {c.removed_share:.1%} | {c.data}, {c.date} |"
        for c in manifest.calibrated
    ]
    head = "| class | threshold | recall at least | confidence | events of it | removed | data |"
    return "\n## Thresholds with a promise\n\n" + "\n".join([head, "|---" * 7 + "|", *rows]) + "\n"
