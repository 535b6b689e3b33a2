"""The descent: shuffled batches, AdamW with one cosine cycle after a short warm-up, early stopping.

Owns the loop of one stage, its state, and taking it up again: a training that was stopped and resumed gives
the same weights, bit for bit on one thread, as one that was not. What is special to one kind of model is in
`models.tasks`.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoint import Checkpoint
from models.data_sets.data_set import DataSet
from models.manifest import ModelError
from models.recipes.recipe import Stage
from models.tasks.task import Task

WARM_UP_SHARE = 0.05  # of all steps: batch normalisation settles before the rate is at its peak
CLIP_NORM = 1.0
CHECKPOINT_EVERY_S = 10.0  # an epoch of a small network takes less than writing its state


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training events gave."""

    stage: str
    number: int
    train_loss: float
    validation_loss: float


@dataclass(frozen=True)
class Hardware:
    """Where to train. bfloat16: matrix products in half precision, weights and sums in float32."""

    device: torch.device
    bfloat16: bool

    def autocast(self) -> AbstractContextManager[None]:
        """The context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


@dataclass
class Progress:
    """Where a stage stands. `history`: training and validation loss of each epoch."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    history: list[tuple[float, float]] = field(default_factory=list)


def fit(
    task: Task,
    stage: Stage,
    data: tuple[DataSet, DataSet],
    seed: int,
    hardware: Hardware | None = None,
    report: Callable[[Epoch], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> Progress:
    """Train `task.module` on (train, validation); leaves the best weights in it.

    Raises ModelError when the loss is not finite.
    """
    descent = Descent(task, stage, data, seed, hardware or Hardware(torch.device("cpu"), False))
    descent.resume(checkpoint)
    saved_s = time.monotonic()
    while not descent.finished:
        report(descent.epoch())
        if checkpoint is not None and time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
            descent.save(checkpoint)
            saved_s = time.monotonic()
    if checkpoint is not None:
        descent.save(checkpoint)
    task.module.load_state_dict(descent.best_weights)
    task.module.to("cpu")
    task.preprocess.to("cpu")
    return descent.progress


class Descent:
    """One stage under way."""

    def __init__(
        self, task: Task, stage: Stage, data: tuple[DataSet, DataSet], seed: int, hardware: Hardware
    ) -> None:
        self._task, self._stage, self._hardware = task, stage, hardware
        self._train, self._validation = data
        self._batch = stage.batch or len(self._train)
        self._steps = stage.epochs * len(self._parts(torch.arange(len(self._train))))
        self._generator = torch.Generator().manual_seed(seed)
        task.module.to(hardware.device)
        task.preprocess.to(hardware.device)
        self._optimiser = torch.optim.AdamW(
            task.module.parameters(), stage.learning_rate, weight_decay=stage.weight_decay
        )
        self._step_number = 0
        self.progress = Progress()
        self.best_weights = copy.deepcopy(task.module.state_dict())

    @property
    def finished(self) -> bool:
        """All epochs are run, or none of the last `patience` was better."""
        tired = self.progress.epoch - self.progress.best_epoch >= self._stage.patience
        return self.progress.epoch >= self._stage.epochs or (self.progress.epoch > 0 and tired)

    def epoch(self) -> Epoch:
        """One pass over the training events and one over the validation events."""
        order = torch.randperm(len(self._train), generator=self._generator)
        losses = [self._step(self._train.take(part)) for part in self._parts(order)]
        now = (sum(losses) / len(losses), self._validate())
        progress = self.progress
        progress.epoch += 1
        progress.history.append(now)
        if now[1] < progress.best_loss:
            progress.best_loss, progress.best_epoch = now[1], progress.epoch
            self.best_weights = copy.deepcopy(self._task.module.state_dict())
        return Epoch(self._stage.name, progress.epoch, *now)

    def _parts(self, order: Tensor) -> list[Tensor]:
        """Batches; a lone last event joins the one before, as batch normalisation cannot learn from one."""
        parts = list(order.split(self._batch))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def _step(self, batch: DataSet) -> float:
        self._task.module.train()
        for group in self._optimiser.param_groups:
            group["lr"] = self._stage.learning_rate * _rate(self._step_number, self._steps)
        self._step_number += 1
        with self._hardware.autocast():
            loss = self._task.loss(batch.to(self._hardware.device))
        if not torch.isfinite(loss):
            raise ModelError(
                f"training: the loss of stage {self._stage.name!r} became {loss.item()}; look for events "
                "that are not finite, or lower the learning rate of the recipe"
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._task.module.parameters(), CLIP_NORM)
        self._optimiser.step()
        return loss.item()

    def _validate(self) -> float:
        """Mean loss over the validation events, in evaluation mode."""
        self._task.module.eval()
        data, total = self._validation, 0.0
        with torch.no_grad(), self._hardware.autocast():
            for part in torch.arange(len(data)).split(self._batch):
                batch = data.take(part)
                total += self._task.loss(batch.to(self._hardware.device)).item() * len(batch)
        return total / len(data)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write all that decides how the stage goes on."""
        tensors = {f"now.{name}": value for name, value in self._task.module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for index, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(v) for name, v in state.items()}
        tensors |= {"random.order": self._generator.get_state(), "random.torch": torch.get_rng_state()}
        progress = self.progress
        facts: dict[str, Any] = {"step": self._step_number, "epoch": progress.epoch}
        facts |= {"best_epoch": progress.best_epoch}
        facts |= {"best_loss": progress.best_loss, "history": progress.history}
        checkpoint.write(tensors, facts)

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on where the checkpoint of this stage stands; begin anew if there is none."""
        state = checkpoint.read() if checkpoint is not None else None
        if state is None:
            return
        tensors, facts = state
        self._task.module.load_state_dict(_below(tensors, "now."))
        self.best_weights = _below(tensors, "best.")
        self._resume_optimiser(_below(tensors, "optimiser."))
        self._generator.set_state(tensors["random.order"])
        torch.set_rng_state(tensors["random.torch"])
        self._step_number = facts["step"]
        history = [(pair[0], pair[1]) for pair in facts["history"]]
        self.progress = Progress(facts["epoch"], facts["best_epoch"], facts["best_loss"], history)

    def _resume_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        whole = self._optimiser.state_dict()
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            whole["state"].setdefault(int(index), {})[key] = tensor
        self._optimiser.load_state_dict(whole)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, int(WARM_UP_SHARE * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
