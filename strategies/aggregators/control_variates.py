"""How the server's control variate changes in SCAFFOLD: by the share of the sites that answered."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import Options, RoundFacts


class ControlVariates(ActsOnMean):
    """``c + share * (mean - c)``, the mean being FedAvg's (Karimireddy et al. 2020, algorithm 1).

    ``share`` is that of the examples of the answering sites in those of all sites of the scope.
    """

    learns: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(Options())
        self._all = 0

    def inform(self, facts: RoundFacts) -> None:
        """Note the examples of all sites."""
        self._all = facts.examples

    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        share = min(sum(self._answered.values()) / max(self._all, 1), 1.0)
        current = self._current
        return {name: current[name] + share * (each - current[name]) for name, each in mean.items()}
