"""How well scores rank the examples in which a label holds: AUROC and average precision, weighted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Examples by rising score, those of equal scores together.

    Counts are whole numbers or halves in float64, and so they are exact: a perfect ranking has
    exactly 1.

    Parameters
    ----------
    order : NDArray[np.int64]
        Rows of the examples by rising score, shape ``(n,)``.
    holds : NDArray[np.bool_]
        Whether the label holds, in that order.
    first, last : NDArray[np.int64]
        Of each, in that order: the place of the first and of the last with the same score.
    """

    order: NDArray[np.int64]
    holds: NDArray[np.bool_]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, scores: NDArray[np.float32], holds: NDArray[np.bool_]) -> Ranking:
        """Return the ranking of ``scores``, shape ``(n,)``."""
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        first = np.searchsorted(ordered, ordered, side="left")
        last = np.searchsorted(ordered, ordered, side="right") - 1
        return cls(order, holds[order], first, last)

    def has_both(self) -> bool:
        """Return whether there are examples in which the label holds, and others."""
        return bool(self.holds.any() and not self.holds.all())

    def auroc(self, weights: Numbers) -> Numbers:
        """Return the area under the ROC curve for each row of weights.

        It is the Mann-Whitney statistic over the product of the two counts (Hanley and McNeil
        1982); equal scores count a half. NaN where one of the two has no weight.

        Parameters
        ----------
        weights : NDArray[np.float64]
            How often each example counts, shape ``(b, n)``.

        Returns
        -------
        NDArray[np.float64]
            Shape ``(b,)``.
        """
        ordered = weights[:, self.order]
        no = np.where(self.holds, 0.0, ordered)
        up_to = no.cumsum(axis=1)
        places = np.flatnonzero(self.holds)
        yes, first, last = ordered[:, places], self.first[places], self.last[places]
        wins = (yes * (up_to[:, first] - no[:, first] + up_to[:, last])).sum(axis=1) / 2
        pairs = yes.sum(axis=1) * up_to[:, -1]
        areas: Numbers = np.divide(wins, pairs, where=pairs > 0, out=np.full(len(wins), np.nan))
        return areas

    def average_precision(self) -> float:
        """Return the mean precision at each step of recall, all examples alike; NaN without any."""
        holds = self.holds[::-1]
        ends = np.flatnonzero(np.append(self.first[::-1][:-1] != self.first[::-1][1:], True))
        found = holds.cumsum()[ends]
        if not len(found) or not found[-1]:
            return float("nan")
        steps = np.diff(found, prepend=0) / found[-1]
        return float((steps * found / (ends + 1)).sum())
