"""Phases from few labels: an encoder that has seen many spectra without any, then the labelled ones.

Stage `pretrain` learns which views are of the same spectrum (`models.networks.relation`) and looks at no
label. The next stage has half of the `labelled` training curves labelled, those whose embeddings differ
most; stage `unsure` the other half, those of which the network is then least sure. No other label is
seen: the validation events only watch the pretraining. The baseline is the same network, from the same
start, trained on the same few alone. N events, L labels, E embedding.
"""

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.data_sets.data_set import DataSet
from models.manifest import ModelError
from models.networks.relation import RelationNetwork
from models.networks.spectra_attention import SpectraAttention
from models.networks.spectra_head import PhaseNetwork
from models.recipes.recipe import Recipe, Stage
from models.spectrum_views import mounted_anew, view
from models.tasks.phases import PhaseTask, baseline, check_classes
from models.tasks.task import answers

PRETRAIN: Final = "pretrain"
UNSURE: Final = "unsure"
POOL: Final = 4000  # curves among which to choose: more differ little from these


class FewLabelsTask(PhaseTask):
    """`extra`: labelled, the number of training events whose label is used."""

    extra_keys = frozenset({"labelled", "mounted_anew"})

    def __init__(self, recipe: Recipe, train: DataSet) -> None:
        super().__init__(recipe, train)
        if not isinstance(self.network, SpectraAttention):
            raise ModelError(
                f"architecture of recipe {recipe.name}: expected spectra_attention, which has an embedding, "
                f"got {recipe.architecture!r}; correct the recipe"
            )
        self._encoder = self.network
        self.relation = RelationNetwork(self._encoder)
        self._alone = copy.deepcopy(self.network)
        self.labelled = int(recipe.extra["labelled"])
        self.few = train.take(torch.arange(min(self.labelled, len(train))))
        self._chosen = torch.arange(len(self.few))
        self.stage = recipe.stages[-1]
        self._epochs = sum(stage.epochs for stage in recipe.stages if stage.name != PRETRAIN)

    def begin(self, stage: Stage, train: DataSet) -> None:
        """Choose the curves to label, once there are embeddings."""
        self.stage = stage
        self.module = self.relation if stage.name == PRETRAIN else self.network
        if stage.name != PRETRAIN:
            pool = train.take(torch.arange(min(POOL, len(train))))
            self._chosen = self._choose(stage, pool)
            self.few = pool.take(self._chosen)
            check_classes(self.few)

    def _choose(self, stage: Stage, pool: DataSet) -> Tensor:
        """Numbers of the curves to label: half of them first, then those where the network is least sure."""
        if stage.name == UNSURE:
            return torch.cat([self._chosen, self._least_sure(pool)])
        embedded_NE = self._of_all(self.network, self._embedding, pool)
        return most_different(embedded_NE, self.labelled - self.labelled // 2)

    def _least_sure(self, pool: DataSet) -> Tensor:
        best_N2 = self._of_all(self.network, self.network, pool)[:, :-1].topk(2, 1).values
        margin_N = best_N2[:, 0] - best_N2[:, 1]
        margin_N[self._chosen] = torch.inf  # labelled already
        return margin_N.argsort()[: self.labelled // 2]

    def _embedding(self, x_B1N: Tensor) -> Tensor:
        return self._encoder.embedding_of(self._encoder.features(x_B1N))

    def loss(self, batch: DataSet) -> Tensor:
        if self.stage.name == PRETRAIN:
            first, second = (self.preprocess(view(batch.inputs.float())) for _ in range(2))
            return self.relation.loss(first, second)
        return self._few_loss(self.network, len(batch))

    def finish(self, train: DataSet, validation: DataSet) -> nn.Module:  # noqa: ARG002  (interface)
        steps = self._epochs * max(1, len(train) // max(1, self.stage.batch))
        optimiser = torch.optim.AdamW(
            self._alone.parameters(), self.stage.learning_rate, weight_decay=self.stage.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        self._alone.train()
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            self._few_loss(self._alone, self.stage.batch).backward()
            optimiser.step()
            schedule.step()
        return self.network

    def score(self, network: nn.Module, train: DataSet, test: DataSet) -> dict[str, Any]:
        packed = answers(self.preprocess, self._alone, test)
        alone = self._scored(test, packed[:, : len(self.names)].astype(float))
        return super().score(network, train, test) | baseline("few_labels_alone", alone)

    def _few_loss(self, network: PhaseNetwork, count: int) -> Tensor:
        """On a random draw of the labelled events; while validating, on all of them."""
        drawn = torch.randint(len(self.few), (count,)) if network.training else torch.arange(len(self.few))
        batch = self.few.take(drawn).to(next(network.parameters()).device)
        inputs = mounted_anew(batch.inputs.float()) if network.training else batch.inputs
        return network.loss(self.preprocess(inputs), batch.targets)


def most_different(embedded_NE: Tensor, count: int) -> Tensor:
    """Numbers of `count` events, each the farthest from those before it; the first is nearest to the mean."""
    chosen = [int((embedded_NE - embedded_NE.mean(0)).square().sum(1).argmin())]
    apart_N = (embedded_NE - embedded_NE[chosen[0]]).square().sum(1)
    while len(chosen) < min(count, len(embedded_NE)):
        chosen.append(int(apart_N.argmax()))
        apart_N = torch.minimum(apart_N, (embedded_NE - embedded_NE[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)
