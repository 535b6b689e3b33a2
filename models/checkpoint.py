"""The state of an interrupted training: one safetensors file, so that reading it runs no code.

Owns the file. What is in the state belongs to `models.fit`, the folder to `models.training_folder`.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.data_sets.data_set import DataSet
from models.manifest import ModelError

_FACTS: Final = "facts"
# Of each part, evenly through it: other events differ in these too, and 8 GB are not read to tell.
SAMPLED_EVENTS: Final = 64


def data_sha256(parts: Sequence[DataSet]) -> str:
    """Of all targets and of some events of each part: a state of other data is not taken up again."""
    digest = hashlib.sha256()
    for part in parts:
        step = max(1, len(part) // SAMPLED_EVENTS)
        digest.update(json.dumps([len(part), part.target_names]).encode())
        digest.update(np.ascontiguousarray(part.targets.numpy()).tobytes())
        digest.update(np.ascontiguousarray(part.inputs.numpy()[::step]).tobytes())
    return digest.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises ModelError where the folder is read-only, the disk full, or a file in the way."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"--out, {path}: expected a folder with room to write to, got: {error}; name another"
        ) from error


@dataclass(frozen=True)
class Checkpoint:
    """Where a training keeps its state. `made_by`: what must agree for the state to be taken up again.

    begun_s: CPU seconds of this process when the training began, less what it took before it was stopped.
    """

    path: Path
    made_by: Mapping[str, Any]
    begun_s: float = 0.0

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the file; a kill leaves the old one or the new one. Raises ModelError."""
        partial = self.path.with_name(self.path.name + ".part")
        facts = {"made_by": self.made_by, "cpu_s": time.process_time() - self.begun_s, **facts}
        # Cloned: safetensors refuses tensors that share memory, as tied weights and best weights may.
        cloned = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(cloned, partial, {_FACTS: json.dumps(facts)})
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts, or None if there is no file. Raises ModelError if it is of another training."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except (OSError, SafetensorError, ValueError) as error:
            raise self._other(f"an unreadable file ({error})") from error
        if facts.get("made_by") != json.loads(json.dumps(self.made_by)):
            raise self._other("one of another recipe, seed or data")
        return tensors, facts

    def remove(self) -> None:
        """The training is done."""
        self.path.unlink(missing_ok=True)

    def _other(self, got: str) -> ModelError:
        return ModelError(
            f"checkpoint {self.path}: expected the state of this training, got {got}; "
            "delete it to begin anew, or choose another --out"
        )
