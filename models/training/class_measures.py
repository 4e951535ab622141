"""Clinical measures of each class or label, at an operating point chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstrata.protocol.class_measures import (
    BINS,
    DECIMALS,
    MOST_CLASSES,
    RATES,
    ROC_POINTS,
    Bin,
    ByClass,
    OneClass,
    counts_of,
    fractions,
    rates_of,
)
from models.training.intervals import RESAMPLES, Interval, middles
from models.training.rankings import Numbers

HALF = 0.5
Truth = NDArray[np.bool_]


class Measured(NamedTuple):
    """A model's outputs on a split, and what is true there.

    Parameters
    ----------
    outputs : Tensor
        float32, ``(n, outputs)``, before softmax or sigmoid.
    labels : Tensor
        int64 ``(n,)`` of classes; float32 ``(n, outputs)`` of 0, 1 and NaN of labels.
    """

    outputs: Tensor
    labels: Tensor


def of_classes(
    validation: Measured, test: Measured, generator: np.random.Generator
) -> ByClass | None:
    """Return the measures of classes of which one holds, or None where they are too many.

    Of two classes the second is the answer from the threshold on that has the greatest Youden index
    on the validation data; of more the likeliest one is the answer.
    """
    classes = test.outputs.shape[1]
    if classes > MOST_CLASSES:
        return None
    chances, truth = _softmax(test.outputs), test.labels.numpy()
    thresholds: list[float | None] = [None] * classes
    if classes == 2:
        chosen = youden(_softmax(validation.outputs)[:, 1], validation.labels.numpy() == 1)
        thresholds = [round(1 - chosen, DECIMALS), chosen]
        answers = (chances[:, 1] >= chosen).astype(np.int64)
        confidence, right = chances[:, 1], truth == 1
    else:
        answers = chances.argmax(axis=1)
        confidence, right = chances.max(axis=1), answers == truth
    cells = np.bincount(truth * classes + answers, minlength=classes**2).reshape(classes, classes)
    confusion = tuple(tuple(map(int, row)) for row in cells)
    curves = [
        () if (classes == 2 and each == 0) else roc(chances[:, each], truth == each)
        for each in range(classes)
    ]
    of_each = tuple(
        _one(counts_of(confusion, each), thresholds[each], curves[each], generator)
        for each in range(classes)
    )
    bins, error = calibration(confidence, right)
    return ByClass(of_each, confusion, bins, error).exact()


def of_labels(
    validation: Measured, test: Measured, generator: np.random.Generator
) -> ByClass | None:
    """Return the measures of labels of which several may hold, or None where they are too many.

    Each has the threshold with the greatest Youden index on the validation data. What is not known
    counts nowhere.
    """
    labels = test.outputs.shape[1]
    if labels > MOST_CLASSES:
        return None
    chosen_on, chances = _sigmoid(validation.outputs), _sigmoid(test.outputs)
    given, wanted = validation.labels.numpy(), test.labels.numpy()
    of_each = []
    for label in range(labels):
        rows, known = ~np.isnan(given[:, label]), ~np.isnan(wanted[:, label])
        threshold = youden(chosen_on[rows, label], given[rows, label] == 1)
        scores, holds = chances[known, label], wanted[known, label] == 1
        answers = scores >= threshold
        cells = (answers & holds, answers & ~holds, ~answers & holds, ~answers & ~holds)
        counts = tuple(int(cell.sum()) for cell in cells)
        of_each.append(_one(counts, threshold, roc(scores, holds), generator))
    known = ~np.isnan(wanted)
    bins, error = calibration(chances[known], wanted[known] == 1)
    return ByClass(tuple(of_each), (), bins, error).exact()


def youden(scores: Numbers, holds: Truth) -> float:
    """Return the threshold with the greatest sensitivity + specificity - 1 (Youden 1950).

    Of several it is the one nearest to 0.5; and 0.5 where none is better than chance.

    Parameters
    ----------
    scores : NDArray[np.float64]
        Probabilities, shape ``(n,)``.
    holds : NDArray[np.bool_]
        Whether it holds, shape ``(n,)``.
    """
    yes, no = int(holds.sum()), int((~holds).sum())
    if not yes or not no:
        return HALF
    distinct = np.unique(scores)
    between = np.round((distinct[1:] + distinct[:-1]) / 2, DECIMALS)
    tried = np.unique(np.append(between, HALF))
    above = [
        len(each) - np.searchsorted(np.sort(each), tried)
        for each in (scores[holds], scores[~holds])
    ]
    # In whole numbers: so that equal ones are equal.
    gained = above[0] * no - above[1] * yes
    if gained.max() <= 0:
        return HALF
    best = tried[gained == gained.max()]
    return float(best[np.abs(best - HALF).argmin()])


def roc(scores: Numbers, holds: Truth) -> tuple[float, ...]:
    """Return the true positive rates at `ROC_POINTS` false positive rates from 0 to 1.

    Between the points of the curve they are interpolated. () where only one value occurs.
    """
    yes, no = int(holds.sum()), int((~holds).sum())
    if not yes or not no:
        return ()
    distinct = np.unique(scores)[::-1]
    true, false = (
        np.append(0, len(part) - np.searchsorted(np.sort(part), distinct)) / len(part)
        for part in (scores[holds], scores[~holds])
    )
    wanted = np.arange(ROC_POINTS) / (ROC_POINTS - 1)
    # Where the curve rises straight up, its upper end: np.interp would take either.
    place = np.searchsorted(false, wanted, side="right") - 1
    there = false[place] == wanted
    after = np.minimum(place + 1, len(false) - 1)
    gap = np.where(there | (after == place), 1.0, false[after] - false[place])
    part = np.where(there, 0.0, (wanted - false[place]) / gap)
    return tuple(map(float, true[place] + part * (true[after] - true[place])))


def calibration(confidence: Numbers, right: Truth) -> tuple[tuple[Bin | None, ...], float | None]:
    """Return each bin's mean confidence, share right and share of examples; and the mean gap."""
    total = len(confidence)
    if not total:
        return (None,) * BINS, None
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, confidence, BINS), np.bincount(place, right, BINS)
    bins: Sequence[Bin | None] = [
        (float(sums[0][each] / n), float(sums[1][each] / n), float(n / total)) if n else None
        for each, n in enumerate(counts)
    ]
    return tuple(bins), sum(abs(b[0] - b[1]) * b[2] for b in bins if b)


def _one(
    counts: tuple[int, ...],
    threshold: float | None,
    curve: tuple[float, ...],
    generator: np.random.Generator,
) -> OneClass:
    return OneClass(rates_of(counts), _intervals(counts, generator), threshold, counts, curve)


def _intervals(
    counts: tuple[int, ...], generator: np.random.Generator
) -> tuple[Interval | None, ...]:
    """Return the bootstrap interval of each rate, at once: the counts of a resample are multinomial."""
    examples = sum(counts)
    if not examples:
        return (None,) * len(RATES)
    drawn = generator.multinomial(examples, np.array(counts) / examples, RESAMPLES)
    parts, wholes = (np.stack(each) for each in zip(*fractions(*drawn.T), strict=True))
    rates = np.divide(parts, wholes, where=wholes > 0, out=np.full(parts.shape, np.nan))
    return middles(rates)


def _softmax(outputs: Tensor) -> Numbers:
    chances: Numbers = outputs.double().softmax(1).numpy()
    return chances


def _sigmoid(outputs: Tensor) -> Numbers:
    chances: Numbers = torch.sigmoid(outputs.double()).numpy()
    return chances
