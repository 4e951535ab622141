"""Sums of the sites' rows, and the one scale that follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.tabular.scale import column_sums
from fedstrata.protocol import kinds, orders
from fedstrata.protocol.answers import answer, failure, read_sums_report
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.sums import (
    MOST_INPUTS,
    ColumnSums,
    SumsReport,
    are_wanted,
    combined,
    scale,
)

ASKED = orders.order(kinds.SUMS, 7, plan="{}", round_number=0, layers={}, ttl=60.0)
ONE = ColumnSums((2,), (3.0,), (5.0,))


def test_the_scale_is_that_of_all_rows_together() -> None:
    generator = np.random.default_rng(1)
    rows = generator.normal([50, 1e6, -3], [10, 1, 2], size=(90, 3))
    rows[5, 2] = np.nan
    found = scale([column_sums(part) for part in np.split(rows, [10, 50])])
    assert found["mean"] == pytest.approx(np.nanmean(rows, axis=0))
    assert found["std"] == pytest.approx(np.nanstd(rows, axis=0), rel=1e-2)


@given(st.permutations(range(5)))
def test_the_order_of_the_sites_changes_no_bit(order: list[int]) -> None:
    generator = np.random.default_rng(2)
    sums = [column_sums(generator.normal(0.1, 1e3, size=(7, 2))) for _ in range(5)]
    assert scale([sums[number] for number in order]) == scale(sums)


def test_a_column_without_spread_keeps_its_scale() -> None:
    rows = np.array([[7.3, np.nan], [7.3, np.nan]])
    found = scale([column_sums(rows)])
    assert found == {"mean": [7.3, 0.0], "std": [1.0, 1.0]}


def test_targets_are_agreed_by_task() -> None:
    reports = [("age", SumsReport("a", ONE, ONE)), ("sex", SumsReport("b", ONE))]
    found = combined(reports)
    assert found["mean"] == [1.5]
    assert found["targets"] == {"age": {"mean": [1.5], "std": [0.5]}}


def test_a_report_is_read_as_it_was_written() -> None:
    report = SumsReport("a", column_sums(np.random.default_rng(3).normal(size=(9, 4))), ONE)
    assert read_sums_report(answer(ASKED, report, {})) == report


def test_a_failure_says_why() -> None:
    report = read_sums_report(failure(ASKED, "a", 0, "no data", later=True))
    assert (report.site, report.error, report.later, len(report.inputs)) == (
        "a",
        "no data",
        True,
        0,
    )


@pytest.mark.parametrize(
    "inputs",
    [
        ColumnSums(),
        ColumnSums(
            (1,) * (MOST_INPUTS + 1), (0.0,) * (MOST_INPUTS + 1), (0.0,) * (MOST_INPUTS + 1)
        ),
        ColumnSums((1, 1), (0.0,), (0.0,)),
        ColumnSums((-1,), (0.0,), (0.0,)),
        ColumnSums((2,), (10.0,), (1.0,)),  # a square less than the sums allow
        ColumnSums((0,), (1.0,), (1.0,)),
        ColumnSums((2,), (float("nan"),), (1.0,)),
        ColumnSums((2,), (0.0,), (float("inf"),)),
    ],
)
def test_impossible_sums_are_refused(inputs: ColumnSums) -> None:
    with pytest.raises(Refused):
        SumsReport("a", inputs).checked()


@pytest.mark.parametrize(
    ("data", "agreed", "wanted"),
    [
        ({"standardize": "agreed", "constants": None}, None, True),
        ({"standardize": "agreed", "constants": None}, {"mean": []}, False),
        ({"standardize": "agreed", "constants": {"mean": []}}, None, False),
        ({"standardize": "site"}, None, False),
        ({}, None, False),
    ],
)
def test_sums_are_wanted_once_and_only_for_an_agreed_scale(data, agreed, wanted) -> None:
    assert are_wanted(data, agreed) is wanted
