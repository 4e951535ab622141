"""How the server's control variate changes in SCAFFOLD: by the share of the sites that answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from strategies.aggregators.base import Aggregator, Options, RoundFacts, Tensors
from strategies.aggregators.fedavg import FedAvg


class ControlVariates(Aggregator):
    """``c + share * (mean - c)``, the mean being FedAvg's (Karimireddy et al. 2020, algorithm 1).

    ``share`` is that of the examples of the answering sites in those of all sites of the scope.
    """

    takes_sums: ClassVar[bool] = True
    learns: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(Options())
        self._mean = FedAvg(Options())
        self._all = 0

    def inform(self, facts: RoundFacts) -> None:
        """Note the examples of all sites."""
        self._all = facts.examples

    def begin(self, current: Tensors, expected: Mapping[str, int]) -> None:
        """Start a round; see the base class."""
        super().begin(current, expected)
        self._mean.begin(current, expected)

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        self._mean.add(site, update, examples)

    def _fold_sum(self, sites: Mapping[str, int], sums: Tensors) -> None:
        self._mean.add_sum(sites, sums)

    def _combine(self) -> dict[str, Tensor] | None:
        share = min(sum(self._answered.values()) / max(self._all, 1), 1.0)
        mean = self._mean.finish()
        if mean is None:
            return None
        current = self._current
        return {name: current[name] + share * (each - current[name]) for name, each in mean.items()}
