"""FedProto (Tan et al. 2022), as a method whose payload is no layer of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.groups import FOUR_GROUPS, Group, Scope
from strategies.aggregators import Aggregator, make_aggregator
from strategies.method import Groups, Made, Method, with_rest_in
from strategies.site_round import SiteRound


class Prototypes(nn.Module):
    """One mean feature per class, as a buffer that a group of its own exchanges."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, features))


@dataclass(frozen=True)
class FedProto(Method):
    """A payload that is no layer (Tan et al. 2022): class means, in a group of the method's own."""

    weight: float
    name = "fedproto"

    def known_groups(self) -> Mapping[str, Group]:
        return {**FOUR_GROUPS, "prototypes": Group("prototypes", Scope.ALL_SITES, knowledge=True)}

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        del model
        return with_rest_in(configured, "personal", prototypes=["extras"])

    def extras(self, made: Made) -> nn.Module:
        return Prototypes(made.classes, 256)

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        return make_aggregator("fedavg", {}) if group == "prototypes" else configured()

    def train(self, site: SiteRound) -> None:
        body = nn.Sequential(*list(site.network.children())[:-1])
        seen = site.received["extras.means"]

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(logits, labels) + self.weight * seen[labels].mean()

        site.fit(loss=loss)
        with torch.no_grad():
            features = body.eval()(site.train.inputs.batch(np.arange(len(site.train))))
        labels = torch.from_numpy(site.train.labels)
        means = site.model.get_buffer("extras.means")
        for label in labels.unique():
            means[label] = features[labels == label].mean(0)
