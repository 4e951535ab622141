"""Measures of each class are possible ones, or refused; coarse ones hide small counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedstrata.protocol.class_measures import (
    ByClass,
    OneClass,
    counts_of,
    rates_of,
)
from fedstrata.protocol.limits import Refused

CONFUSION = ((40, 8), (12, 140))
ROC = tuple(min(1.0, each / 40) for each in range(51))


def one(row: int, confusion: Any = CONFUSION) -> OneClass:
    counts = counts_of(confusion, row)
    return OneClass(rates_of(counts), ((0.123456, 0.987654),) * 5, 0.5, counts, ROC)


def measures(confusion: Any = CONFUSION) -> ByClass:
    bins = ((0.05, 0.123456, 0.3), None, (0.25, 0.5, 0.02), (0.35, 0.4, 0.68), *[None] * 6)
    return ByClass((one(0, confusion), one(1, confusion)), confusion, bins, 0.123456).exact()


def test_what_was_measured_is_accepted_and_coarse_ones_too() -> None:
    measures().check(200)
    measures().coarse().check(200)


def test_counts_of_a_class_are_those_against_the_rest() -> None:
    assert counts_of(CONFUSION, 1) == (140, 8, 12, 40)
    assert rates_of((140, 8, 12, 40)) == (140 / 152, 40 / 48, 140 / 148, 40 / 52, 280 / 300)
    assert rates_of((0, 0, 0, 5)) == (None, 1.0, None, 1.0, None)


def test_coarse_measures_have_two_decimals_and_no_counts() -> None:
    coarse = measures().coarse()
    assert coarse.confusion == ()
    assert all(each.counts == () for each in coarse.classes)
    assert coarse.classes[1].rates == (0.92, 0.83, 0.95, 0.77, 0.93)
    assert coarse.classes[1].intervals[0] == (0.12, 0.99)
    assert coarse.calibration_error == 0.12
    assert coarse.coarse() == coarse


def test_coarse_measures_have_nothing_over_fewer_than_ten_examples() -> None:
    coarse = measures(((5, 4), (12, 179))).coarse()
    rare, common = coarse.classes
    assert rare.rates == (None, 0.94, 0.29, 0.98, None)  # 9 of this class, 17 answers
    assert rare.intervals[0] is None
    assert common.rates[1] is None
    assert rare.roc == common.roc == ()
    assert coarse.calibration[2] is None  # 0.02 of 200 examples
    assert coarse.calibration[0] is not None
    assert measures().coarse().classes[0].roc


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ()}, "measures of 0 classes"),
        ({"classes": (one(0),) * 65}, "measures of 65 classes"),
        ({"confusion": ((40, 8),)}, "not of its classes"),
        ({"confusion": ((40, 8), (12, 141))}, "does not count the test examples"),
        ({"confusion": ((40, 9), (12, 139))}, "not those of the confusion matrix"),
        ({"confusion": ((-1, 8), (12, 181))}, "does not count the test examples"),
        ({"calibration": (None,) * 9}, "9 bins"),
        ({"calibration": ((0.5, 0.5, 1.5), *[None] * 9)}, "a number that is no share"),
        ({"calibration_error": float("nan")}, "a number that is no share"),
    ],
)
def test_other_measures_are_refused(changes: Any, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        replace(measures(), **changes).check(200)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rates": (0.5,) * 4}, "4 rates"),
        ({"rates": (0.5,) * 5}, "not those of its counts"),
        ({"rates": (float("inf"),) * 5}, "no share"),
        ({"intervals": ((0.9, 0.1),) * 5}, "ends before it begins"),
        ({"intervals": ((0.9, 1.1),) * 5}, "no share"),
        ({"threshold": -0.1}, "no share"),
        ({"roc": ROC[:50]}, "51 points"),
        ({"roc": ROC[::-1]}, "does not rise"),
        ({"counts": (1, 2, 3)}, "has the counts"),
        ({"counts": (-1, 2, 3, 4)}, "has the counts"),
        ({"counts": (140, 8, 12, 400)}, "560 of 200 examples"),
    ],
)
def test_a_class_that_nobody_can_measure_is_refused(changes: Any, reason: str) -> None:
    changed = replace(measures(), confusion=(), classes=(replace(one(1), **changes), one(1)))
    with pytest.raises(Refused, match=reason):
        changed.check(200)


def test_they_are_of_classes_or_labels() -> None:
    measures().check_kind("classes")
    measures().coarse().check_kind("labels")
    for kind in ("number", "labels", ""):
        with pytest.raises(Refused, match="does not have"):
            measures().check_kind(kind)
