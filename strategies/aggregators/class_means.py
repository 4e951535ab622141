"""The mean of each class over the sites: FedAvg's mean of their sums and counts."""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import Options

PROTOTYPES = "prototypes"
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


def means_of(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of each class ``(classes, width)``, and which have one, bool ``(classes,)``.

    Means of the others are 0. A class whose mean is not finite has none.
    """
    means = sums / counts.clamp(min=torch.finfo(counts.dtype).tiny)[:, None]
    there = (counts > 0) & means.isfinite().all(1)
    return torch.where(there[:, None], means, torch.zeros_like(means)), there
