"""The base of aggregators that take FedAvg's mean, and make the next state of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from strategies.aggregators.base import Aggregator, Options, Tensors
from strategies.aggregators.fedavg import FedAvg


class ActsOnMean(Aggregator):
    """FedAvg's mean, and a step from it; a round without updates is no step."""

    takes_sums: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._mean = FedAvg(Options())

    def begin(self, current: Tensors, expected: Mapping[str, int]) -> None:
        """Start a round; see the base class."""
        super().begin(current, expected)
        self._mean.begin(current, expected)

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        self._mean.add(site, update, examples)

    def _fold_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        self._mean.add_sum(sites, sums)

    def _combine(self) -> dict[str, Tensor] | None:
        mean = self._mean.finish()
        return None if mean is None else self._after(mean)

    @abstractmethod
    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the next state; ``mean`` may be changed."""
