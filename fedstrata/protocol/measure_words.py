"""Values of measures in words, of a record of results: ``91.20 %``, ``6.2 years``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstrata.protocol.measures import MEASURES, Measures
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER

Row = Mapping[str, Any]
WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
}
BASELINES = {CLASSES: "majority class", LABELS: "chance", NUMBER: "mean"}


def value_text(name: str, value: float | None, unit: str = "") -> str:
    """Return a value of the measure ``name``; errors of numbers with ``unit``."""
    if value is None:
        return "-"
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    if name in ("mae", "rmse"):
        return f"{value:.4g}" + (f" {unit}" if unit else "")
    return f"{value:.3f}"


def gain_text(kind: str, value: float | None, unit: str = "") -> str:
    """Return a gain in the leading measure of a kind, above 0 where it is better."""
    if value is None:
        return "-"
    if kind == CLASSES:
        return f"{100 * value:+.2f} points"
    if kind == LABELS:
        return f"{value:+.3f}"
    return f"{value:+.4g}" + (f" {unit}" if unit else "")


def kind_of(record: Row) -> str:
    """Return the kind of task that a record is of."""
    return str(record.get("kind", CLASSES))


def measures_of(record: Row) -> Measures:
    """Return the measures of a record's kind of task."""
    return MEASURES[kind_of(record)]


def value_words(row: Row, name: str, value: float | None, *, unit: bool = True) -> str:
    """Return a value of the measure ``name`` of a row's kind."""
    return value_text(name, value, row.get("unit", "") if unit else "")


def gain_words(row: Row, value: float | None) -> str:
    """Return a gain in the leading measure, above 0 where it is better."""
    return gain_text(kind_of(row), value, row.get("unit", ""))
