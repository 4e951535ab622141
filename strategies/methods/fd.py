"""FD (FedDistill): sites share the mean outputs of each class, and learn from those of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.protocol.task_kinds import TaskKind
from models.groups import FOUR_GROUPS, Group, Scope
from models.training.losses import Extended
from strategies.aggregators import Aggregator
from strategies.aggregators.class_totals import MADE, MOST, ClassTotals
from strategies.class_statistics import COUNTS, SUMS, ClassSums, means_of, note_class_sums
from strategies.method import Groups, Made, Method, at_least, needs_classes, with_rest_in
from strategies.site_round import SiteRound

LOGITS = "logits"
OWN, BEFORE = "sent", "sent-before"
# Of the others: fewer examples than this, or than this share of all, are what rounding leaves.
LEAST, LEAST_SHARE = 0.5, 1e-6


class ClassLogits(ClassSums):
    """Sums of logits and counts by class, with what `ClassTotals` says of them."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, classes)
        self.register_buffer("made", torch.zeros(1))
        self.register_buffer("most", torch.zeros(1))


@dataclass(frozen=True)
class FD(Method):
    """Jeong et al. 2018, federated distillation (arXiv:1811.11479, algorithm 1).

    A site's loss is ``loss(outputs, y) + weight * CE(outputs, softmax(t[y]))``, where t[y] are the mean
    logits of class y over the training examples of all other sites of the task that took part in the
    round before. What the site itself sent is taken out of the sums. An example of a class that no
    other site had then adds nothing, as in round 1. The targets are a softmax of logits, not the
    logits themselves, with which training does not stay finite.

    The logits are those of the network after the round's training, in eval mode; the paper has them
    from batches during it. The mean is over examples, not over sites. A site that has lost what it
    sent trains one round without targets.

    Parameters
    ----------
    weight : float
        Of the distillation; 0 is training alone.
    """

    weight: float

    name = "fd"
    predicts_with_received = False

    def __post_init__(self) -> None:
        at_least(0, self, "weight")

    # -- the partition ---------------------------------------------------------------------------

    def known_groups(self) -> Mapping[str, Group]:
        """Return the four groups, and the logits."""
        return {**FOUR_GROUPS, LOGITS: Group(LOGITS, Scope.SAME_TASK, knowledge=True)}

    def extras(self, made: Made) -> nn.Module:
        """Return the sums and counts of logits by class."""
        return ClassLogits(made.classes)

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all layers into ``personal``; what is exchanged are the logits."""
        del model
        return with_rest_in(configured, "personal", **{LOGITS: ["extras"]})

    def check_task(self, kind: TaskKind) -> None:
        """Refuse tasks where not exactly one of several classes holds."""
        needs_classes(self, kind, "learns from the mean outputs of each class", "ditto")

    def judges_values(self, group: str) -> bool:
        """Return True for logits: refused as a whole, a site knows that it is in no sum."""
        return group == LOGITS

    # -- the site's half -------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Train all layers, towards the targets too; then note the sums of logits."""
        own = _own(site)
        targets, there = _targets(site, own)
        if self.weight and bool(there.any()):
            self._fit(site, targets.softmax(1), there)
        else:
            site.fit()
        note_class_sums(site, site.tail)
        for name in ("made", "most"):  # are the server's to say
            site.extras.get_buffer(name).zero_()
        site.remember(BEFORE, own)
        sent = {"sums": site.extras.get_buffer("sums"), "counts": site.extras.get_buffer("counts")}
        numbers = torch.tensor([site.number, len(site.train)])
        site.remember(OWN, {**sent, "round and examples": numbers})

    def _fit(self, site: SiteRound, targets: Tensor, there: Tensor) -> None:
        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            each = functional.cross_entropy(outputs, targets[labels], reduction="none")
            return site.loss(outputs, labels) + self.weight * (each * there[labels]).mean()

        site.fit(loss=Extended(site.loss, loss))

    # -- the server's half -----------------------------------------------------------------------

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Accept partial work: the outputs of a network are what they are."""
        del steps, planned
        return None

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return the totals by class for logits; nothing else is exchanged."""
        return ClassTotals() if group == LOGITS else configured()


def _own(site: SiteRound) -> dict[str, Tensor]:
    """Return what the site sent last that the server took; empty where it is not known."""
    for name in (OWN, BEFORE):
        kept = site.kept(name)
        if kept and int(kept["round and examples"][0]) == site.last_taken:
            return kept
    return {}


def _targets(site: SiteRound, own: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean logits of each class over the other sites, and of which classes there are."""
    sums, counts = (site.received[name].double() for name in (SUMS, COUNTS))
    least = (counts * LEAST_SHARE).clamp(min=LEAST)
    made = int(site.received[MADE])
    if made and made == site.last_taken:
        if not own:
            return sums.float(), torch.zeros_like(counts, dtype=torch.bool)
        weight = min(float(own["round and examples"][1]), float(site.received[MOST]))
        sums -= weight * own["sums"].double()
        counts -= weight * own["counts"].double()
    enough = counts > least
    means, there = means_of(sums * enough[:, None], counts * enough)
    return means.float(), there
