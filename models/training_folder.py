"""The folder that a training writes into: one training at a time, and never over a finished bundle.

Owns the lock and the refusal. The files are those of `models.checkpoint` and `models.bundle`.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from models.checkpoint import Checkpoint, writing
from models.manifest import MANIFEST_FILE, ModelError

log = logging.getLogger(__name__)

STATE_FOLDER: Final = ".training"
_LOCK: Final = "lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold `out` for one training; what is empty at the end goes. Raises ModelError if another holds it, or
    if it cannot be written."""
    lock, was_there = out / STATE_FOLDER / _LOCK, out.exists()
    with writing(out):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    with file:
        _hold(file, lock)
        try:
            yield
        finally:
            with suppress(OSError):  # what holds files stays
                lock.unlink()
                lock.parent.rmdir()
                if not was_there:
                    out.rmdir()


def _hold(file: TextIO, lock: Path) -> None:
    refusal = ModelError(
        f"--out {lock.parent.parent}: expected a folder for this training alone, got one that another "
        "training writes to; wait for it, or name another"
    )
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise refusal from None
    except OSError as error:
        log.warning("%s: no locks there (%s); start no second training into this folder", lock, error)
    # The holder before may have ended, and removed the file, between our opening it and locking it.
    if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
        raise refusal


def has_state(out: Path) -> bool:
    """Whether a training was stopped there after it saved an epoch."""
    return any((out / STATE_FOLDER).glob("*.safetensors"))


def refuse_bundle(out: Path, states: Sequence[Checkpoint] | None = None) -> None:
    """Raises ModelError if `out` holds a bundle and no state of this training, or of any if None is given."""
    if not (out / MANIFEST_FILE).exists():
        return
    ours = has_state(out) if states is None else any(state.read() is not None for state in states)
    if not ours:
        raise ModelError(
            f"--out {out}: expected a new folder, or one where this training was stopped, got one that holds "
            "a bundle; name another, or delete it"
        )
