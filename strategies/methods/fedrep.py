"""FedRep: the head stays at the site and trains first; then the body trains, and is averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedstrata.support.errors import UserError
from models.freezing import RANDOM, sequential_modules
from models.training.data import ArrayInputs, Split
from models.training.metrics import logits_of
from strategies.method import Groups, Method, with_rest_in
from strategies.site_round import SiteRound


@dataclass(frozen=True)
class FedRep(Method):
    """Collins et al. 2021, algorithm 1 (arXiv:2102.07078).

    With the received body phi and the site's own head h, a site first takes steps
    ``h -= lr * gradient of the loss in h`` with phi as it is, and then steps
    ``phi -= lr * gradient of the loss in phi`` with h as it is. The server averages phi. In each
    phase the BatchNorms of the other part keep their running statistics.

    While the head trains, the body gives the same features in every pass. So it runs once, and the
    passes go over its features, where they are vectors and nothing random is before them.

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
    own_networks = True

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
        self._fit_head(site)
        if site.trainable(["common"]):  # else the whole body is frozen
            site.fit(groups=["common"])

    def _fit_head(self, site: SiteRound) -> None:
        personal = set(site.partition.names("personal"))
        first = next(
            (
                path
                for path, step in sequential_modules(site.tail)
                if personal.intersection(f"{path}.{name}" for name in step.state_dict())
            ),
            None,
        )
        features = None if first is None else self._features(site, site.cut(first)[0])
        if first is None or features is None:
            site.fit(groups=["personal"], epochs=self.head_epochs)
            return
        site.fit(
            network=site.cut(first)[1],
            trained=site.trainable(["personal"]),
            split=Split(ArrayInputs(features.numpy()), site.train.labels),
            epochs=self.head_epochs,
        )

    def _features(self, site: SiteRound, body: nn.Sequential) -> Tensor | None:
        """Return what ``body`` gives for the training examples, float32 ``(n, d)``, if that will do."""
        drawn = any(isinstance(module, RANDOM) for module in body.modules())
        config = site.settings.config
        if not body.state_dict() or self.head_epochs < 2 or drawn or config.augment != "none":
            return None
        one = body.eval()(site.train.inputs.batch(np.arange(1)).to(site.device))
        if one.dim() != 2:
            return None
        with torch.no_grad():
            return logits_of(
                body,
                site.train.inputs,
                batch_size=config.batch_size,
                device=site.device,
                autocast=site.settings.autocast,
            )
