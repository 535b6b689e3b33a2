"""`streamer calibrate BUNDLE DATA --class Streak --recall 0.99 --confidence 0.95`: a promised threshold.

Owns the command and the choice of events: simulated ones that the bundle was not trained on, or the user's.
What is done with them is in `models.veto`.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from models.bundle import Bundle, load_bundle
from models.command import held_out_events, set_threads
from models.data_sets.data_set import DataSet
from models.data_sets.files import add_data_arguments, bundle_events
from models.data_sets.splits import cache_folder
from models.manifest import HELD_OUT, Manifest, ModelError
from models.promise import TooFewError, positives_needed
from models.shipped import find_bundle
from models.veto import Asked, Result, calibrate, check_class, report, store


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streamer calibrate", description="Choose a veto threshold that keeps a promised recall."
    )
    parser.add_argument("bundle", help="a shipped bundle by name (then with --out), or a folder")
    parser.add_argument("data", nargs="?", default=HELD_OUT, help=f"file of events (default: {HELD_OUT})")
    parser.add_argument("--class", dest="label", required=True, help="class that shall be kept")
    parser.add_argument("--recall", type=float, default=0.99, help="share of its events to keep at least")
    parser.add_argument("--confidence", type=float, default=0.95, help="how sure that shall be")
    parser.add_argument("--events", type=int, help=f"simulate so many {HELD_OUT} events (default: as scored)")
    parser.add_argument("--split", default="", help=f"of {HELD_OUT}: choose on this one (default: the first)")
    parser.add_argument("--out", type=Path, help="folder for a calibrated copy (default: the bundle itself)")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="keeps simulated events")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    add_data_arguments(parser, judging=True)
    return parser


def _splits(options: argparse.Namespace, manifest: Manifest, console: Console) -> dict[str, DataSet]:
    """The events to choose on, then those to look at as well."""
    if options.data != HELD_OUT:
        return {Path(options.data).name: bundle_events(manifest, options.data, options)}
    manifest = _with_events(manifest, options.events)
    splits = held_out_events(manifest, options.cache, console)
    chosen = options.split or next(iter(splits))
    if chosen not in splits:
        raise ModelError(f"--split: expected one of {list(splits)}, got {chosen!r}; correct it")
    others = {name: events for name, events in splits.items() if name != chosen}
    return {chosen: splits[chosen]} | others


def _calibrated(bundle: Bundle, splits: Mapping[str, DataSet], asked: Asked, data: str) -> Result:
    try:
        return calibrate(bundle, splits, asked, data)
    except TooFewError as error:
        raise _more(error, splits, asked) if data.startswith(HELD_OUT) else error from None


def _with_events(manifest: Manifest, events: int | None) -> Manifest:
    """As if so many events had been held out: the seeds stay those that training never sees."""
    if events is None or "data" not in manifest.training:
        return manifest
    if events < 1:
        raise ModelError(f"--events: expected a positive number, got {events}; correct it")
    training = {**manifest.training, "data": {**manifest.training["data"], "test": events}}
    return replace(manifest, training=training)


def _folder(options: argparse.Namespace) -> Path:
    """The bundle's; one that came with the package is changed only by who names its folder."""
    if options.out is None and not Path(options.bundle).is_dir():
        raise ModelError(
            f"bundle {options.bundle}: expected --out for a copy of a shipped bundle, got none; name a folder"
        )
    return find_bundle(options.bundle)


def _more(error: TooFewError, splits: Mapping[str, DataSet], asked: Asked) -> TooFewError:
    """Simulated events can be had: say how many to ask for."""
    events = next(iter(splits.values()))
    positives = float(events.targets[:, events.target_names.index(asked.label)].sum())
    if not positives:
        return error
    # A tenth more than the share asks for: the number of positives scatters.
    wanted = math.ceil(1.1 * positives_needed(asked.recall, asked.confidence) / positives * len(events))
    return TooFewError(f"{error}; --events {wanted} simulates enough")


def main(given: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if no threshold can be promised."""
    options = _parser().parse_args(given)
    errors = Console(stderr=True, soft_wrap=True)
    try:
        set_threads(options.threads)
        folder = _folder(options)
        bundle = load_bundle(folder)
        check_class(bundle.manifest, options.label)
        splits = _splits(options, bundle.manifest, errors)
        name = next(iter(splits))
        data = f"{HELD_OUT} {name}" if options.data == HELD_OUT else name
        asked = Asked(options.label, options.recall, options.confidence)
        result = _calibrated(bundle, splits, asked, data)
        written = store(folder, bundle.manifest, result.entry, options.out)
    except ModelError as error:
        errors.print(str(error), markup=False, highlight=False)
        return 1
    console = Console(soft_wrap=True)
    console.print(report(result), markup=False, highlight=False)
    console.print(f"bundle: {options.out or options.bundle}, sha256 {written.sha256}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
