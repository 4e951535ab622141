"""FedProto: sites share the mean features of each class, and keep their networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedstrata.protocol.task_kinds import LABELS, NUMBER, TaskKind
from fedstrata.support.errors import UserError
from models.groups import FOUR_GROUPS, Group, Scope
from models.training.losses import Extended
from strategies.aggregators import Aggregator
from strategies.aggregators.class_means import PROTOTYPES, ClassMeans
from strategies.class_statistics import (
    COUNTS,
    SUMS,
    ClassSums,
    means_of,
    membership,
    note_class_sums,
)
from strategies.method import Groups, Made, Method, at_least, with_rest_in
from strategies.site_round import SiteRound

PREDICT = ("head", "nearest")
EXACT = "donot_use_mm_for_euclid_dist"
FAR = -1e9  # finite, so that a loss stays a number


class WithFeatures(nn.Module):
    """Gives the outputs, and the features that enter the last layer."""

    def __init__(self, site: SiteRound) -> None:
        super().__init__()
        self.body, self.out = site.body, site.out

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs ``(b, classes)`` and features ``(b, d)``."""
        features = self.body(inputs)
        return self.out(features), features


class Nearest(nn.Module):
    """Gives minus the mean-square distance to each prototype, and `FAR` for a class without one."""

    def __init__(self, body: nn.Module, prototypes: Tensor, there: Tensor) -> None:
        super().__init__()
        self.body, self.prototypes, self.there = body, prototypes, there

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``(b, classes)``."""
        features = self.body(inputs).float()
        apart = torch.cdist(features, self.prototypes, compute_mode=EXACT).square()
        scores: Tensor = (-apart / features.shape[1]).masked_fill(~self.there, FAR)
        return scores


@dataclass(frozen=True)
class FedProto(Method):
    """Tan et al. 2022, "FedProto: Federated Prototype Learning across ..." (arXiv:2105.00243).

    With features z, the prototype of a class is the mean of z over the training examples of all sites
    of the task that have it (eq. 6). A site's loss is ``loss(outputs, y) + weight * mean (z - P[y])^2``,
    the mean over examples and features (eq. 7, with the square that the authors' code has). An
    example of a class without a prototype adds nothing, as in round 1. Of several labels the present
    ones count: P[y] is the mean of their prototypes.

    The features are those of the network after the round's training, in eval mode; the authors' code
    has them from batches during it. A site sends sums and counts instead of means, and where none of
    the round has a class its prototype stays. A class without a prototype is never the nearest; before
    there is any, the last layer predicts.

    On HAR with momentum 0.9 (ten subjects, one seed, 10 rounds) the paper's weight of 10 gave 95.84 %,
    1 gave 97.87, and training alone 97.17.

    Parameters
    ----------
    weight : float
        The paper's lambda; 0 is training alone.
    predict : str
        ``head``: the last layer; or ``nearest``: the class of the nearest prototype, as in the paper.
    """

    weight: float
    predict: str

    name = "fedproto"
    own_networks = True
    predicts_with_received = False
    measures_memory = False

    def __post_init__(self) -> None:
        at_least(0, self, "weight")
        if self.predict not in PREDICT:
            raise UserError(
                f"method.predict must be one of {', '.join(PREDICT)}, got {self.predict!r}"
            )

    # -- the partition ---------------------------------------------------------------------------

    def known_groups(self) -> Mapping[str, Group]:
        """Return the four groups, and the prototypes."""
        return {**FOUR_GROUPS, PROTOTYPES: Group(PROTOTYPES, Scope.SAME_TASK, knowledge=True)}

    def extras(self, made: Made) -> nn.Module:
        """Return the sums and counts of features by class."""
        return ClassSums(made.classes, made.features)

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all layers into ``personal``; what is exchanged are the prototypes."""
        del model
        return with_rest_in(configured, "personal", **{PROTOTYPES: ["extras"]})

    def check_task(self, kind: TaskKind) -> None:
        """Refuse numbers, which have no classes, and several labels by the nearest prototype."""
        if kind.name == LABELS and self.predict == "nearest":
            raise UserError(
                "method.predict=nearest gives one class, and a task of kind labels has several at once: "
                "write method.predict=head"
            )
        if kind.name == NUMBER:
            raise UserError(
                f"method={self.name} learns a prototype of each class or label, and a task of kind "
                f"{kind.name} has none: choose a method that needs no classes, such as method=ditto"
            )

    # -- the site's half -------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Train all layers with the features near the prototypes; then note the features' sums."""
        self._fit(site)
        note_class_sums(site, site.body)

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune with the features near the prototypes."""
        self._fit(site, groups, epochs)

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return what takes the nearest prototype, where that predicts and there is one."""
        prototypes, there = self.prototypes(site.received)
        if self.predict == "head" or not bool(there.any()):
            return site.tail
        return Nearest(site.body, prototypes, there)

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor] | None:
        """Return None where prototypes predict; else the network alone does."""
        return {} if self.predictor(site) is site.tail else None

    def prototypes(self, received: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the prototype of each class ``(classes, d)``, and which classes have one."""
        return means_of(received[SUMS], received[COUNTS])

    def _fit(
        self, site: SiteRound, groups: Sequence[str] | None = None, epochs: int | None = None
    ) -> None:
        prototypes, there = self.prototypes(site.received)
        if not self.weight or not bool(there.any()):
            site.fit(groups=groups, epochs=epochs)
            return

        def loss(given: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
            outputs, features = given
            return site.loss(outputs, labels) + self.weight * distance(
                features, membership(labels, site.classes) * there, prototypes
            )

        site.fit(
            network=WithFeatures(site),
            trained=site.trainable(groups),
            epochs=epochs,
            loss=Extended(site.loss, loss),
        )

    # -- the server's half -----------------------------------------------------------------------

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Accept partial work: the features of a network are what they are."""
        del steps, planned
        return None

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return the means by class for prototypes; nothing else is exchanged."""
        return ClassMeans() if group == PROTOTYPES else configured()


def distance(features: Tensor, has: Tensor, prototypes: Tensor) -> Tensor:
    """Return the mean-square distance of features ``(b, d)`` to the prototypes of their classes.

    Parameters
    ----------
    features : Tensor
        Of a batch.
    has : Tensor
        Which of the classes that have a prototype an example has, 0 or 1, ``(b, classes)``.
    prototypes : Tensor
        ``(classes, d)``.
    """
    with torch.autocast(features.device.type, enabled=False):
        number = has.sum(1)
        target = (has @ prototypes) / number.clamp(min=1)[:, None]
        away = (features.float() - target).square().mean(1)
        return (away * (number > 0)).mean()
