"""Values of measures in words, of a record of results: ``91.20 %``, ``6.2 years``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstrata.protocol.measure_text import gain_text, value_text
from fedstrata.protocol.measures import MEASURES, Measures
from fedstrata.protocol.task_kinds import CLASSES

Row = Mapping[str, Any]


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
