"""FedProx: the configured groups, and a proximal term over the exchanged layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedstrata.support.errors import UserError
from strategies.method import Method
from strategies.site_round import SiteRound


@dataclass(frozen=True)
class FedProx(Method):
    """Li et al. 2020, algorithm 2 and definition 2 (arXiv:1812.06127).

    Parameters
    ----------
    mu : float
        Weight of ``mu / 2 * ||w - w_received||^2`` over the exchanged parameters; 0 is FedAvg.
    """

    mu: float

    name = "fedprox"

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise UserError(f"method.mu must be 0 or greater, got {self.mu}")

    def train(self, site: SiteRound) -> None:
        """Minimise the site's loss plus the proximal term."""
        if self.mu == 0:  # without the term, so that the bits are those of FedAvg
            return super().train(site)
        pairs = [(w, site.received[name]) for name, w in site.exchanged().items()]

        def proximal() -> Tensor:
            # Squared, as in the paper: some implementations leave the norm as it is.
            squared = [torch.sum((w - received) ** 2) for w, received in pairs]
            return 0.5 * self.mu * torch.stack(squared).sum()

        site.fit(penalty=proximal if pairs else None)

    def reject_reason(self, steps: int, planned: int) -> str | None:
        """Accept inexact solutions: any site that made at least one step (definition 2)."""
        del planned
        return None if steps > 0 else "did no step at all"
