"""Measures of each class or label: rates at an operating point, counts, ROC and calibration.

What a hospital may let out of them is decided by its own settings: everything, rates of two
decimals, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from fedstrata.protocol.limits import MOST_EXAMPLES, Refused
from fedstrata.protocol.task_kinds import CLASSES, LABELS

RATES = ("sensitivity", "specificity", "ppv", "npv", "f1")
COUNTS = ("tp", "fp", "fn", "tn")
MOST_CLASSES = 64  # of a task with these measures
BINS = 10  # of calibration, of equal width
ROC_POINTS = 51  # at the false positive rates 0, 0.02, ... 1
DECIMALS = 6
# Of a deployed site that lets out rates alone: how fine they are, and of how many examples at least.
COARSE_DECIMALS, LEAST_EXAMPLES = 2, 10

Interval = tuple[float, float]
Bin = tuple[float, float, float]


@dataclass(frozen=True)
class OneClass:
    """One class or label against the rest, on the test data.

    Parameters
    ----------
    rates : tuple of float or None
        In the order of `RATES`; None where no example counts in it.
    intervals : tuple
        The 95 % bootstrap interval of each.
    threshold : float or None
        The probability from which on the class is the answer, chosen on the validation data; None
        where the likeliest class is the answer.
    counts : tuple of int
        In the order of `COUNTS`; empty where they stay at the site.
    roc : tuple of float
        True positive rates at `ROC_POINTS` false positive rates; empty where there are none.
    """

    rates: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...]
    threshold: float | None = None
    counts: tuple[int, ...] = ()
    roc: tuple[float, ...] = ()

    def denominators(self) -> tuple[int, ...]:
        """Return how many examples each rate is over; of F1 the fewer of those of its two rates."""
        tp, fp, fn, tn = self.counts
        return tp + fn, fp + tn, tp + fp, fn + tn, min(tp + fn, tp + fp)


@dataclass(frozen=True)
class ByClass:
    """The measures of all classes or labels of a task, on a site's test data.

    Parameters
    ----------
    classes : tuple of OneClass
        In the order of the outputs.
    confusion : tuple of tuple of int
        Examples by true class, then by answer; empty for labels, and where they stay at the site.
    calibration : tuple
        Of each bin: mean probability, share of the examples in which it holds, and the bin's share
        of all examples; None where there are none, or too few.
    calibration_error : float or None
        The expected calibration error (Naeini et al. 2015).
    """

    classes: tuple[OneClass, ...]
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: tuple[Bin | None, ...] = ()
    calibration_error: float | None = None

    def check(self, examples: float) -> None:
        """Raise Refused for what no model has on so many ``examples``."""
        if not 1 <= len(self.classes) <= MOST_CLASSES:
            raise Refused(f"has measures of {len(self.classes)} classes, at most {MOST_CLASSES}")
        for one in self.classes:
            _check_class(one, examples)
        size = len(self.classes)
        if self.confusion and any(len(row) != size for row in (self.confusion, *self.confusion)):
            raise Refused("the confusion matrix is not of its classes")
        cells = [count for row in self.confusion for count in row]
        if cells and (min(cells) < 0 or sum(cells) != examples):
            raise Refused("the confusion matrix does not count the test examples")
        for row, one in enumerate(self.classes):
            if self.confusion and one.counts != counts_of(self.confusion, row):
                raise Refused("the counts of a class are not those of the confusion matrix")
        if len(self.calibration) not in (0, BINS):
            raise Refused(f"the calibration has {len(self.calibration)} bins, and not {BINS}")
        values = [each for a_bin in self.calibration if a_bin for each in a_bin]
        _check_shares("the calibration", [*values, *_known([self.calibration_error])])

    def check_kind(self, kind: str) -> None:
        """Raise Refused where a task of ``kind`` has no such measures."""
        if kind not in (CLASSES, LABELS) or (self.confusion and kind != CLASSES):
            raise Refused(
                f"has measures of classes that a task of {kind or 'no kind'} does not have"
            )

    def exact(self) -> ByClass:
        """Return the measures with the digits that they have on the wire."""
        return self._rounded(DECIMALS)

    def coarse(self) -> ByClass:
        """Return rates of two decimals, each over ten examples or more, and no counts."""
        classes = tuple(map(_without_few, self.classes))
        bins = tuple(self._unless_few(a_bin) for a_bin in self.calibration)
        return replace(self, classes=classes, confusion=(), calibration=bins)._rounded(
            COARSE_DECIMALS
        )

    def _unless_few(self, a_bin: Bin | None) -> Bin | None:
        counts = self.classes[0].counts
        if a_bin is None or not counts:
            return a_bin
        # Of labels each known value is an example.
        labels = not self.confusion
        total = sum(sum(one.counts) for one in self.classes) if labels else sum(counts)
        return a_bin if round(a_bin[2] * total) >= LEAST_EXAMPLES else None

    def _rounded(self, decimals: int) -> ByClass:
        def near(value: float) -> float:
            return round(value, decimals) + 0.0

        def maybe(value: float | None) -> float | None:
            return None if value is None else near(value)

        return replace(
            self,
            classes=tuple(
                replace(
                    one,
                    rates=tuple(map(maybe, one.rates)),
                    intervals=tuple(i and (near(i[0]), near(i[1])) for i in one.intervals),
                    threshold=None if one.threshold is None else round(one.threshold, DECIMALS),
                    roc=tuple(map(near, one.roc)),
                )
                for one in self.classes
            ),
            calibration=tuple(b and (near(b[0]), near(b[1]), near(b[2])) for b in self.calibration),
            calibration_error=maybe(self.calibration_error),
        )


def rates_of(counts: tuple[int, ...]) -> tuple[float | None, ...]:
    """Return the rates of counts in the order of `COUNTS`; None where no example counts in one."""
    return tuple(part / whole if whole else None for part, whole in fractions(*counts))


def fractions(tp: Any, fp: Any, fn: Any, tn: Any) -> tuple[tuple[Any, Any], ...]:
    """Return numerator and denominator of each rate, in the order of `RATES`; of arrays too."""
    return (
        (tp, tp + fn),
        (tn, tn + fp),
        (tp, tp + fp),
        (tn, tn + fn),
        (2 * tp, 2 * tp + fp + fn),
    )


def counts_of(confusion: tuple[tuple[int, ...], ...], row: int) -> tuple[int, ...]:
    """Return the counts, in the order of `COUNTS`, of one class against the rest."""
    tp = confusion[row][row]
    answered, true = sum(each[row] for each in confusion), sum(confusion[row])
    total = sum(map(sum, confusion))
    return tp, answered - tp, true - tp, total - answered - true + tp


def _without_few(one: OneClass) -> OneClass:
    """Return a class without its counts, and without rates over few examples."""
    if not one.counts:
        return one
    enough = [count >= LEAST_EXAMPLES for count in one.denominators()]
    return replace(
        one,
        rates=tuple(r if kept else None for r, kept in zip(one.rates, enough, strict=True)),
        intervals=tuple(i if kept else None for i, kept in zip(one.intervals, enough, strict=True)),
        counts=(),
        roc=one.roc if enough[0] and enough[1] else (),
    )


def _check_class(one: OneClass, examples: float) -> None:
    if len(one.rates) != len(RATES) or len(one.intervals) != len(RATES):
        raise Refused(f"a class has {len(one.rates)} rates, and not {len(RATES)}")
    bounds = [each for interval in one.intervals if interval for each in interval]
    _check_shares("a class", [*_known(one.rates), *bounds, *_known([one.threshold]), *one.roc])
    if any(interval and interval[0] > interval[1] for interval in one.intervals):
        raise Refused("an interval of a class ends before it begins")
    if len(one.roc) not in (0, ROC_POINTS) or list(one.roc) != sorted(one.roc):
        raise Refused(f"a ROC curve does not rise through {ROC_POINTS} points")
    if not one.counts:
        return
    if len(one.counts) != len(COUNTS) or min(one.counts) < 0:
        raise Refused(f"a class has the counts {one.counts[:8]}")
    if not 0 <= sum(one.counts) <= min(examples, MOST_EXAMPLES):
        raise Refused(f"the counts of a class are {sum(one.counts)} of {examples:g} examples")
    wanted = [None if each is None else round(each, DECIMALS) for each in rates_of(one.counts)]
    if [None if each is None else round(each, DECIMALS) for each in one.rates] != wanted:
        raise Refused("the rates of a class are not those of its counts")


def _check_shares(what: str, values: Collection[float]) -> None:
    if not all(math.isfinite(each) and 0 <= each <= 1 for each in values):
        raise Refused(f"{what} has a number that is no share")


def _known(values: Collection[float | None]) -> list[float]:
    return [each for each in values if each is not None]
