"""FedALA: a site mixes its last layers into what it received, by weights that it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedstrata.protocol.plan import OptimizerConfig
from fedstrata.support.errors import UserError
from models.groups import Partition, partition_tensors
from strategies.method import Groups, Method, at_least
from strategies.site_round import SiteRound

LOCAL, WEIGHTS = "local", "weights"  # in the site's memory


class Mixed(nn.Module):
    """The network with ``local + (received - local) * weights`` in place of some parameters."""

    def __init__(
        self,
        network: nn.Module,
        local: Mapping[str, Tensor],
        received: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.network, self.local, self.received, self.weights = network, local, received, weights

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = functional_call(self.network, self.mixture(), (inputs,))
        return outputs

    def mixture(self) -> dict[str, Tensor]:
        """Return the mixed parameters by name; with weight 1 those received, to the bit."""
        return {
            name: torch.lerp(self.local[name], self.received[name], weight)
            for name, weight in self.weights.items()
        }


@dataclass(frozen=True)
class FedALA(Method):
    """Zhang et al. 2023, "FedALA: Adaptive Local Aggregation" (arXiv:2212.01197).

    Before training, the last ``layers`` exchanged layers become ``local + (received - local) * W``
    (eq. 4), where local is what the site had after its last training. W has a number for each
    parameter, kept in [0, 1], and stays at the site. It is learned by steps
    ``W -= rate * gradient of the loss in W`` on a share of the training data (eq. 5): the first time
    until the loss of ``window`` passes has a standard deviation below ``tolerance``, then one pass a
    round. What is received in the site's first round is taken as it is.

    Public code takes the last ``layers`` tensors, so that a bias counts as a layer; here it is
    layers. It looks at the loss of the last batch of a pass, here at the mean loss of the pass, and
    here the passes have an end (``most_passes``). BatchNorm keeps its received statistics.

    Parameters
    ----------
    layers : int
        How many of the last exchanged layers are mixed, at least 1.
    share : float
        The share of the training data on which W is learned, above 0 and at most 1.
    rate : float
        The size of the steps of W; 0 leaves W at 1, and trains as method ``layers`` does.
    tolerance : float
        See above; 0 or greater.
    window : int
        See above; at least 2.
    most_passes : int
        After which the first learning of W ends in any case, at least 1.
    """

    layers: int
    share: float
    rate: float
    tolerance: float
    window: int
    most_passes: int

    name = "fedala"
    own_networks = True

    def __post_init__(self) -> None:
        at_least(1, self, "layers")
        at_least(2, self, "window")
        at_least(1, self, "most_passes")
        at_least(0, self, "rate", "tolerance")
        if not 0 < self.share <= 1:
            raise UserError(f"method.share must be above 0 and at most 1, got {self.share}")

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Keep the configured groups; refuse to mix more layers than they exchange."""
        there = len(exchanged_layers(model, partition_tensors(model, configured)))
        if self.layers > there:
            raise UserError(
                f"method.layers={self.layers} is to mix the last exchanged layers, and the model "
                f"exchanges {there}: "
                + ("write fewer" if there else "put layers into the groups common or task")
            )
        return configured

    def receive(self, site: SiteRound) -> None:
        """Learn W, and put the mixture into the model."""
        local, kept = site.kept(LOCAL), site.kept(WEIGHTS)
        if not self.rate or not local:
            return
        shapes = {name: p.shape for name, p in self._last(site).items()}
        if {name: tensor.shape for name, tensor in local.items()} != shapes:
            raise UserError(
                "the layers kept at this site are of another model; start a new run instead of "
                "resuming this one"
            )
        weights = {
            name: nn.Parameter(kept.get(name, torch.ones_like(tensor)))
            for name, tensor in local.items()
        }
        mixed = Mixed(site.tail, local, site.received, weights)
        with site.same_draws():  # training then has the batches of other methods
            self._learn(site, mixed, weights, most=1 if kept else self.most_passes)
        site.remember(WEIGHTS, weights)
        own = site.model.state_dict()
        with torch.no_grad():
            for name, tensor in mixed.mixture().items():
                own[name].copy_(tensor)

    def _learn(
        self, site: SiteRound, mixed: Mixed, weights: Mapping[str, nn.Parameter], *, most: int
    ) -> None:
        """Learn W in at most so many passes over a share of the training data."""
        count = max(round(self.share * len(site.train)), 1)
        rows = site.generator.permutation(len(site.train))[:count]
        split = site.train.take(np.sort(rows))
        plain = OptimizerConfig("sgd", lr=self.rate, momentum=0.0, weight_decay=0.0)
        config = replace(site.settings.config, optimizer=plain, clip=None, epochs=1, steps=None)
        settings = replace(site.settings, config=config, lr_factor=1.0)

        def clamp() -> None:
            with torch.no_grad():
                for weight in weights.values():
                    weight.clamp_(0, 1)

        losses: list[float] = []
        while len(losses) < most:
            report = site.fit(
                network=mixed,
                trained={f"{WEIGHTS}.{name}": weight for name, weight in weights.items()},
                settings=settings,
                split=split,
                after_step=clamp,
            )
            losses.append(report.loss)
            cut_short = report.steps < report.planned  # the site's limit of steps
            if cut_short or (
                len(losses) >= self.window and np.std(losses[-self.window :]) < self.tolerance
            ):
                return

    def train(self, site: SiteRound) -> None:
        """Train all groups, and keep the layers that are mixed next time."""
        site.fit()
        if self.rate:
            site.remember(LOCAL, self._last(site))

    def _last(self, site: SiteRound) -> dict[str, nn.Parameter]:
        """Return the parameters of the layers that are mixed."""
        layers = exchanged_layers(site.model, site.partition)[-self.layers :]
        return {
            name: p for name, p in site.exchanged().items() if name.rpartition(".")[0] in layers
        }


def exchanged_layers(model: nn.Module, partition: Partition) -> list[str]:
    """Return the paths of the modules that own an exchanged parameter, in the model's order."""
    names = (name for name, _ in model.named_parameters())
    return list(
        dict.fromkeys(
            name.rpartition(".")[0]
            for name in names
            if partition.groups[partition.group_of[name]].exchanged
        )
    )
