"""Ditto: the layers as FedAvg trains them, and beside them a personal model that stays near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strategies.method import Groups, Method, at_least, with_rest_in
from strategies.site_round import SiteRound

OWN = "own"  # the personal model, in the site's memory


@dataclass(frozen=True)
class Ditto(Method):
    """Li et al. 2021, algorithm 1 (arXiv:2012.04221).

    Each site trains the received w as in FedAvg, and a personal v by
    ``v -= lr * (gradient at v + pull * (v - w_received))``; v never leaves, and it predicts.

    Parameters
    ----------
    pull : float
        The paper's lambda. 0 trains v as method ``local`` does, with the same batches.
    """

    pull: float

    name = "ditto"
    own_networks = True
    predicts_with_received = False

    def __post_init__(self) -> None:
        at_least(0, self, "pull")

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all that is not frozen into ``common``."""
        del model
        return with_rest_in(configured, "common")

    def train(self, site: SiteRound) -> None:
        """Train v, then w on the same batches."""
        own = site.second(OWN)
        with site.same_draws():
            self._fit(site, own, site.received)
        site.remember(OWN, own)
        site.fit()

    def _fit(
        self, site: SiteRound, own: nn.Module, near: Mapping[str, Tensor], epochs: int | None = None
    ) -> None:
        parameters = {name: p for name, p in own.named_parameters() if name in near}
        pairs = [(parameter, near[name]) for name, parameter in parameters.items()]

        def pulled() -> Tensor:
            squared = [torch.sum((v - w) ** 2) for v, w in pairs]
            return 0.5 * self.pull * torch.stack(squared).sum()

        site.fit(
            network=own,
            trained={f"{OWN}.{name}": parameter for name, parameter in parameters.items()},
            epochs=epochs,
            penalty=pulled if self.pull and pairs else None,
        )

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return v."""
        return site.second(OWN)

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor]:
        """Return the tensors of v; the network alone predicts with them."""
        return site.kept(OWN)

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune v, near the final w; all of it, for it is no part of any group."""
        del groups
        own = site.second(OWN)
        self._fit(site, own, site.received, epochs)
        site.remember(OWN, own)
