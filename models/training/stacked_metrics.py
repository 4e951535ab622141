"""The metrics of many models at once, each as `models.training.metrics.metrics` gives it, to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

MOST = 1 << 20  # outputs of a part: as many take some 40 MB on the way


def metrics_of_each(
    outputs: Sequence[Tensor], labels: Sequence[Tensor], classes: int
) -> list[dict[str, float | None]]:
    """Return the metrics of each model; those with equally many examples are computed as one.

    Parameters
    ----------
    outputs : sequence of Tensor
        float32, ``(n_i, classes)``.
    labels : sequence of Tensor
        int64, ``(n_i,)``.
    classes : int
        How many there are.
    """
    found: list[dict[str, float | None]] = [{} for _ in outputs]
    by_length: dict[int, list[int]] = {}
    for i, each in enumerate(labels):
        by_length.setdefault(len(each), []).append(i)
    for length, places in by_length.items():
        step = max(MOST // max(length * classes, 1), 1)
        for start in range(0, len(places), step):
            part = places[start : start + step]
            logits, wanted = (torch.stack([x[i] for i in part]) for x in (outputs, labels))
            for i, measured in zip(part, _of_equal_length(logits, wanted), strict=True):
                found[i] = measured
    return found


def _of_equal_length(logits: Tensor, labels: Tensor) -> list[dict[str, float | None]]:
    """Return the metrics of m models over n examples each: ``(m, n, classes)`` and ``(m, n)``."""
    models, length, classes = logits.shape
    cells = labels + classes * torch.arange(models)[:, None]
    right = logits.argmax(2) == labels
    counts, hits = (
        torch.bincount(each, minlength=models * classes).view(models, classes)
        for each in (cells.flatten(), cells[right])
    )
    occurs = counts > 0
    recalls = _means(hits.double() / counts, occurs)
    areas = _means(_areas(logits.softmax(2), labels, counts), occurs)
    chances = logits.double().log_softmax(2)
    several = (occurs.sum(1) > 1).tolist()
    correct = right.sum(1).tolist()
    return [
        {
            "examples": float(length),
            # One by one: how torch adds them up depends on how many there are in all.
            "loss": float(functional.nll_loss(chances[i], labels[i])),
            "accuracy": correct[i] / length,
            "balanced_accuracy": recalls[i],
            "auroc": areas[i] if several[i] else None,
        }
        for i in range(models)
    ]


def _means(values: Tensor, of: Tensor) -> list[float]:
    """Return the mean of each row's values in ``of``: rows with equally many are taken as one."""
    means = torch.zeros(len(values), dtype=values.dtype)
    numbers = of.sum(1)
    for number in set(numbers.tolist()):
        rows = numbers == number
        means[rows] = values[rows][of[rows]].view(-1, number).mean(1)
    return means.tolist()


def _areas(scores: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return each class's area under the ROC curve against the rest: float64, ``(m, classes)``."""
    columns = scores.transpose(1, 2).contiguous()
    ordered = columns.sort(dim=2).values
    places = torch.searchsorted(ordered, columns)
    places += torch.searchsorted(ordered, columns, right=True)
    own = labels[:, None, :] == torch.arange(scores.shape[2])[:, None]
    # ``ordered`` has the class's own examples too: their pairs with one another are taken off.
    wins = (places * own).sum(2).double() / 2 - counts.double() ** 2 / 2
    return wins / (counts * (labels.shape[1] - counts))
