"""FedCP: a small network decides, for each example, which features the personal head gets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.losses import Extended
from strategies.method import Groups, Made, Method, at_least, with_rest_in
from strategies.site_round import LAST_LAYER, SiteRound

BANDWIDTHS = (10.0, 15.0, 20.0, 50.0)  # squared widths of the kernels, those of the authors' code


class Policy(nn.Module):
    """The conditional policy network, and the personal head that starts as the global one."""

    def __init__(self, last: nn.Linear) -> None:
        super().__init__()
        width = 2 * last.in_features
        self.policy = nn.Sequential(
            nn.Linear(last.in_features, width), nn.LayerNorm(width), nn.ReLU()
        )
        self.head = copy.deepcopy(last)


class Gated(nn.Module):
    """``head(r * z) + out((1 - r) * z)`` with r from the policy; the context is fixed when made."""

    def __init__(self, body: nn.Module, out: nn.Module, extras: nn.Module) -> None:
        super().__init__()
        self.body, self.out = body, out
        self.policy, self.head = extras.get_submodule("policy"), extras.get_submodule("head")
        # Of all classes together: what the personal head looks at.
        weight = extras.get_parameter("head.weight").detach()
        self.context = functional.normalize(weight.sum(0), dim=0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        return self.outputs(self.body(inputs))

    def outputs(self, features: Tensor) -> Tensor:
        """Return the outputs of features ``(b, d)``."""
        own, common = self.policy(features * self.context).chunk(2, dim=1)
        r = torch.sigmoid(own - common)  # the softmax of two
        outputs: Tensor = self.head(r * features) + self.out((1 - r) * features)
        return outputs


class WithReceived(nn.Module):
    """Gives the outputs, and the features of the trained and of the received body."""

    def __init__(self, site: SiteRound, gated: Gated | None) -> None:
        super().__init__()
        self.body, self.out, self.gated = site.body, site.out, gated
        self.received = copy.deepcopy(site.body).eval()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs ``(b, outputs)`` and features ``(b, d)`` twice."""
        features = self.body(inputs)
        with torch.no_grad():
            received = self.received(inputs)
        outputs = self.out(features) if self.gated is None else self.gated.outputs(features)
        return outputs, features, received


@dataclass(frozen=True)
class FedCP(Method):
    """Zhang et al. 2023, "FedCP: Separating Feature Information ..." (arXiv:2307.01217).

    ``outputs = head(r * z) + head_g((1 - r) * z)``: z are the features that enter ``head.out``, which
    is the global head head_g; head is personal. (r, 1 - r) is the softmax over two outputs of
    the policy for each feature. The policy, linear with layer normalization and ReLU, takes
    ``z * v / ||v||``, where v is the sum over the classes of the personal head's weights at the
    round's start. The loss has ``weight * MMD^2(z, z of the received body)`` besides.

    Body and policy are common; the global head is of the task, for its outputs are the task's.
    The paper freezes the global head at the sites, and its code uploads the mean of it and the
    personal one, which tells the server the personal head. Here the global head is trained, and
    nothing of the personal one leaves. The code also draws Gumbel noise for r, even in evaluation;
    here r is the softmax itself. The received body is in eval mode. Where memory is too short for a
    batch, the discrepancy is the mean of those of its parts. On HAR with momentum 0.9 (one seed, 10
    rounds) the paper's weight of 5 gave 85.81 %, 1 gave 92.29, 0 gave 93.29, and FedPer had 92.58;
    docs/methods.md has the same without momentum.

    Parameters
    ----------
    weight : float
        The paper's lambda; 0 leaves the features free.
    policy : bool
        Whether there are policy and personal head. Without, and with ``weight`` 0, this is FedAvg.
    """

    weight: float
    policy: bool

    name = "fedcp"
    own_networks = True

    def __post_init__(self) -> None:
        at_least(0, self, "weight")

    def extras(self, made: Made) -> nn.Module | None:
        """Return policy and personal head."""
        last = made.network.get_submodule(LAST_LAYER)
        assert isinstance(last, nn.Linear)
        return Policy(last) if self.policy else None

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put the body and the policy into ``common``, the global head into ``task``."""
        del model
        own = {"common": ["extras.policy"], "personal": ["extras.head"]} if self.policy else {}
        return with_rest_in(configured, "common", task=[LAST_LAYER], **own)

    def train(self, site: SiteRound) -> None:
        """Train body, policy and both heads."""
        self._fit(site)

    def _fit(
        self, site: SiteRound, groups: Sequence[str] | None = None, epochs: int | None = None
    ) -> None:
        if not self.policy and not self.weight:
            site.fit(groups=groups, epochs=epochs)
            return
        gated = self._gated(site) if self.policy else None
        trained = site.trainable(groups)
        if not self.weight:
            site.fit(network=gated, trained=trained, epochs=epochs)
            return

        def loss(given: tuple[Tensor, Tensor, Tensor], labels: Tensor) -> Tensor:
            outputs, features, received = given
            return site.loss(outputs, labels) + self.weight * mmd(features, received)

        network = WithReceived(site, gated)
        site.fit(network=network, trained=trained, epochs=epochs, loss=Extended(site.loss, loss))

    def _gated(self, site: SiteRound) -> Gated:
        return Gated(site.body, site.out, site.extras)

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return the two heads with their policy."""
        return self._gated(site) if self.policy else site.tail

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor] | None:
        """Return None for two heads; with one the network alone predicts."""
        del site
        return None if self.policy else {}

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune with all parts in their places; the personal head is in group ``personal``."""
        self._fit(site, groups, epochs)


def mmd(one: Tensor, other: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples ``(b, d)``, a scalar.

    The kernel is the sum of ``exp(-||x - y||^2 / (2 * s))`` over the s of ``BANDWIDTHS``; pairs of
    an example with itself count.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, None] - b[None]).square().sum(2)
        return torch.stack([torch.exp(-squared / (2 * s)) for s in BANDWIDTHS]).sum(0).mean()

    one, other = one.float(), other.float()
    return kernel(one, one) + kernel(other, other) - 2 * kernel(one, other)
