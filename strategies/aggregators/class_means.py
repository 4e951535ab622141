"""The mean of each class over the sites: FedAvg's mean of their sums and counts."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from strategies.aggregators.acts_on_mean import ActsOnMean
from strategies.aggregators.base import CLASS_MEANS, Options, RoundFacts, Tensors
from strategies.aggregators.class_points import (
    COUNTS,
    PROTOTYPES,
    SUMS,
    Points,
    limited,
    means_of,
    points_of,
)
from strategies.config import UNBOUNDED

__all__ = ["COUNTS", "PROTOTYPES", "SUMS", "ClassMeans", "means_of"]


class ClassMeans(ActsOnMean):
    """Sums and counts of all sites that answered; a class that none of them has keeps its own.

    Its mean is the ratio of both, so it is that of all examples of these sites. The influence of one
    site is limited by ``strategy.teacher``, as far as each sends its own update: they are kept besides.
    Where nobody is limited no bit changes.
    """

    learns: ClassVar[bool] = True
    limits: ClassVar[str] = CLASS_MEANS

    def __init__(self) -> None:
        super().__init__(Options())
        self._bounds = UNBOUNDED
        self._sent: dict[str, Tensors] = {}
        self._bytes = 0

    def inform(self, facts: RoundFacts) -> None:
        """Take what one site may do."""
        self._bounds = facts.bounds

    def judged(self, after: Tensors) -> Tensors:
        """Return the means of the classes."""
        return {SUMS: means_of(after[SUMS], after[COUNTS])[0]}

    def _reset(self) -> None:
        super()._reset()
        self._sent, self._bytes = {}, 0

    def _fold(self, site: str, update: Tensors, examples: int) -> None:
        # Of a site that is honest this changes nothing.
        update = {**update, COUNTS: update[COUNTS].clamp(0, 1)}
        super()._fold(site, update, examples)
        if self._bounds.influence == "none":
            return
        self._bytes += sum(tensor.nbytes for tensor in update.values())
        self._sent[site] = update
        if self._bytes > self._bounds.memory_mb * 1e6:
            self._sent = {}

    def _after(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        mean, notes = self._limited(mean)
        absent, before = mean[COUNTS] <= 0, self._current[COUNTS] > 0
        kept = int((absent & before).sum())
        if kept:
            notes.append(f"no site of the round has {kept} of the {len(before)} classes: they stay")
        self.note = "; ".join(notes) or None
        return {
            SUMS: mean[SUMS].where(~absent[:, None], self._current[SUMS]),
            COUNTS: mean[COUNTS].where(~absent, self._current[COUNTS]),
        }

    def _limited(self, mean: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return the mean with the influence of one site limited, and what was done."""
        if self._bounds.influence == "none":
            return mean, []
        if len(self._sent) < len(self._answered):
            # Of a sum over several sites none can be limited; the log says so when a run begins.
            most = self._bounds.memory_mb
            full = self._bytes > most * 1e6
            why = (
                f"no site is limited: they sent more than {most:g} MB (strategy.teacher.memory_mb)"
            )
            return mean, [why] if full else []
        of_each = {
            site: _points(sent, self._answered[site]) for site, sent in sorted(self._sent.items())
        }
        points, notes = limited(of_each, self._bounds)
        if self._bounds.influence == "clip" and not notes:
            return mean, []
        total = sum(self._answered.values())
        sums, counts = (
            torch.zeros_like(mean[name], dtype=torch.float64) for name in (SUMS, COUNTS)
        )
        sums.index_add_(0, points.classes, points.means * points.weights[:, None] / total)
        counts.index_add_(0, points.classes, points.weights / total)
        return {SUMS: sums.to(mean[SUMS].dtype), COUNTS: counts.to(mean[COUNTS].dtype)}, notes


def _points(sent: Tensors, examples: int) -> Points:
    """Return a site's class means, weighted by its examples that have the class or label."""
    points = points_of(sent)
    return points._replace(weights=sent[COUNTS].double()[points.classes] * examples)
