"""What a table's rows are to predict: a class, several labels, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.classes import class_names
from client_app.data.tabular.cells import CellRules, number_cells, words
from client_app.data.tabular.reading import Table
from client_app.data.task_options import TaskOptions
from fedstrata.protocol.task_kinds import CLASSES, NUMBER
from fedstrata.support.errors import UserError

QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Targets:
    """What ``n`` rows are to predict.

    Parameters
    ----------
    values : NDArray
        As `TaskKind` says: class indices int64 ``(n,)``, or float32 ``(n, K)``.
    names : tuple of str
        Of the outputs.
    rows : NDArray[np.int64]
        The rows of the table that have a target, shape ``(n,)``; the others are left out.
    strata : NDArray[np.int64]
        By what rows are spread evenly over splits and sites, shape ``(n,)``: the class, or the
        quarter of all rows in which the first number lies.
    """

    values: NDArray[Any]
    names: tuple[str, ...]
    rows: NDArray[np.int64]
    strata: NDArray[np.int64]


def read_targets(
    table: Table,
    task: TaskOptions,
    configured: Mapping[str, Sequence[str]] | None,
    rules: CellRules,
    *,
    deployed: bool,
) -> Targets:
    """Return the targets of ``task``.

    Raises
    ------
    UserError
        A cell cannot be read, or no row has a target; and as `class_names` for classes.
    """
    if task.kind.name == CLASSES:
        return _classes(table, task, configured, rules, deployed=deployed)
    if task.kind.name == NUMBER:
        return _numbers(table, task, rules)
    raise UserError(f"data.tasks.{task.name}.kind: {task.kind.name} is not read from tables yet")


def _classes(
    table: Table,
    task: TaskOptions,
    configured: Mapping[str, Sequence[str]] | None,
    rules: CellRules,
    *,
    deployed: bool,
) -> Targets:
    cells = np.array(words(table.columns[task.columns[0]], rules), dtype=object)
    rows = np.flatnonzero(cells != "")
    # reversed, so that the first row of each class is the one in an error
    found = {str(cells[row]): table.source(int(row)) for row in rows[::-1]}
    names = class_names(configured, task.name, found, deployed=deployed)
    number = {name: index for index, name in enumerate(names)}
    values = np.array([number[str(cell)] for cell in cells[rows]], dtype=np.int64)
    return Targets(values, names, rows, values)


def _numbers(table: Table, task: TaskOptions, rules: CellRules) -> Targets:
    read = np.stack([number_cells(table, column, rules) for column in task.columns], axis=1)
    rows = np.flatnonzero(~np.isnan(read).all(axis=1))
    values = read[rows]
    first = values[:, 0]
    known = first[~np.isnan(first)]
    strata = np.searchsorted(np.quantile(known, QUARTERS), first) if known.size else first * 0
    return Targets(values.astype(np.float32), task.columns, rows, strata.astype(np.int64))
