"""The agreed scale, as configuration and plan give it."""

from __future__ import annotations

import numpy as np
import pytest

from client_app.data.tabular.scale import column_sums, read_constants
from fedstrata.protocol.task_kinds import TaskKind
from fedstrata.support.errors import UserError

GIVEN = {"mean": [1, 2], "std": [1, 4], "targets": {"age": {"mean": [50], "std": [10]}}}


def test_values_are_scaled_by_input() -> None:
    assert read_constants(GIVEN).scaled(np.array([[2.0, 10.0]])).tolist() == [[1, 2]]
    with pytest.raises(UserError, match="has 2 means, and this site has 3 inputs"):
        read_constants(GIVEN).scaled(np.zeros((1, 3)))


def test_numbers_to_predict_get_the_scale_of_their_task() -> None:
    constants = read_constants(GIVEN)
    number = TaskKind("number", unit="years")
    assert constants.kind(number, "age") == TaskKind("number", "mse", (50.0,), (10.0,), "years")
    assert constants.kind(number, "other") is number
    configured = TaskKind("number", mean=(1.0,), std=(2.0,))
    assert constants.kind(configured, "age") is configured
    assert constants.kind(TaskKind(), "age") == TaskKind()


@pytest.mark.parametrize(
    "given",
    [
        {"mean": [1]},
        {"mean": [1], "std": [1], "other": 1},
        {"mean": [1], "std": [0]},
        {"mean": [1], "std": [1, 2]},
        {"mean": ["x"], "std": [1]},
        {"mean": [float("inf")], "std": [1]},
        {"mean": 1, "std": 1},
        {"mean": [1], "std": [1], "targets": {"age": {"mean": [1]}}},
    ],
)
def test_constants_that_make_no_sense_are_refused(given) -> None:
    with pytest.raises(UserError, match=r"data.constants"):
        read_constants(given)


def test_sums_leave_out_what_is_not_known() -> None:
    sums = column_sums(np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]]))
    assert (sums.count, sums.total, sums.squares) == ((2, 0), (4.0, 0.0), (10.0, 0.0))
