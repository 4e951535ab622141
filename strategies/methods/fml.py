"""FML: a small network that all sites share, and each one's own, teach each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedstrata.support.errors import UserError
from strategies.shared_model import Mutual, Seen, check_model, divergence
from strategies.site_round import SiteRound


@dataclass(frozen=True)
class FML(Mutual):
    """Shen et al. 2020, "Federated Mutual Learning" (arXiv:2006.16765).

    Beside its own network, which stays, each site trains a small shared one, the paper's meme model.
    With p the chances that they give to the classes, they minimize on the same batches

    ``alpha * CE(p_own, y) + (1 - alpha) * KL(p_shared || p_own)`` and
    ``beta * CE(p_shared, y) + (1 - beta) * KL(p_own || p_shared)``,

    where the other one's p is a target without gradient. The divergence is a sum over the classes and
    a mean over the examples. Public code also averages over the classes, which makes it so many times
    smaller. ``train.clip`` bounds the gradient of each network by itself.

    Parameters
    ----------
    alpha, beta : float
        How much the labels count for the own and for the shared network, 0 to 1. With both 1 the
        sites train alone, and the shared network as in FedAvg.
    model : str or mapping
        The shared network: ``auto``, or name and options as in conf/model.
    """

    alpha: float
    beta: float
    model: Any

    name = "fml"

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"method.{name} must be 0 to 1, got {getattr(self, name)}")
        check_model(self.model)

    def loss(self, site: SiteRound, own: Seen, shared: Seen, labels: Tensor) -> Tensor:
        """Return the sum of both networks' losses, of which each has the gradients of its own."""
        first = self._taught(self.alpha, site.loss(own.outputs, labels), own, shared)
        return first + self._taught(self.beta, site.loss(shared.outputs, labels), shared, own)

    @staticmethod
    def _taught(share: float, of_labels: Tensor, learner: Seen, teacher: Seen) -> Tensor:
        if share == 1:
            return of_labels
        taught = divergence(learner.outputs, teacher.outputs)
        return share * of_labels + (1 - share) * taught
