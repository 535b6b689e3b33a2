"""python -m benchmarks.models [BUNDLE ...]: every bundle in one table, streamed through the whole pipeline.

BUNDLE           names of shipped bundles, or folders (default: all that are shipped)
--repeats N      turns (3)
--seconds S      measuring time of one turn (2)
--output FOLDER  where the file goes (benchmarks/results; nothing is written with --quick)
--quick          one short turn

A row: what the bundle does, its parameters, its held-out score beside that of the simpler answer (both from
its manifest), events a second of the network alone on one core, and through `ingest`, `inference` and `sink`
with results published and stored. The frames are noise: no network here is faster or slower for that.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.config import Load, Options
from benchmarks.events import pipeline
from benchmarks.helper import ROOT, Helper
from benchmarks.table import Line, header, measured, print_lines, write
from models.manifest import Manifest, read_manifest
from models.shipped import find_bundle, shipped_names

# The score that a row shows, and what stands beside it: keys of manifest.scores["test"].
HEADLINES: Final[Mapping[str, tuple[str, str]]] = {
    "classifier": ("macro_f1", "baseline_macro_f1"),
    "phases": ("accuracy", "baseline_linear_accuracy"),
    "vae_mixture": ("adjusted_rand", "baseline_adjusted_rand"),
    "encoder_decoder": ("covered_variance", "baseline_covered_variance"),
}
BATCH: Final = 32
TRAIN_BYTES: Final = 1 << 20  # a message of about a megabyte, as a train of frames is
QUICK: Final = Options(repeats=1, seconds=0.3, warm_s=0.0)


@dataclass(frozen=True)
class Row:
    """One bundle."""

    manifest: Manifest
    folder: Path

    @property
    def load(self) -> Load:
        one = Load(self.manifest.name, self.manifest.input_shape, self.manifest.input_dtype, 1)
        return Load(one.name, one.shape, one.dtype, max(1, min(256, TRAIN_BYTES // one.message_bytes)))

    def score(self) -> dict[str, Any]:
        """Name and value of the headline score, and of what stands beside it."""
        names = HEADLINES[self.manifest.kind]
        scores = self.manifest.scores.get("test", {})
        return {"name": names[0], "value": scores.get(names[0]), "baseline": scores.get(names[1])}


def measure(row: Row, options: Options) -> Iterator[Line]:
    """The network alone, then the whole pipeline, in turns."""
    how = {"bundle": str(row.folder), "threads": 1, "batch": BATCH}
    alone, through, mode = [], [], None
    with Helper("benchmarks.sender", row.load.sender) as sender:
        sender.ask({"trains": None})
        for _ in range(options.repeats):
            window, mode = pipeline(
                row.load,
                sender,
                options,
                bundles=(str(row.folder),),
                threads=1,
                max_events=BATCH,
                device="cpu",
            )
            through.append(window.rate)
            with Helper("benchmarks.bare", how | {"mode": mode, "endpoint": None}) as bare:
                counts = bare.ask({"kind": "rate", "seconds": options.seconds})
            alone.append(counts["events"] / counts["seconds"])
    score, training = row.score(), row.manifest.training
    scored = f"{score['name']} {score['value']}, baseline {score['baseline']}"
    note = f"{training['parameters']:,} parameters; {scored}"
    values = {"parameters": training["parameters"], "training_cpu_s": training["cpu_s"]}
    values |= {key: score[key] for key in ("value", "baseline") if score[key] is not None}
    yield Line(row.manifest.name, "whole pipeline", "events/s", measured(through), note, values)
    yield Line(row.manifest.name, "network alone", "events/s", measured(alone), mode or "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models", description="Every bundle in one table."
    )
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--quick", action="store_true", help="one short turn")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    options = QUICK if arguments.quick else Options(arguments.repeats, arguments.seconds, warm_s=0.3)
    about = header() | {"options": asdict(options)}
    names = arguments.bundles or shipped_names()
    rows = [Row(read_manifest(folder), folder) for folder in map(find_bundle, names)]
    lines: list[Line] = []
    for row in rows:
        print(f"{row.manifest.name} ...", file=sys.stderr)
        lines += measure(row, options)
    print_lines(lines)
    if not arguments.quick:
        print(f"\nwritten to {write(arguments.output, '-models', about, lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
