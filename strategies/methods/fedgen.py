"""FedGen: the server trains a generator of features on last layers, and sites train with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError
from models.groups import FOUR_GROUPS, Group, Scope
from strategies.aggregators import Aggregator, make_aggregator
from strategies.aggregators.generator_teacher import (
    COUNTS,
    LABELS,
    GeneratorTeacher,
    GeneratorTeacherOfEach,
    Training,
)
from strategies.feature_generator import FeatureGenerator
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

GENERATOR = "generator"
SHARES = ("head", "all")
BATCH = 32  # generated examples in a step


class Generated(nn.Module):
    """The generator, and where they are sent the shares of the classes in a site's examples."""

    def __init__(self, generator: FeatureGenerator, classes: int, *, counts: bool) -> None:
        super().__init__()
        self.generator = generator
        if counts:
            self.register_buffer("labels", torch.zeros(classes))


@dataclass(frozen=True)
class FedGen(Method):
    """Zhu, Hong and Zhou 2021, "Data-Free Knowledge Distillation for ..." (arXiv:2105.10056).

    Sites share their last layer, or all layers. Besides averaging them, the server trains a generator
    G of features for a class, on the last layers that were sent. It goes to the sites, and the loss
    of a step there has ``weight * CE(head(G(y, noise)), y)`` besides. Classes y are drawn as often as
    the sites have them, or alike if they do not share that. A generator that was not trained yet adds
    nothing, as in round 1. Unlike the authors' code there is no second term with soft targets, no
    decay of the weight over the rounds, and no BatchNorm in G.

    Parameters
    ----------
    weight : float
        Of the generated examples in a site's loss; 0 switches the method off.
    share : str
        ``head`` exchanges the last layer alone, so the rest of the networks may differ; ``all``
        exchanges all layers.
    counts : bool
        Whether sites send the shares of their classes.
    each_site : bool
        Whether the server trains G on the last layer of each site, as in the paper, for which it needs
        single updates. Otherwise it trains G on their mean, for which sums suffice.
    noise, hidden : int
        Numbers that are drawn for an example, and hidden units of G.
    rate, steps, diversity : float, int, float
        How the server trains G in a round; see `Training`.
    """

    weight: float
    share: str
    counts: bool
    each_site: bool
    noise: int
    hidden: int
    rate: float
    steps: int
    diversity: float

    name = "fedgen"

    def __post_init__(self) -> None:
        at_least(0, self, "weight", "diversity")
        at_least(1, self, "noise", "hidden", "steps")
        above_zero(self, "rate")
        if self.share not in SHARES:
            raise UserError(f"method.share is {' or '.join(SHARES)}, got {self.share!r}")

    # -- the partition ---------------------------------------------------------------------------

    def known_groups(self) -> Mapping[str, Group]:
        """Return the four groups, the shares of classes, and the generator, which goes down only."""
        return {
            **FOUR_GROUPS,
            LABELS: Group(LABELS, Scope.SAME_TASK, knowledge=True),
            GENERATOR: Group(GENERATOR, Scope.SAME_TASK, knowledge=True, down_only=True),
        }

    def extras(self, made: Made) -> nn.Module | None:
        """Return the generator, and the shares of the classes."""
        if not self.weight:
            return None
        return Generated(self._empty(made.classes, made.features), made.classes, counts=self.counts)

    def _empty(self, classes: int, features: int) -> FeatureGenerator:
        return FeatureGenerator(classes, self.noise, self.hidden, features)

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put the last layer into ``task``; the rest is personal, or common."""
        del model
        own: dict[str, Sequence[str]] = {"task": [LAST_LAYER]}
        if self.weight:
            own[GENERATOR] = ["extras.generator"]
            if self.counts:
                own[LABELS] = [COUNTS]
        return with_rest_in(configured, "common" if self.share == "all" else "personal", **own)

    def check_task(self, kind: TaskKind) -> None:
        """Refuse tasks without classes, and those where an example has several labels."""
        needs_classes(self, kind, "generates features for each class")

    # -- the site's half -------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Train all layers, with generated examples besides once there are any."""
        if not self.weight:
            site.fit()
            return
        generator = site.extras.get_submodule("generator")
        assert isinstance(generator, FeatureGenerator)
        taught = float(generator.get_buffer("lessons")) > 0
        site.fit(penalty=self._penalty(site, generator) if taught else None)
        if self.counts:
            counted = np.bincount(site.train.labels, minlength=site.classes)
            shares = torch.from_numpy(counted / counted.sum())
            site.extras.get_buffer("labels").copy_(shares)

    def _penalty(self, site: SiteRound, generator: FeatureGenerator) -> Callable[[], Tensor]:
        shares = site.received.get(COUNTS, torch.ones(site.classes, device=site.device))

        def penalty() -> Tensor:
            labels, noise = generator.drawn(shares, BATCH)
            with torch.no_grad():
                features = generator(labels, noise)
            return self.weight * functional.cross_entropy(site.out(features), labels)

        return penalty

    # -- the server's half -----------------------------------------------------------------------

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return what trains the generator, the mean of the shares, or the configured one."""
        if group == GENERATOR:
            teacher = GeneratorTeacherOfEach if self.each_site else GeneratorTeacher
            training = Training(self.rate, self.steps, self.diversity)
            return teacher(LAST_LAYER, self._empty, training)
        return make_aggregator("fedavg", {}) if group == LABELS else configured()
