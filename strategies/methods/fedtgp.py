"""FedTGP: as FedProto, with prototypes that the server learns to be far from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.groups import Group, Scope
from strategies.aggregators import Aggregator
from strategies.aggregators.class_means import COUNTS, PROTOTYPES, SUMS
from strategies.aggregators.prototype_teacher import KNOWN, LEARNED, PrototypeTeacher
from strategies.class_statistics import ClassSums
from strategies.method import Groups, Made, above_zero, at_least, with_rest_in
from strategies.methods.fedproto import FedProto

LEARNED_PROTOTYPES = "learned_prototypes"


class WithLearned(ClassSums):
    """Sums and counts by class, and what the server makes of those of all sites."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, width)
        self.register_buffer("prototypes", torch.zeros(classes, width))
        self.register_buffer("known", torch.zeros(classes))


@dataclass(frozen=True)
class FedTGP(FedProto):
    """Zhang et al. 2024, "FedTGP: Trainable Global Prototypes with ..." (arXiv:2401.03230).

    A site does as in FedProto (`strategies.methods.fedproto`), with the prototypes that the server
    learns from the class means of each site after this round's training; see
    `strategies.aggregators.prototype_teacher`. So it needs each site's own update. A class that no site
    has had yet has no prototype. On HAR with momentum 0.9 (ten subjects, one seed, 10 rounds) the paper's
    weight of 10 gave 97.18 %, 1 gave 97.35, and training alone 97.17.

    Parameters
    ----------
    weight : float
        The paper's lambda; 0 is training alone.
    predict : str
        ``head`` or ``nearest``, as in FedProto; the authors' code has the latter.
    epochs : int
        The server's passes over the class means of a round, the paper's S.
    batch_size : int
        Class means in a step of the server.
    rate : float
        The server's learning rate.
    margin : float
        The largest margin, the paper's tau.
    temperature : float
        By which the server divides distances; 1 is the paper's.
    """

    epochs: int
    batch_size: int
    rate: float
    margin: float
    temperature: float

    name = "fedtgp"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "epochs", "batch_size")
        above_zero(self, "rate", "temperature")
        at_least(0, self, "margin")

    def known_groups(self) -> Mapping[str, Group]:
        """Return those of FedProto, and the prototypes that the server learns."""
        learned = Group(LEARNED_PROTOTYPES, Scope.SAME_TASK, knowledge=True, down_only=True)
        return {**super().known_groups(), LEARNED_PROTOTYPES: learned}

    def extras(self, made: Made) -> nn.Module:
        """Return the sums and counts of features by class, and the learned prototypes."""
        return WithLearned(made.classes, made.features)

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all layers into ``personal``; class means go up, learned prototypes down."""
        del model
        exchanged = {PROTOTYPES: [SUMS, COUNTS], LEARNED_PROTOTYPES: [LEARNED, KNOWN]}
        return with_rest_in(configured, "personal", **exchanged)

    def prototypes(self, received: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the learned prototype of each class, and which classes a site has had."""
        return received[LEARNED], received[KNOWN] > 0

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return what learns the prototypes, and as in FedProto the means by class."""
        if group == LEARNED_PROTOTYPES:
            return PrototypeTeacher(
                self.epochs, self.batch_size, self.rate, self.margin, self.temperature
            )
        return super().aggregator(group, configured)
