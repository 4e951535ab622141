"""What a table's rows are to predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.tabular.cells import CellRules
from client_app.data.tabular.reading import Table
from client_app.data.tabular.targets import read_targets
from client_app.data.task_options import TaskOptions, read_tasks
from fedstrata.support.errors import UserError

RULES = CellRules.of(["", "?"], ".", public=True)


def read(task: TaskOptions, configured=None, **cells):
    columns = {name: np.array(each, dtype=object) for name, each in cells.items()}
    rows = len(next(iter(columns.values())))
    table = Table(Path("t.csv"), columns, {}, np.arange(2, rows + 2))
    return read_targets(table, task, configured, RULES, deployed=False)


(CLASSES,) = read_tasks(["label"])
(NUMBERS,) = read_tasks({"size": {"columns": ["w", "h"], "kind": "number"}})


def test_rows_without_a_class_are_left_out() -> None:
    targets = read(CLASSES, label=["b", "?", "a", ""])
    assert (targets.names, targets.rows.tolist(), targets.values.tolist()) == (
        ("a", "b"),
        [0, 2],
        [1, 0],
    )


def test_classes_are_numbered_as_configured() -> None:
    targets = read(CLASSES, {"label": ["b", "a"]}, label=["b", "a"])
    assert targets.values.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"class 'c' is not among data.classes"):
        read(CLASSES, {"label": ["b", "a"]}, label=["b", "c"])


def test_numbers_of_several_columns() -> None:
    targets = read(NUMBERS, w=["1", "2", "?"], h=["?", "4", ""])
    assert (targets.names, targets.rows.tolist()) == (("w", "h"), [0, 1])
    assert np.array_equal(targets.values, [[1, np.nan], [2, 4]], equal_nan=True)
    assert targets.values.dtype == np.float32


def test_numbers_are_spread_by_their_quarters() -> None:
    (task,) = read_tasks({"w": {"kind": "number"}})
    targets = read(task, w=[str(number) for number in range(8)])
    assert targets.strata.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
