"""How good outputs are for labels of which several may hold; what is not known counts nowhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.training.data import Labels
from models.training.intervals import bootstrap
from models.training.number_metrics import mean_of_known, or_none
from models.training.rankings import Numbers, Ranking

Rows = NDArray[np.bool_]


def label_metrics(outputs: Tensor, labels: Tensor) -> tuple[dict[str, float | None], Numbers]:
    """Return ``loss, auroc, average_precision, accuracy``, and the AUROC of each label.

    ``auroc`` and ``average_precision`` are means over the labels of which both values occur; None
    where there is no such label, and NaN for a single label that is none.

    Parameters
    ----------
    outputs : Tensor
        float32, ``(n, labels)``, before the sigmoid.
    labels : Tensor
        float32, ``(n, labels)`` of 0, 1 and NaN.
    """
    known = ~labels.isnan()
    count = int(known.sum())
    each = functional.binary_cross_entropy_with_logits(
        outputs.double(), labels.double().nan_to_num(), reduction="none"
    )
    right = ((outputs > 0) == (labels == 1)) & known
    areas, precisions = _of_each(outputs, labels)
    return {
        "loss": float(each[known].sum()) / max(count, 1),
        "auroc": or_none(mean_of_known(areas)),
        "average_precision": or_none(mean_of_known(precisions)),
        "accuracy": int(right.sum()) / count if count else None,
    }, areas


def auroc_interval(
    outputs: Tensor, labels: Tensor, generator: np.random.Generator
) -> tuple[float, float] | None:
    """Return the bootstrap interval of the macro AUROC, or None where there is none."""
    ranked = [(rank, rows) for rank, rows in _rankings(outputs, labels) if rank.has_both()]

    def macro(weights: Numbers) -> Numbers:
        return mean_of_known(np.array([rank.auroc(weights[:, rows]) for rank, rows in ranked]))

    return bootstrap(macro, len(labels), generator) if ranked else None


def commoner_value_accuracy(train: Labels, test: Labels) -> float:
    """Return the accuracy on ``test`` of always answering each label's commoner training value."""
    guess, known = (train == 1).sum(axis=0) > (train == 0).sum(axis=0), ~np.isnan(test)
    right = ((test == 1) == guess) & known
    return float(right.sum() / max(known.sum(), 1))


def _of_each(outputs: Tensor, labels: Tensor) -> tuple[Numbers, Numbers]:
    """Return each label's AUROC and average precision; NaN where only one value occurs."""
    areas, precisions = [], []
    for rank, _ in _rankings(outputs, labels):
        both = rank.has_both()
        areas.append(rank.auroc(np.ones((1, len(rank.order))))[0] if both else np.nan)
        precisions.append(rank.average_precision() if both else np.nan)
    return np.array(areas), np.array(precisions)


def _rankings(outputs: Tensor, labels: Tensor) -> list[tuple[Ranking, Rows]]:
    """Return the ranking of each label's known examples, and which these are."""
    scores, wanted = outputs.numpy(), labels.numpy()
    found = []
    for column in range(scores.shape[1]):
        rows: Rows = ~np.isnan(wanted[:, column])
        rank = Ranking.of(scores[rows, column], wanted[rows, column] == 1)
        found.append((rank, rows))
    return found
