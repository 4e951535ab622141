"""FedKD: as FML, with losses weighed by how sure both networks are, and features that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from strategies.method import Groups, Made, at_least
from strategies.shared_model import Mutual, Seen, check_model, divergence
from strategies.site_round import LAST_LAYER, SiteRound

PROJECTION = "projection"  # the name of W among the method's modules


@dataclass(frozen=True)
class FedKD(Mutual):
    """Wu et al. 2022, "Communication-efficient federated learning via knowledge distillation".

    (Nature Communications 13, 2032.) Beside its own network, the mentor, each site trains a small
    shared one, the mentee. Both minimize their cross-entropy, and besides, over the sum of both
    cross-entropies,

    ``KL(p_other || p)`` with the chances p of the classes, and ``MSE(z_own, W z_shared)``

    with the features z that enter ``head.out``. The less sure both are, the less they teach each other.
    W is linear, learned with them, and stays at the site. The shared network travels with the coding
    ``lowrank``, as conf/method/fedkd.yaml chooses.

    The weight is a number: no gradient goes through it, nor through the other one's p. In public code
    one does, so that a network would gain by a larger loss. The divergence is a sum over the
    classes. The paper also compares the attention of transformers, and its code has no W.
    ``train.clip`` bounds the gradients of both networks apart, W with the own one.

    Parameters
    ----------
    distillation, hidden : float
        Factors on the divergences and on the difference of features; 1 in the paper. With both 0 the
        sites train alone, and the shared network as in FedAvg.
    model : str or mapping
        The shared network: ``auto``, or name and options as in conf/model.
    """

    distillation: float
    hidden: float
    model: Any

    name = "fedkd"

    def __post_init__(self) -> None:
        at_least(0, self, "distillation", "hidden")
        check_model(self.model)

    def extras(self, made: Made) -> nn.Module | None:
        """Return the shared network, and W, from its features to those of the own one."""
        modules = super().extras(made)
        if not self.hidden:
            return modules
        assert isinstance(modules, nn.ModuleDict)
        last = modules["shared"].get_submodule(LAST_LAYER)
        assert isinstance(last, nn.Linear)
        modules[PROJECTION] = nn.Linear(last.in_features, made.features, bias=False)
        return modules

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Keep W at the site."""
        groups = dict(super().groups(configured, model))
        if not self.hidden:
            return groups
        groups["personal"] = [f"extras.{PROJECTION}", *groups["personal"]]
        return groups

    def loss(self, site: SiteRound, own: Seen, shared: Seen, labels: Tensor) -> Tensor:
        """Return the sum of both networks' losses; what they share of it is added once."""
        of_own, of_shared = (site.loss(each.outputs, labels) for each in (own, shared))
        total = of_own + of_shared
        more: list[Tensor] = []
        if self.distillation:
            both = divergence(own.outputs, shared.outputs) + divergence(shared.outputs, own.outputs)
            more.append(self.distillation * both)
        if self.hidden:
            projected = site.extras.get_submodule(PROJECTION)(shared.features)
            more.append(self.hidden * functional.mse_loss(own.features.float(), projected.float()))
        if not more:
            return total
        # Both nearly 0 on a batch that is known by heart: the weight stays finite.
        weight = total.detach().float().clamp(min=torch.finfo(torch.float32).eps)
        return total + torch.stack(more).sum() / weight
