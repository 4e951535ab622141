"""The table of each class and label at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from fedstrata.protocol.class_measures import RATES
from server_app.tables import rendered

MOST_ROWS = 10  # of a task
MOST_TASKS = 20
_WORDS = {"ppv": "PPV", "npv": "NPV", "f1": "F1"}


def class_table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the rates of each class as a table, the worst of a task with many first; "" without any.

    Parameters
    ----------
    tasks : mapping
        ``final.tasks`` of results.json.
    """
    table = Table(title="Each class on the test data, at the operating point, mean over sites")
    for heading in ("task", "class", *(_WORDS.get(rate, rate) for rate in RATES)):
        table.add_column(heading)
    for task, record in list(tasks.items())[:MOST_TASKS]:
        rows = [
            (name, one)
            for name, one in record.get("by_class", {}).items()
            if any(one[rate] is not None for rate in RATES)  # sites withhold those of few examples
        ]
        if len(rows) > MOST_ROWS:
            rows.sort(key=lambda row: (row[1]["f1"] is None, row[1]["f1"]))
        for name, one in rows[:MOST_ROWS]:
            table.add_row(task, name, *(_words(one[rate]) for rate in RATES))
        if (more := len(rows) - MOST_ROWS) > 0:
            table.add_row(task, f"{more} more with a higher F1: results.json")
    if table.row_count and (more := len(tasks) - MOST_TASKS) > 0:
        table.add_row(f"{more} more tasks: results.json")
    return rendered(table) if table.row_count else ""


def _words(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
