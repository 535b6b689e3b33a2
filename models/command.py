"""What the commands that train and judge share: threads, held-out events, how a command is recorded."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from models.data_sets.data_set import DataSet
from models.data_sets.splits import held_out
from models.manifest import Manifest, ModelError


def set_threads(number: int) -> None:
    """Of the CPU, for torch. Raises ModelError for none."""
    if number < 1:
        raise ModelError(f"--threads: expected 1 or more, got {number}; correct it")
    torch.set_num_threads(number)


def held_out_events(manifest: Manifest, folder: Path, console: Console) -> dict[str, DataSet]:
    """The simulated events that a bundle was scored on, by split, with a bar where there is a terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("held-out events", total=None)
        return held_out(manifest, folder, lambda done: progress.update(bar, completed=done))


def typed(program: str, given: Sequence[str], paths: Collection[Path | None]) -> str:
    """The command as it was typed, but for `paths`, of which only the last name stays: where a folder lay on
    one machine says nothing on another. Only paths are cut: a source such as A/B:output holds slashes too.
    """
    known = {path for path in paths if path is not None}
    return f"{program} {shlex.join([_shortened(word, known) for word in given])}"


def _shortened(word: str, paths: set[Path]) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{base_name(Path(value))}" if value and Path(value) in paths else word


def base_name(path: Path) -> str:
    """The last name of a path, also of '.' and '..'."""
    return path.resolve().name if path.name in ("", "..") else path.name
