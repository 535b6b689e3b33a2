"""`streamer evaluate BUNDLE [DATA] --out DIR`: what a bundle is worth on held-out or on your own events.

Writes report.json (every number) and report.html (one page to read). Owns the command and the summary; what
is measured of each kind of model lies in `models.report`.
"""

import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from models.bundle import Bundle, load_bundle
from models.command import set_threads
from models.data_sets.data_set import DataSet
from models.manifest import HELD_OUT, Manifest, ModelError
from models.report import classifier, clusters, phases, structure
from models.report.asked import arguments, load_data
from models.report.case import Case, Findings, Headline, make_case, recorded_on
from models.report.measures import plain
from models.report.output import write
from models.report.page import Cell, Chapter, Section, Table, render
from models.report.recorded import baselines, recorded
from models.shipped import find_bundle

REPORTS: Final[Mapping[str, Callable[[Case], Findings]]] = {
    "classifier": classifier.report,
    "phases": phases.report,
    "vae_mixture": clusters.report,
    "encoder_decoder": structure.report,
}


@dataclass(frozen=True)
class Source:
    """Where the events came from, and how this report was asked for."""

    data: str
    command: str

    def origin(self, split: str) -> str:
        """What the events of a split are called in a bundle's promises."""
        return f"{HELD_OUT} {split}" if self.data == HELD_OUT else split


def evaluate(
    bundle: Bundle,
    splits: Mapping[str, DataSet],
    out: Path,
    source: Source,
    progress: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Report on each of `splits` into the folder `out`; gives what report.json holds. Raises ModelError.

    `progress` hears a split's name and how many of its events are answered.
    """
    found: dict[str, Findings] = {}
    for name, data in splits.items():
        heard = None if progress is None else partial(progress, name)
        found[name] = REPORTS[bundle.manifest.kind](make_case(bundle, data, heard, source.origin(name)))
    report = _record(bundle.manifest, splits, found, source)
    title = f"{bundle.manifest.name}: report"
    chapters = [_summary(bundle.manifest, splits, found, source), *_chapters(splits, found)]
    chapters.append(Chapter("Scores recorded at training", (recorded(bundle.manifest.scores),)))
    write(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write(out / "report.html", render(title, _lead(bundle.manifest), chapters))
    return report


def _record(
    manifest: Manifest, splits: Mapping[str, DataSet], found: Mapping[str, Findings], source: Source
) -> dict[str, Any]:
    """The content of report.json."""
    results = {
        name: {"events": len(splits[name]), "notes": list(own.notes), "scores": plain(own.numbers)}
        for name, own in found.items()
    }
    return {
        "bundle": manifest.name,
        "kind": manifest.kind,
        "architecture": manifest.architecture,
        "sha256": manifest.sha256,
        "data": _described(manifest, source),
        "command": source.command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "results": results,
        "scores_at_training": manifest.scores,
    }


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "matplotlib")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _lead(manifest: Manifest) -> str:
    about = manifest.training.get("about")
    return str(about) if about else f"A bundle of the kind {manifest.kind}, measured on events it never saw."


def _summary(
    manifest: Manifest, splits: Mapping[str, DataSet], found: Mapping[str, Findings], source: Source
) -> Chapter:
    counted = ", ".join(f"{name} {len(data)}" for name, data in splits.items())
    rows: list[list[Cell]] = [
        ["bundle", f"{manifest.name} ({manifest.kind}, {manifest.architecture})"],
        ["hash", manifest.sha256],
        ["made", f"{manifest.created}: {manifest.training.get('command', 'command not recorded')}"],
        ["follows", str(manifest.training.get("origin", "not recorded"))],
        ["data", _described(manifest, source)],
        ["events", counted],
        ["this report", f"{source.command}, {datetime.now(UTC).date().isoformat()}"],
    ]
    measured = Section("What was measured", (Table("", (), rows),))
    return Chapter("Summary", (measured, _headlines(found, manifest, source), _limits(manifest)))


def _described(manifest: Manifest, source: Source) -> str:
    """Held-out events by the simulation that made them."""
    made = manifest.training.get("data")
    if source.data != HELD_OUT or not isinstance(made, Mapping):
        return source.data
    options = made.get("options") or "none"
    return f"{HELD_OUT}: simulated {made.get('source')}, options {options}, seeds that training never saw"


def _headlines(found: Mapping[str, Findings], manifest: Manifest, source: Source) -> Section:
    rows: list[list[Cell]] = [
        [
            line.name,
            split,
            line.value,
            line.baseline,
            line.meaning,
            _other_methods(manifest, source.origin(split), line),
        ]
        for split, own in found.items()
        for line in own.headlines
    ]
    several = len(found) > 1
    notes = tuple(
        f"{split}: {note}" if several else note for split, own in found.items() for note in own.notes
    )
    if not rows:
        return Section("Scores", notes or ("These events carry no targets, so there is nothing to score.",))
    return Section("Scores", (_score_table(rows), *notes))


def _score_table(rows: list[list[Cell]]) -> Table:
    """The last column holds other methods; it is left out where there are none."""
    head = ("score", "events", "this bundle", "baseline", "what the baseline does", "other methods")
    caption = "Each score beside what it is without a network."
    if not any(row[-1] for row in rows):
        return Table(caption, head[:-1], [row[:-1] for row in rows])
    caption += (
        " Other methods: recorded at training, on the same events; the distance to the best of them is what "
        "the network is worth."
    )
    return Table(caption, head, rows)


def _other_methods(manifest: Manifest, origin: str, line: Headline) -> str:
    return baselines(recorded_on(manifest, origin), manifest.kind, line.key, line.baseline_key)


def _limits(manifest: Manifest) -> Section:
    written = str(manifest.training.get("limits", "")).strip() or "The bundle states none."
    paragraphs = tuple(" ".join(part.split()) for part in written.split("\n\n"))
    return Section("Limits", paragraphs)


def _chapters(splits: Mapping[str, DataSet], found: Mapping[str, Findings]) -> list[Chapter]:
    return [Chapter(f"On {len(splits[name])} events: {name}", own.sections) for name, own in found.items()]


def main(given: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if bundle or data cannot be used."""
    options = arguments("streamer evaluate", "Report on a bundle.").parse_args(given)
    errors = Console(stderr=True, soft_wrap=True)
    try:
        set_threads(options.threads)
        bundle = load_bundle(find_bundle(options.bundle))
        splits = load_data(options, bundle.manifest, errors)
        command = "streamer evaluate " + shlex.join(sys.argv[1:] if given is None else given)
        source = Source(options.data, command)
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bars:
            bar = {name: bars.add_task(f"answers: {name}", total=len(data)) for name, data in splits.items()}
            evaluate(bundle, splits, options.out, source, lambda name, n: bars.update(bar[name], completed=n))
    except ModelError as error:
        errors.print(str(error), markup=False, highlight=False)
        return 1
    Console(soft_wrap=True).print(str(options.out / "report.html"), markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
