"""The coordinate-wise median and the trimmed mean: each number by itself, extremes left out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from strategies.aggregators.base import Options, require
from strategies.aggregators.held import HoldingAggregator, reduce_blockwise


class MeanOfMiddle(HoldingAggregator):
    """Sorts the n values of each coordinate, cuts as many at either end, averages the rest."""

    def _combine(self) -> dict[str, Tensor]:
        count = len(self._updates)
        cut = self._cut(count)
        if cut == 0:
            self.note = f"{type(self).__name__}: nothing to cut from {count} updates: a plain mean"

        def middle(values: Tensor) -> Tensor:
            ordered = values.t().contiguous().sort(dim=1).values
            return ordered[:, cut : count - cut].double().mean(dim=1)

        return reduce_blockwise(self._by_site(), middle)

    @abstractmethod
    def _cut(self, count: int) -> int:
        """Return how many of ``count`` values are cut at either end, less than half of them."""


class Median(MeanOfMiddle):
    """The coordinate-wise median (Yin et al. 2018, definition 1): for even n the middle two's mean.

    Holds every reply; unweighted.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def _cut(self, count: int) -> int:
        return (count - 1) // 2


@dataclass(frozen=True)
class TrimmedMeanOptions(Options):
    """See conf/aggregator/trimmed_mean.yaml."""

    beta: float

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        require(0 <= self.beta < 0.5, f"{where}.beta", "at least 0 and below 0.5", self.beta)


class TrimmedMean(MeanOfMiddle):
    """The coordinate-wise trimmed mean (Yin et al. 2018, definition 2).

    Cuts floor(beta * n) of n values at either end; as beta is below one half, some are left.
    Holds every reply; unweighted.
    """

    def __init__(self, options: TrimmedMeanOptions) -> None:
        super().__init__()
        self.options = options

    def _cut(self, count: int) -> int:
        return int(self.options.beta * count)
