"""What a site says of its outputs and what it measured is of its kind, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from fedstrata.protocol.limits import Refused
from fedstrata.protocol.measured import check_interval, check_metrics, check_outputs
from fedstrata.protocol.task_kinds import TaskKind

NUMBER = {"examples": 4.0, "loss": 1.0, "mae": 6.2, "rmse": 8.0, "r2": -3.0}
LABELS = {"examples": 4.0, "loss": 1.0, "auroc": None, "average_precision": None, "accuracy": 0.5}
YEARS = TaskKind("number", mean=(50.0,), std=(9.0,), unit="years")


def test_numbers_have_no_upper_bound_and_r2_may_be_below_zero() -> None:
    check_metrics({"test": NUMBER, "validation": {**NUMBER, "r2": None}})
    check_metrics({"test": {**LABELS, "auroc/0": 0.5, "auroc/1": None}})


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"test": {**NUMBER, "mae": -1.0}}, "test.mae is -1.0"),
        ({"test": {**NUMBER, "r2": 1.5}}, "test.r2 is 1.5"),
        ({"test": {**NUMBER, "mae": float("nan")}}, "test.mae is nan"),
        ({"test": {**NUMBER, "loss": None}}, "test.loss is None"),
        ({"test": {**LABELS, "auroc": 1.1}}, "test.auroc is 1.1"),
        ({"test": {**LABELS, "auroc/0": 0.5}}, "not those of a kind of task"),
        ({"test": {**LABELS, "secret": 0.5}}, "not those of a kind of task"),
        ({"train": NUMBER}, "'train' are not those"),
        ({"test": NUMBER, "validation": LABELS}, "measures as several kinds"),
    ],
)
def test_other_numbers_are_refused(metrics: Any, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        check_metrics(metrics)


def test_an_interval_is_of_the_leading_measure() -> None:
    check_interval(None, {})
    check_interval((5.0, 7.5), {"test": NUMBER})
    for wrong in ((7.5, 5.0), (-1.0, 5.0), (float("nan"), 1.0)):
        with pytest.raises(Refused, match="the interval of the test data"):
            check_interval(wrong, {"test": NUMBER})
    with pytest.raises(Refused, match="no metrics of the test data"):
        check_interval((0.0, 1.0), {})


def test_outputs_and_baseline_are_those_of_the_kind() -> None:
    check_outputs(YEARS, ("age",), {"mae": 9.8, "rmse": 12.0})
    check_outputs(TaskKind("labels"), ("edema",), {"auroc": 0.5, "accuracy": 0.9})


@pytest.mark.parametrize(
    ("kind", "names", "baseline", "reason"),
    [
        (TaskKind(), ("a",), {"accuracy": 0.5}, "two classes, one label or one number"),
        (TaskKind("labels"), (), {"auroc": 0.5, "accuracy": 0.5}, "one label"),
        (TaskKind("labels"), ("a", "a"), {"auroc": 0.5, "accuracy": 0.5}, "alike"),
        (YEARS, ("a", "b"), {"mae": 1.0, "rmse": 1.0}, "for 1 of 2 outputs"),
        (TaskKind("labels", mean=(0.0,), std=(1.0,)), ("a",), {}, "for 1 of 1 outputs"),
        (TaskKind("number", mean=(float("nan"),), std=(1.0,)), ("a",), {}, "not finite"),
        (TaskKind("number", unit="y" * 31), ("a",), {}, "at most 30 characters"),
        (YEARS, ("a",), {"accuracy": 0.5}, "the baseline is not of mae, rmse"),
        (YEARS, ("a",), {"mae": -1.0, "rmse": 1.0}, "baseline.mae is -1.0"),
    ],
)
def test_what_no_task_has_is_refused(
    kind: TaskKind, names: tuple[str, ...], baseline: dict[str, float], reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        check_outputs(kind, names, baseline)
