"""FedProx: the configured groups, and a proximal term over the exchanged layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from models.groups import FOUR_GROUPS, Group, Scope
from models.training.metrics import logits_of
from models.training.proximal import Proximal
from strategies.aggregators import Aggregator
from strategies.aggregators.proximal_weight import MU, ProximalWeight
from strategies.method import Groups, Made, Method, above_zero, at_least
from strategies.site_round import SiteRound

PROXIMAL = "proximal"


class Weight(nn.Module):
    """The weight of the proximal term as the server sets it, and the mean loss of a site."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.register_buffer("mu", torch.tensor([mu]))
        self.register_buffer("loss", torch.zeros(1))


@dataclass(frozen=True)
class FedProx(Method):
    """Li et al. 2020, algorithm 2 and definition 2 (arXiv:1812.06127).

    With ``adapt`` the server changes mu as in the paper's section 5.3.2 and appendix C.3.3: it rises
    by ``step`` where the mean loss rose since the round before, and falls by it after 5 falls in a
    row, never below 0. The loss is that of the received layers on the training examples. Here it is
    of the sites that answered, over all tasks, weighted by examples.

    Parameters
    ----------
    mu : float
        Weight of ``mu / 2 * ||w - w_received||^2`` over the exchanged parameters; 0 is FedAvg. With
        ``adapt`` that of round 1.
    adapt : bool
        Whether mu follows the loss. A site then sends its mean loss, in the group ``proximal``.
    step : float
        How far mu moves at once, above 0.
    """

    mu: float
    adapt: bool
    step: float

    name = "fedprox"

    def __post_init__(self) -> None:
        at_least(0, self, "mu")
        above_zero(self, "step")

    # -- the partition ---------------------------------------------------------------------------

    def known_groups(self) -> Mapping[str, Group]:
        """Return the four groups; with ``adapt`` also that of mu and the loss."""
        if not self.adapt:
            return FOUR_GROUPS
        return {**FOUR_GROUPS, PROXIMAL: Group(PROXIMAL, Scope.ALL_SITES, knowledge=True)}

    def extras(self, made: Made) -> nn.Module | None:
        """Return mu and the loss, with ``adapt``."""
        del made
        return Weight(self.mu) if self.adapt else None

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Keep the configured groups; mu and the loss have their own."""
        del model
        return {**configured, PROXIMAL: ["extras"]} if self.adapt else configured

    # -- the site's half -------------------------------------------------------------------------

    def penalty(self) -> Proximal | None:
        """Return the proximal term; None with mu 0, so that the bits are those of FedAvg."""
        return _proximal(self.mu)

    def trains_as_one(self) -> bool:
        """Return whether nothing is measured before: a site that sends its loss does so alone."""
        return not self.adapt

    def train(self, site: SiteRound) -> None:
        """Minimise the site's loss plus the proximal term."""
        if not self.adapt:
            return super().train(site)
        added, own = _proximal(self._note_loss(site)), site.exchanged()
        site.fit(penalty=(lambda: added(own, site.received)) if added and own else None)

    def _note_loss(self, site: SiteRound) -> float:
        """Put the loss of the model as it is into what is sent; return mu as it was received."""
        outputs = logits_of(
            site.tail,
            site.train.inputs,
            batch_size=site.settings.config.batch_size,
            device=site.device,
            autocast=site.settings.autocast,
        )
        labels = torch.from_numpy(site.train.labels).to(site.device)
        loss = site.loss(outputs.to(site.device), labels)
        site.extras.get_buffer("loss").fill_(float(loss))
        return max(float(site.received[MU]), 0.0)

    # -- the server's half -----------------------------------------------------------------------

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Accept inexact solutions: any site that made at least one step (definition 2)."""
        del planned
        return None if steps > 0 else "did no step at all"

    def aggregator(self, group: str, configured: Callable[[], Aggregator]) -> Aggregator:
        """Return how mu changes, for its group; the configured one for layers."""
        return ProximalWeight(self.step) if group == PROXIMAL else configured()


def _proximal(mu: float) -> Proximal | None:
    return Proximal(mu) if mu else None
