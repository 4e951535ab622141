"""Per-FedAvg: the layers are trained to be good after one more step on a site's own data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedstrata.support.errors import UserError
from models.freezing import trained_norms
from models.training.losses import Extended
from strategies.method import Method, above_zero, at_least
from strategies.site_round import SiteRound

FIRST, HESSIAN_FREE = "first", "hessian_free"
PARTS = {FIRST: 2, HESSIAN_FREE: 3}  # batches in a step
Parameters = Mapping[str, Tensor]


class Inputs(nn.Module):
    """Gives the inputs as they are: the loss runs ``network``, several times in one step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``inputs``."""
        return inputs


@dataclass(frozen=True)
class PerFedAvg(Method):
    """Fallah et al. 2020, algorithm 1 with its approximations FO and HF (arXiv:2002.07948).

    What is minimized is ``F(w) = f(w - alpha * grad f(w))``, the loss of a site after one step. A
    step takes batches D, D' and, for HF, D'' (eq. 6 and 7, section 5)::

        v = grad f(w - alpha * grad f(w, D), D')
        FO: w -= beta * v
        HF: w -= beta * (v - alpha * d),
            d = (grad f(w + delta * v, D'') - grad f(w - delta * v, D'')) / (2 * delta)

    beta is ``train.optimizer.lr`` with its schedule; momentum, weight decay and clipping are of this
    outer step. Each of the batches has ``train.batch_size`` examples, so an epoch has half as many
    steps as FedAvg's (a third). Where so many are not left, all of them are the same few examples.
    In micro-batches, for want of memory, w - alpha * grad f(w, D) is of each micro-batch.

    A site predicts with w after one step of size alpha on all its training examples, in their order.
    There, too, BatchNorm normalizes by batch, for w was trained so: by the averaged statistics the
    gradients would be those of another network, and the step does harm (UCI HAR, 30 sites, 15 rounds,
    alpha 0.1: 36 % instead of 91 %). Dropout is off. The paper's experiments take one batch for this
    step; then each evaluation would be of another model.
    Public code has the same number for alpha and beta; here they are two.

    Parameters
    ----------
    alpha : float
        Size of the inner step; 0 trains and predicts as method ``layers`` does.
    second_order : str
        ``first`` leaves the second-order term out (FO); ``hessian_free`` takes it as a difference of
        gradients (HF), for twice the arithmetic.
    delta : float
        How far apart the two gradients of that difference are, in units of v.
    """

    alpha: float
    second_order: str
    delta: float

    name = "per_fedavg"
    own_networks = True
    measures_memory = False

    def __post_init__(self) -> None:
        at_least(0, self, "alpha")
        if self.second_order not in PARTS:
            raise UserError(
                f"method.second_order must be {' or '.join(PARTS)}, got {self.second_order!r}"
            )
        above_zero(self, "delta")

    # -- training --------------------------------------------------------------------------------

    def train(self, site: SiteRound) -> None:
        """Take the steps of FO or HF over the parameters of all trained groups."""
        if self.alpha == 0:  # with whole batches, so that the bits are those of `layers`
            return super().train(site)
        config = site.settings.config
        size = PARTS[self.second_order] * config.batch_size
        trained = site.trainable()

        def loss(inputs: Tensor, labels: Tensor) -> Tensor:
            value, gradient = self._step(site, trained, inputs, labels)
            # Of that value, and with that gradient.
            slopes = [torch.sum((p - p.detach()) * gradient[n]) for n, p in trained.items()]
            return value + torch.stack(slopes).sum()

        site.fit(
            network=Inputs(site.tail),
            trained=trained,
            settings=replace(site.settings, config=replace(config, batch_size=size)),
            loss=Extended(site.loss, loss),
        )

    def _step(
        self, site: SiteRound, w: Parameters, inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss after the inner step, and the direction of the outer one."""
        count = PARTS[self.second_order]
        rows = np.array_split(np.arange(len(labels)), count)
        if len(labels) < 2 * count:  # BatchNorm has no variance of one example
            rows = [np.arange(len(labels))] * count
        batches = [(inputs[each], labels[each]) for each in rows]

        def gradient(at: Parameters, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Parameters]:
            points = {name: tensor.detach().requires_grad_() for name, tensor in at.items()}
            value = site.loss(functional_call(site.tail, points, (batch[0],)), batch[1])
            found = torch.autograd.grad(value, list(points.values()), materialize_grads=True)
            return value.detach(), dict(zip(points, found, strict=True))

        _, inner = gradient(w, batches[0])
        value, v = gradient(moved(w, inner, -self.alpha), batches[1])
        if self.second_order == FIRST:
            return value, dict(v)
        (_, ahead), (_, behind) = (
            gradient(moved(w, v, sign * self.delta), batches[2]) for sign in (1, -1)
        )
        return value, {
            name: each - self.alpha * (ahead[name] - behind[name]) / (2 * self.delta)
            for name, each in v.items()
        }

    # -- prediction ------------------------------------------------------------------------------

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return a copy of the tail after the inner step."""
        if self.alpha == 0:
            return site.tail
        adapted = copy.deepcopy(site.tail)
        own = adapted.state_dict()
        for name, tensor in self._adapted(site).items():
            own[name].copy_(tensor)
        return adapted

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor]:
        """Return the parameters after the inner step; the network alone predicts with them."""
        return self._adapted(site) if self.alpha else {}

    def _adapted(self, site: SiteRound) -> dict[str, Tensor]:
        """Return the trained parameters after a step on all training examples of the site."""
        w = site.trainable()
        network = copy.deepcopy(site.tail).eval()
        for path in trained_norms(network, site.partition):
            network.get_submodule(path).train()
        points = {n: p.requires_grad_() for n, p in network.named_parameters() if n in w}
        mass: Callable[[Tensor], float] = getattr(site.loss, "mass", len)
        gradient, total = {name: torch.zeros_like(p) for name, p in points.items()}, 0.0
        size = max(site.settings.config.batch_size // site.settings.micro_batches, 1)
        for rows in np.array_split(np.arange(len(site.train)), max(len(site.train) // size, 1)):
            inputs = site.train.inputs.batch(rows).to(site.device)
            labels = torch.from_numpy(site.train.labels[rows])
            with torch.autocast(site.device.type, torch.bfloat16, enabled=site.settings.autocast):
                value = site.loss(network(inputs), labels.to(site.device))
            found = torch.autograd.grad(value, list(points.values()), materialize_grads=True)
            share = mass(labels)
            total += share
            for name, each in zip(points, found, strict=True):
                gradient[name] += share * each
        return moved(w, gradient, -self.alpha / max(total, 1.0))

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Train ``groups`` by the plain loss, as further inner steps; the predictor takes one more."""
        site.fit(groups=groups, epochs=epochs)


def moved(point: Parameters, direction: Parameters, by: float) -> dict[str, Tensor]:
    """Return ``point + by * direction``, of no graph."""
    return {name: each.detach() + by * direction[name] for name, each in point.items()}
