"""The total of each class over the sites of a round, from which a site can take its own part."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import Options, RoundFacts, Tensors
from strategies.aggregators.class_means import COUNTS, SUMS, means_of

MADE, MOST = "extras.made", "extras.most"


class ClassTotals(ActsOnMean):
    """Sums and counts over all examples of the sites that answered; what came before is dropped.

    Besides, `MADE` is the round that they are of, and `MOST` the most examples that a site counted
    as. Where `strategy.bounds.share` has a site count as fewer than it has, it is that site: a
    share is at least a half.
    """

    learns: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(Options())
        self._number = 0

    def inform(self, facts: RoundFacts) -> None:
        """Note the number of the round."""
        self._number = facts.number

    def judged(self, after: Tensors) -> Tensors:
        """Return the means of the classes: totals grow with the examples."""
        return {SUMS: means_of(after[SUMS], after[COUNTS])[0]}

    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        examples = self._answered.values()
        total = float(sum(examples))
        return {
            SUMS: mean[SUMS] * total,
            COUNTS: mean[COUNTS] * total,
            MADE: torch.full_like(mean[MADE], self._number),
            MOST: torch.full_like(mean[MOST], max(examples)),
        }
