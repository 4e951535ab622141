"""FedAvgM, FedAdam and FedYogi: an optimizer on the server steps along the mean change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import Options, Tensors, require


class ServerOptimizer(ActsOnMean):
    """Steps from the current state w along delta = FedAvg's mean - w (Reddi et al. 2021, alg. 2).

    delta and the moments are float32, or the tensor's own dtype if wider. A round without updates
    is no step. Every tensor of the group is updated, running statistics too. An adaptive step can
    make a running variance negative, so such layers belong into another group.
    """

    moments: ClassVar[tuple[str, ...]]  # names of the running means of each tensor

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._step = 0
        self._moments: dict[str, Tensor] = {}  # by "<moment>.<tensor>"

    def begin(self, current: Tensors, expected: Mapping[str, int]) -> None:
        """Start a round; see the base class. ValueError if the moments are of other tensors."""
        for key, moment in self._moments.items():
            name = key.partition(".")[2]
            if name not in current or current[name].shape != moment.shape:
                raise ValueError(f"the optimizer state {key!r} does not fit the group's tensors")
        super().begin(current, expected)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the moments and, as ``step``, the number of steps taken (int64, 0-d)."""
        moments = {key: moment.clone() for key, moment in self._moments.items()}
        return {"step": torch.tensor(self._step), **moments}

    def load_state_dict(self, state: Tensors) -> None:
        """Load what ``state_dict`` returned; ValueError if it is of another rule."""
        moments = {key: tensor.clone() for key, tensor in state.items() if key != "step"}
        odd = sorted(key for key in moments if key.partition(".")[0] not in self.moments)
        if "step" not in state or odd:
            raise ValueError(f"not the state of {type(self).__name__}: {odd or 'it has no step'}")
        self._step, self._moments = int(state["step"]), moments

    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        self._step += 1
        return {name: self._stepped(name, tensor) for name, tensor in mean.items()}

    def _stepped(self, name: str, mean: Tensor) -> Tensor:
        """Return the next value of one tensor."""
        wide = torch.promote_types(mean.dtype, torch.float32)
        current = self._current[name].detach().to(wide)
        delta = mean.to(wide) - current
        moments = [
            self._moments.setdefault(f"{moment}.{name}", torch.zeros_like(delta))
            for moment in self.moments
        ]
        return (current + self._change(delta, *moments)).to(mean.dtype)

    @abstractmethod
    def _change(self, delta: Tensor, *moments: Tensor) -> Tensor:
        """Update the ``moments`` of one tensor in place; return the change of the tensor."""


@dataclass(frozen=True)
class FedAvgMOptions(Options):
    """See conf/aggregator/fedavgm.yaml."""

    server_learning_rate: float
    server_momentum: float

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        rate, momentum = self.server_learning_rate, self.server_momentum
        require(0 < rate < inf, f"{where}.server_learning_rate", "greater than 0", rate)
        require(0 <= momentum < 1, f"{where}.server_momentum", "at least 0 and below 1", momentum)


class FedAvgM(ServerOptimizer):
    """m = momentum * m + delta; w + rate * m (Hsu et al. 2019, section 4.3), without Nesterov."""

    options_type: ClassVar[type[Options]] = FedAvgMOptions
    moments: ClassVar[tuple[str, ...]] = ("m",)

    def __init__(self, options: FedAvgMOptions) -> None:
        super().__init__(options)
        self.options = options

    def _change(self, delta: Tensor, *moments: Tensor) -> Tensor:
        (m,) = moments
        return self.options.server_learning_rate * m.mul_(self.options.server_momentum).add_(delta)


@dataclass(frozen=True)
class AdaptiveOptions(Options):
    """See conf/aggregator/fedadam.yaml and fedyogi.yaml."""

    eta: float
    beta_1: float
    beta_2: float
    tau: float

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        for name, value in (("eta", self.eta), ("tau", self.tau)):
            require(0 < value < inf, f"{where}.{name}", "greater than 0", value)
        for name, value in (("beta_1", self.beta_1), ("beta_2", self.beta_2)):
            require(0 <= value < 1, f"{where}.{name}", "at least 0 and below 1", value)


class Adaptive(ServerOptimizer):
    """m = beta_1 * m + (1 - beta_1) * delta; w + rate * m / (sqrt(v) + tau), v being the variant's.

    Both variants are of Reddi et al. 2021, algorithm 2, but start at v = 0 where the paper starts
    at tau**2, as Flower's do.
    """

    options_type: ClassVar[type[Options]] = AdaptiveOptions
    moments: ClassVar[tuple[str, ...]] = ("m", "v")

    def __init__(self, options: AdaptiveOptions) -> None:
        super().__init__(options)
        self.options = options

    def _change(self, delta: Tensor, *moments: Tensor) -> Tensor:
        m, v = moments
        m.lerp_(delta, 1 - self.options.beta_1)
        self._second_moment(v, delta.square())
        return self._rate() * m / (v.sqrt() + self.options.tau)

    def _rate(self) -> float:
        return self.options.eta

    @abstractmethod
    def _second_moment(self, v: Tensor, square: Tensor) -> None:
        """Update ``v`` in place; ``square`` is delta squared."""


class FedAdam(Adaptive):
    """v = beta_2 * v + (1 - beta_2) * delta**2, and a rate that corrects for the start at zero.

    rate = eta * sqrt(1 - beta_2**k) / (1 - beta_1**k) as in Kingma and Ba 2015, section 2, but with
    k one more than the steps taken, as in Flower's FedAdam, so that the two agree.
    """

    def _rate(self) -> float:
        k = self._step + 1
        correction = sqrt(1 - self.options.beta_2**k) / (1 - self.options.beta_1**k)
        return self.options.eta * correction

    def _second_moment(self, v: Tensor, square: Tensor) -> None:
        v.lerp_(square, 1 - self.options.beta_2)


class FedYogi(Adaptive):
    """v = v - (1 - beta_2) * delta**2 * sign(v - delta**2); the rate is eta."""

    def _second_moment(self, v: Tensor, square: Tensor) -> None:
        v.sub_((1 - self.options.beta_2) * square * torch.sign(v - square))
