"""The coordinate-wise median and the trimmed mean: each number by itself, extremes left out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from strategies.aggregators.base import Options, require
from strategies.aggregators.blocks import Numbers
from strategies.aggregators.buffered import BufferedAggregator, BufferedOptions


class MeanOfMiddle(BufferedAggregator):
    """Sorts the n values of each coordinate, cuts as many at either end, averages the rest."""

    robust = True

    def _combine(self) -> dict[str, Tensor]:
        count = len(self._replies)
        cut = self._cut(count)
        if cut == 0:
            self.note = f"{type(self).__name__}: nothing to cut from {count} updates, a plain mean"

        def middle(rows: Numbers) -> Numbers:
            # numpy sorts many short rows in vector registers: 25 times as fast as torch for 100.
            ordered = np.ascontiguousarray(rows.T)
            ordered.sort(axis=1)
            kept = ordered[:, cut : count - cut]
            mean: Numbers
            if kept.shape[1] <= 2:  # the median, without the cost of many short sums
                mean = (kept[:, 0].astype(np.float64) + kept[:, -1]) / 2
            else:
                mean = kept.mean(axis=1, dtype=np.float64)
            return mean

        return self._replies.reduced(self._replies.sites, middle)

    @abstractmethod
    def _cut(self, count: int) -> int:
        """Return how many of ``count`` values are cut at either end, less than half of them."""


class Median(MeanOfMiddle):
    """The coordinate-wise median (Yin et al. 2018, definition 1), unweighted.

    For even n it is the mean of the middle two values.
    """

    def _cut(self, count: int) -> int:
        return (count - 1) // 2


@dataclass(frozen=True)
class TrimmedMeanOptions(BufferedOptions):
    """See conf/aggregator/trimmed_mean.yaml."""

    beta: float

    def check(self, where: str) -> None:
        """Raise UserError for a value out of its range."""
        super().check(where)
        require(0 <= self.beta < 0.5, f"{where}.beta", "at least 0 and below 0.5", self.beta)


class TrimmedMean(MeanOfMiddle):
    """The coordinate-wise trimmed mean (Yin et al. 2018, definition 2).

    Cuts floor(beta * n) of n values at either end; beta is below one half, so some are left.
    Unweighted.
    """

    options_type: ClassVar[type[Options]] = TrimmedMeanOptions

    def __init__(self, options: TrimmedMeanOptions) -> None:
        super().__init__(options)
        self.options = options

    def _cut(self, count: int) -> int:
        return int(self.options.beta * count)
