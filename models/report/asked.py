"""What `streamer evaluate` and `streamer explain` are asked: their common arguments, and the events named."""

import argparse
from pathlib import Path

from rich.console import Console

from models.command import held_out_events
from models.data_sets.data_set import DataSet
from models.data_sets.files import add_data_arguments, data_from, load_files, wanted_by
from models.data_sets.hash_split import unseen
from models.data_sets.splits import cache_folder
from models.manifest import HELD_OUT, Manifest


def arguments(program: str, description: str) -> argparse.ArgumentParser:
    """What both commands take."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("bundle", help="a shipped bundle by name, or a folder")
    parser.add_argument("data", nargs="?", default=HELD_OUT, help=f"file of events (default: {HELD_OUT})")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--cache", type=Path, help="folder that keeps simulated events")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    add_data_arguments(parser, judging=True)
    return parser


def load_data(options: argparse.Namespace, manifest: Manifest, console: Console) -> dict[str, DataSet]:
    """The events that the command line names, by split; labels are welcome, not needed. Raises ModelError."""
    if options.data != HELD_OUT:
        events = load_files(data_from(options.data, options), wanted_by(manifest, labelled=False))
        return {Path(options.data).name: unseen(events, manifest, options.all_events)}
    return held_out_events(manifest, options.cache or cache_folder(), console)
