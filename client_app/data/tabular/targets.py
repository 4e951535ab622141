"""What the rows of a table are to predict; in a simulation, classes are those of all sites' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client_app.data.cells import Cells
from client_app.data.findings import Findings
from client_app.data.labels import Targets, read_targets
from client_app.data.paths import describe_file
from client_app.data.tabular.cells import TableRules, words
from client_app.data.tabular.reading import Table
from client_app.data.task_options import TaskOptions
from fedstrata.protocol.task_kinds import NUMBER
from fedstrata.support.errors import PrivateText


def table_targets(
    tables: Sequence[Table],
    task: TaskOptions,
    configured: Mapping[str, Sequence[str]] | None,
    rules: TableRules,
    *,
    deployed: bool,
    findings: Findings,
) -> Targets:
    """Return the targets of the first table's rows, as `read_targets` does.

    Of classes that are not configured, those in all of ``tables`` count, so that the sites of a
    simulation number them alike.
    """
    if configured is None and len(tables) > 1 and task.kind.name != NUMBER:
        found = read_targets(
            _cells(tables, task, rules),
            task,
            rules.cells,
            None,
            deployed=deployed,
            findings=Findings(),
        )
        configured = {task.name: found.classes}
    return read_targets(
        _cells(tables[:1], task, rules),
        task,
        rules.cells,
        configured,
        deployed=deployed,
        findings=findings,
    )


def _cells(tables: Sequence[Table], task: TaskOptions, rules: TableRules) -> Cells:
    """Return the cells of the task's columns in tables, one after the other."""
    places = [(table, row) for table in tables for row in range(len(table))]

    def where(example: int) -> PrivateText:
        table, row = places[example]
        return table.source(row)

    columns = [
        [word for table in tables for word in words(table.columns[column], rules)]
        for column in task.columns
    ]
    return Cells(columns, where, describe_file(tables[0].path))
