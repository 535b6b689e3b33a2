"""The state of an interrupted training: one safetensors file, so that reading it runs no code.

Owns the file. What is in the state belongs to `models.fit`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.manifest import ModelError

_FACTS = "facts"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training keeps its state. `made_by`: what must agree for the state to be taken up again."""

    path: Path
    made_by: Mapping[str, Any]

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the file; a kill leaves the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".part")
        metadata = {_FACTS: json.dumps({"made_by": self.made_by, **facts})}
        # Cloned: safetensors refuses tensors that share memory, as tied weights and best weights may.
        save_file(
            {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, partial, metadata
        )
        partial.replace(self.path)

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
