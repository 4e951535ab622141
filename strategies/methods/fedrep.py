"""FedRep: the head stays at the site and trains first; then the body trains, and is averaged."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedstrata.support.errors import UserError
from strategies.method import Groups, Method, with_rest_in
from strategies.site_round import SiteRound


@dataclass(frozen=True)
class FedRep(Method):
    """Collins et al. 2021, algorithm 1 (arXiv:2102.07078).

    With the received body phi and the site's own head h, a site first takes steps
    ``h -= lr * gradient of the loss in h`` with phi as it is, and then steps
    ``phi -= lr * gradient of the loss in phi`` with h as it is. The server averages phi. In each
    phase the BatchNorms of the other part keep their running statistics.

    The body trains for ``train.epochs`` or ``train.steps``: 1 epoch in the paper's experiments. The
    mean over the sites is weighted by examples, as everywhere here; the paper's is a plain one.

    Parameters
    ----------
    personal : tuple of str
        The entries of the personal group: the head, perhaps with blocks before it.
    head_epochs : int
        Passes over the training examples for the head, at least 1.
    """

    personal: tuple[str, ...]
    head_epochs: int

    name = "fedrep"

    def __post_init__(self) -> None:
        if self.head_epochs < 1:
            raise UserError(
                f"method.head_epochs must be 1 or greater, got {self.head_epochs}: the head of a "
                "site is trained by nobody else"
            )

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put ``personal`` into that group and the rest into ``common``."""
        del model
        return with_rest_in(configured, "common", personal=self.personal)

    def train(self, site: SiteRound) -> None:
        """Train the head, then the body."""
        site.fit(groups=["personal"], epochs=self.head_epochs)
        if site.trainable(["common"]):  # else the whole body is frozen
            site.fit(groups=["common"])
