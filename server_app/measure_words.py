"""Measures in words, by kind of task: ``accuracy 91.20 %``, ``AUROC 0.842``, ``MAE 6.2 years``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstrata.protocol.measure_words import (
    BASELINES,
    WORDS,
    compared_words,
    kind_of,
    measures_of,
    value_words,
)
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER
from server_app.rounds.records import baseline_name, weighted_mean

Row = Mapping[str, Any]
_BESIDES = {
    CLASSES: ("balanced_accuracy", "auroc"),
    LABELS: ("average_precision", "accuracy"),
    NUMBER: ("rmse", "r2"),
}


def leading(row: Row) -> str:
    """Return the leading measure of a row in words, with its interval if it has one."""
    name = measures_of(row).leading
    text = f"{WORDS[name]} {value_words(row, name, row[name])}"
    if (interval := row.get("interval")) is None:
        return text
    low, high = (value_words(row, name, each, unit=False) for each in interval)
    return f"{text} [{low}, {high}]"


def besides(row: Row) -> str:
    """Return the other measures of a row."""
    return ", ".join(
        f"{WORDS[name]} {value_words(row, name, row[name])}" for name in _BESIDES[kind_of(row)]
    )


def baseline(row: Row) -> str:
    """Return what a guess without any input has: ``mean: 9.8 years``."""
    value = value_words(row, measures_of(row).leading, row[baseline_name(row)])
    return f"{BASELINES[kind_of(row)]}: {value}"


def alone(row: Row) -> float | None:
    """Return the leading measure of a site, or a task, that was trained alone."""
    value: float | None = row.get(f"alone_{measures_of(row).leading}")
    return value


def gain_over_alone(row: Row) -> float | None:
    """Return by how much a site is better than alone; None where it was not trained alone."""
    measures = measures_of(row)
    return measures.gain(row[measures.leading], alone(row))


def received_words(sites: Mapping[str, Row], alone: Mapping[str, float] | None = None) -> str:
    """Return how good the model was as sites received it, each kind by its own measure, or "".

    With ``alone``, what sites reach alone, also the gain over it.
    """
    parts = []
    for (kind, task), rows in _alike(sites).items():
        first = next(iter(rows.values()))
        name = measures_of(first).leading
        value, loss = (weighted_mean(rows.values(), each) for each in (name, "loss"))
        if value is not None and loss is not None:
            whose = "" if kind == CLASSES else f"{task}: "
            text = value_words(first, name, value)
            gain = compared_words(rows, alone or {})
            over = "" if gain == "-" else f", {gain} over alone"
            parts.append(f"{whose}{WORDS[name]} {text}, loss {loss:.4f}{over}")
    return "; ".join(parts)


def _alike(sites: Mapping[str, Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Return sites that a mean may be taken of: all of classes, of other kinds those of a task."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for name, row in sites.items():
        kind = kind_of(row)
        alike = found.setdefault((kind, "" if kind == CLASSES else str(row["task"])), {})
        alike[name] = row
    return found


def of_classes(sites: Mapping[str, Row]) -> dict[str, Row]:
    """Return the sites whose tasks are of classes."""
    return {name: row for name, row in sites.items() if kind_of(row) == CLASSES}


def tasks_of_other_kinds(sites: Mapping[str, Row]) -> dict[str, dict[str, Row]]:
    """Return the sites of tasks that are not of classes, by task."""
    found: dict[str, dict[str, Row]] = {}
    for name, row in sites.items():
        if kind_of(row) != CLASSES:
            found.setdefault(str(row["task"]), {})[name] = row
    return found
