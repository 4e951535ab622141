"""Values of measures in words, as they stand in lines and tables: ``91.20 %``, ``6.2 years``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstrata.protocol.measures import MEASURES, Measures
from fedstrata.protocol.task_kinds import CLASSES, LABELS

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


def kind_of(record: Row) -> str:
    """Return the kind of task that a record is of."""
    return str(record.get("kind", CLASSES))


def measures_of(record: Row) -> Measures:
    """Return the measures of a record's kind of task."""
    return MEASURES[kind_of(record)]


def value_words(row: Row, name: str, value: float | None, *, unit: bool = True) -> str:
    """Return a value of the measure ``name`` of a row's kind."""
    if value is None:
        return "-"
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    if name in ("mae", "rmse"):
        return f"{value:.4g}" + _unit(row, unit)
    return f"{value:.3f}"


def gain_words(row: Row, value: float | None) -> str:
    """Return a gain in the leading measure, above 0 where it is better."""
    kind = kind_of(row)
    if value is None:
        return "-"
    if kind == CLASSES:
        return f"{100 * value:+.2f} points"
    return f"{value:+.3f}" if kind == LABELS else f"{value:+.4g}{_unit(row, unit=True)}"


def _unit(row: Row, unit: bool) -> str:
    return f" {row['unit']}" if unit and row.get("unit") else ""
