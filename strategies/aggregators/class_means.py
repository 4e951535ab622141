"""The mean of each class over the sites: FedAvg's mean of their sums and counts."""

from __future__ import annotations

from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import Options

SUMS, COUNTS = "extras.sums", "extras.counts"


class ClassMeans(ActsOnMean):
    """Sums and counts of all sites that answered; a class that none of them has keeps its own.

    Its mean is the ratio of both, so it is that of all examples of these sites.
    """

    def __init__(self) -> None:
        super().__init__(Options())

    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        absent, before = mean[COUNTS] <= 0, self._current[COUNTS] > 0
        kept = int((absent & before).sum())
        if kept:
            self.note = f"no site of the round has {kept} of the {len(before)} classes: they stay"
        return {
            SUMS: mean[SUMS].where(~absent[:, None], self._current[SUMS]),
            COUNTS: mean[COUNTS].where(~absent, self._current[COUNTS]),
        }
