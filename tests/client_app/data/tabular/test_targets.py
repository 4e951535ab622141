"""What a table's rows are to predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client_app.data.cells import CellRules
from client_app.data.findings import Findings
from client_app.data.tabular.cells import TableRules
from client_app.data.tabular.reading import Table
from client_app.data.tabular.targets import table_targets
from client_app.data.task_options import read_tasks
from fedstrata.support.errors import UserError

RULES = TableRules(CellRules(), public=True)


def table(**cells) -> Table:
    columns = {name: np.array(each, dtype=object) for name, each in cells.items()}
    rows = len(next(iter(columns.values())))
    return Table(Path("t.csv"), columns, {}, np.arange(2, rows + 2))


def read(tables, tasks, configured=None, findings=None):
    (task,) = read_tasks(tasks)
    return table_targets(
        tables, task, configured, RULES, deployed=False, findings=findings or Findings()
    )


def test_classes_are_those_of_all_tables() -> None:
    findings = Findings()
    tables = [table(label=["b", "", "b"]), table(label=["a", "", ""])]
    targets = read(tables, ["label"], findings=findings)
    assert (targets.classes, targets.rows.tolist(), targets.values.tolist()) == (
        ("a", "b"),
        [0, 2],
        [1, 1],
    )
    assert findings.left_out == {"no label": 1}  # of the first table alone


def test_classes_of_other_tables_are_not_needed_where_they_are_configured() -> None:
    tables = [table(label=["b", "a"]), table(label=["x", "y"])]
    assert read(tables, ["label"], {"label": ["b", "a"]}).values.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"'x' is not among data.classes"):
        read(tables[1:], ["label"], {"label": ["b", "a"]})


def test_several_labels_stand_in_several_columns() -> None:
    tasks = {"chest": {"columns": ["mass", "edema"], "kind": "labels"}}
    targets = read([table(mass=["1", "0"], edema=["", "1"])], tasks)
    assert targets.classes == ("mass", "edema")
    assert np.array_equal(targets.values, [[1, np.nan], [0, 1]], equal_nan=True)


def test_numbers_of_several_columns() -> None:
    tasks = {"size": {"columns": ["w", "h"], "kind": "number"}}
    targets = read([table(w=["1", "2", "na"], h=["na", "4", ""])], tasks)
    assert targets.rows.tolist() == [0, 1]
    assert np.array_equal(targets.values, [[1, np.nan], [2, 4]], equal_nan=True)
