"""MOON: features are drawn towards those of the received model, and away from the site's last ones."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.freezing import split_before
from models.training.losses import Extended
from strategies.method import Method, above_zero, at_least
from strategies.site_round import LAST_LAYER, SiteRound

LAST = "last"  # the body after the site's last training, in the site's memory


class Compared(nn.Module):
    """Gives the outputs, and the features of three bodies: the trained, the received, the last one."""

    def __init__(self, site: SiteRound, received: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.out = site.body, site.out
        self.received, self.last = received.eval(), last.eval()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return outputs ``(b, outputs)``, and features ``(b, d)`` three times."""
        features = self.body(inputs)
        with torch.no_grad():
            near, far = self.received(inputs), self.last(inputs)
        return self.out(features), features, near, far


@dataclass(frozen=True)
class Moon(Method):
    """Li, He and Song 2021, "Model-Contrastive Federated Learning" (arXiv:2103.16257).

    With features z, z_glob of the model as received, and z_prev of the site's model after the last
    round in which it trained, the loss has ``mu * l_con`` besides, with
    ``l_con = -log(e(z, z_glob) / (e(z, z_glob) + e(z, z_prev)))`` and
    ``e(a, b) = exp(cos(a, b) / temperature)``.

    Features are what enters ``head.out``: the paper's projection head is ``model.head``, such as
    ``[256]``. The groups are as configured. The first time that a site trains it has no last model,
    and no such term: the paper's code takes the start weights there. The two fixed bodies are in
    eval mode. The last model is kept at the site, and a step costs two forward passes more. Where
    no layer before ``head.out`` is trained, the term changes nothing.

    Parameters
    ----------
    mu : float
        Weight of the term; 0 trains as method ``layers`` does.
    temperature : float
        The paper's tau, above 0.
    """

    mu: float
    temperature: float

    name = "moon"
    own_networks = True

    def __post_init__(self) -> None:
        at_least(0, self, "mu")
        above_zero(self, "temperature")

    def train(self, site: SiteRound) -> None:
        """Train with the term, and keep the body for the next round."""
        if self.mu == 0:
            return super().train(site)
        if site.kept(LAST):
            last, _ = split_before(site.second(LAST), LAST_LAYER)
            self._fit(site, Compared(site, copy.deepcopy(site.body), last))
        else:
            super().train(site)
        site.remember(LAST, site.body)
        return None

    def _fit(self, site: SiteRound, network: Compared) -> None:
        def loss(given: tuple[Tensor, Tensor, Tensor, Tensor], labels: Tensor) -> Tensor:
            outputs, *features = given
            return site.loss(outputs, labels) + self.mu * self._contrast(*features)

        site.fit(network=network, trained=site.trainable(), loss=Extended(site.loss, loss))

    def _contrast(self, features: Tensor, near: Tensor, far: Tensor) -> Tensor:
        """Return the mean of l_con: a cross-entropy of two, of which the first is right."""
        of_each = [functional.cosine_similarity(features.float(), x.float()) for x in (near, far)]
        logits = torch.stack(of_each, dim=1) / self.temperature
        return functional.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.long))
