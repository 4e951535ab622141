"""FedGH: sites send the mean features of each class, and the server trains the last layer on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from fedstrata.protocol.task_kinds import TaskKind
from models.groups import FOUR_GROUPS, Group, Scope
from strategies.aggregators import Aggregator
from strategies.aggregators.class_means import PROTOTYPES, ClassMeans
from strategies.aggregators.head_teacher import HeadTeacher, HeadTeacherOfEach
from strategies.class_statistics import ClassSums, note_class_sums
from strategies.method import (
    Groups,
    Made,
    Method,
    above_zero,
    at_least,
    needs_classes,
    with_rest_in,
)
from strategies.site_round import LAST_LAYER, SiteRound

GLOBAL_HEAD = "global_head"


@dataclass(frozen=True)
class FedGH(Method):
    """Yi et al. 2023, "FedGH: Heterogeneous Federated Learning with ..." (arXiv:2303.13137).

    A site begins each round with the last layer of the server, trains all its layers with it, and
    sends the mean features of its classes, of the network after the round's training. It sends sums
    and counts instead of means. The server trains the last layer on them, with as much weight as a
    class has examples; in the paper each mean has the same. Last layers of sites never leave them.

    The server has to learn fast: on HAR, six subjects with ten examples of each class (8 rounds, one
    seed), 100 steps of rate 1 reached 95.28 %, of rate 0.1 88.61, and training alone 76.97.

    Parameters
    ----------
    rate : float
        The server's learning rate.
    steps : int
        The server's steps of gradient descent in a round; 0 is training alone.
    each_site : bool
        Whether the server trains on the means of each site, as in the paper, for which it needs single
        updates. Otherwise it trains on the means over all sites, for which sums suffice.
    """

    rate: float
    steps: int
    each_site: bool

    name = "fedgh"

    def __post_init__(self) -> None:
        above_zero(self, "rate")
        at_least(0, self, "steps")

    # -- the partition ---------------------------------------------------------------------------

    def known_groups(self) -> Mapping[str, Group]:
        """Return the four groups, the class means, and the last layer, which goes down only."""
        return {
            **FOUR_GROUPS,
            PROTOTYPES: Group(PROTOTYPES, Scope.SAME_TASK, knowledge=True),
            GLOBAL_HEAD: Group(GLOBAL_HEAD, Scope.SAME_TASK, down_only=True),
        }

    def extras(self, made: Made) -> nn.Module | None:
        """Return the sums and counts of features by class."""
        return ClassSums(made.classes, made.features) if self.steps else None

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all layers but the last into ``personal``; the last one is from the server."""
        del model
        if not self.steps:
            return with_rest_in(configured, "personal")
        own = {PROTOTYPES: ["extras"], GLOBAL_HEAD: [LAST_LAYER]}
        return with_rest_in(configured, "personal", **own)

    def trains_what_it_received(self, group: str) -> bool:
        """Return True for the last layer; class means are computed from scratch."""
        return group != PROTOTYPES

    def check_task(self, kind: TaskKind) -> None:
        """Refuse tasks without classes, and those where an example has several labels."""
        needs_classes(self, kind, "trains a last layer on the mean features of each class")

    # -- the site's half -------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Train all layers; then note the sums of the features."""
        site.fit()
        if self.steps:
            note_class_sums(site, site.body)

    # -- the server's half -----------------------------------------------------------------------

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Accept partial work: the features of a network are what they are."""
        del steps, planned
        return None

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return the means by class, or what trains the last layer on them."""
        if group == PROTOTYPES:
            return ClassMeans()
        if group == GLOBAL_HEAD:
            teacher = HeadTeacherOfEach if self.each_site else HeadTeacher
            return teacher(LAST_LAYER, self.rate, self.steps)
        return configured()
