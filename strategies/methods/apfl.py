"""APFL: the layers as FedAvg trains them, mixed with a personal model by a share that is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedstrata.protocol.plan import TrainConfig
from fedstrata.support.errors import UserError
from models.freezing import set_train_mode
from models.training.losses import Extended
from strategies.method import Groups, Method, with_rest_in
from strategies.site_round import SiteRound

OWN, ALPHA = "own", "alpha"  # the personal model and its share, in the site's memory


class Mixture(nn.Module):
    """Runs ``own`` with ``alpha * v + (1 - alpha) * w`` for its parameters v; w gets no gradient.

    Running statistics are those of ``own``: they are of the mixture.
    """

    def __init__(self, own: nn.Module, w: Mapping[str, Tensor], alpha: Tensor) -> None:
        super().__init__()
        self.own, self.w, self.alpha = own, w, alpha

    def mixed(self) -> dict[str, Tensor]:
        """Return the mixed parameters by name."""
        v = dict(self.own.named_parameters())
        # Exactly w at 0, v at 1, and both where they are equal.
        return {name: torch.lerp(w.detach(), v[name], self.alpha) for name, w in self.w.items()}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        outputs: Tensor = functional_call(self.own, self.mixed(), (inputs,))
        return outputs


class Both(nn.Module):
    """Gives the outputs of w and of the mixture."""

    def __init__(self, shared: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        self.shared, self.mixture = shared, mixture

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return both outputs."""
        return self.shared(inputs), self.mixture(inputs)


@dataclass(frozen=True)
class APFL(Method):
    """Deng, Kamani and Mahdavi 2020, "Adaptive Personalized Federated Learning" (arXiv:2003.13461).

    Each site trains the received w as in FedAvg. Besides it has a personal v, and predicts with the
    parameters ``m = alpha * v + (1 - alpha) * w``. A step is, on one batch,
    ``w -= lr * grad f(w)``, ``v -= lr * alpha * grad f(m)``, ``alpha -= lr * <v - w, grad f(m)>``
    (algorithm 1, alpha as in its adaptive form), with alpha kept within 0 and 1. v and alpha never
    leave.

    The authors' code mixes outputs instead of parameters, takes one step of alpha a round, and adds
    0.02 * alpha to its gradient. Here alpha follows its gradient in every step, without momentum
    and weight decay.

    Parameters
    ----------
    alpha : float
        The share of v in the beginning, 0 to 1.
    adaptive : bool
        Whether alpha is learned. Fixed at 0 this is FedAvg; at 1 each site predicts as trained alone.
    """

    alpha: float
    adaptive: bool

    name = "apfl"
    own_networks = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"method.alpha must be 0 to 1, got {self.alpha}")
        if self.adaptive and not self.alpha:
            raise UserError(
                "method.alpha=0: the personal model would never get a gradient, and alpha would stay at "
                "0; write a number above 0, or method.adaptive=false for FedAvg"
            )

    @property
    def _mixes(self) -> bool:
        return self.adaptive or self.alpha > 0

    def groups(self, configured: Groups, model: nn.Module) -> Groups:
        """Put all that is not frozen into ``common``."""
        del model
        return with_rest_in(configured, "common")

    def check_training(self, train: TrainConfig) -> tuple[str, ...]:
        """Say what clipping means for two models in one step."""
        if train.clip is None or not self._mixes:
            return ()
        return (
            f"method=apfl: train.clip={train.clip:g} bounds the gradient of both models taken "
            "together; train.clip=null trains w exactly as FedAvg does",
        )

    def train(self, site: SiteRound) -> None:
        """Train w, v and alpha in the same steps."""
        if not self._mixes:
            return super().train(site)
        w = site.trainable()
        mixture = self._mixture(site, w)
        set_train_mode(mixture.own, site.partition)
        alpha = mixture.alpha.requires_grad_(self.adaptive)

        def loss(given: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
            return site.loss(given[0], labels) + site.loss(given[1], labels)

        def learn_alpha() -> None:
            if alpha.grad is not None:
                with torch.no_grad():
                    alpha.sub_(site.settings.lr * alpha.grad).clamp_(0, 1)
                alpha.grad = None

        site.fit(
            network=Both(site.tail, mixture),
            trained={**w, **_named(mixture)},
            loss=Extended(site.loss, loss),
            after_step=learn_alpha,
        )
        self._remember(site, mixture)
        return None

    def _mixture(self, site: SiteRound, w: Mapping[str, Tensor]) -> Mixture:
        start = torch.tensor(self.alpha, device=site.device)
        return Mixture(site.second(OWN), w, site.kept(ALPHA).get("value", start))

    def _remember(self, site: SiteRound, mixture: Mixture) -> None:
        site.remember(OWN, mixture.own)
        site.remember(ALPHA, {"value": mixture.alpha})

    def _mixed(self, site: SiteRound) -> nn.Module:
        """Return a network with the mixed parameters."""
        mixture = self._mixture(site, site.trainable())
        own = dict(mixture.own.named_parameters())
        with torch.no_grad():
            for name, tensor in mixture.mixed().items():
                own[name].copy_(tensor)
        return mixture.own

    def predictor(self, site: SiteRound) -> nn.Module:
        """Return the mixture."""
        return self._mixed(site) if self._mixes else site.tail

    def deployed(self, site: SiteRound) -> Mapping[str, Tensor]:
        """Return the tensors of the mixture; the network alone predicts with them."""
        return self._mixed(site).state_dict() if self._mixes else {}

    def fine_tune(self, site: SiteRound, groups: Sequence[str], epochs: int) -> None:
        """Fine-tune v within the mixture: all of it, for it is no part of any group."""
        if not self._mixes:
            return super().fine_tune(site, groups, epochs)
        mixture = self._mixture(site, site.trainable())
        set_train_mode(mixture.own, site.partition)
        site.fit(network=mixture, trained=_named(mixture), epochs=epochs)
        self._remember(site, mixture)
        return None


def _named(mixture: Mixture) -> dict[str, nn.Parameter]:
    """Return the parameters v under names of their own, so that their momentum is kept."""
    v = dict(mixture.own.named_parameters())
    return {f"{OWN}.{name}": v[name] for name in mixture.w}
