"""Turns the cells of a task's columns into targets: the one place that says what a label is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client_app.data.cells import (
    FALSE,
    TRUE,
    CellRules,
    Cells,
    Faults,
    normal,
)
from client_app.data.classes import class_names, configured_names, name_labels
from client_app.data.findings import Findings
from client_app.data.task_options import TaskOptions
from fedstrata.protocol.task_kinds import CLASSES, LABELS, TaskKind
from fedstrata.support.errors import UserError, as_private_text, private

Values = NDArray[np.int64] | NDArray[np.float32]
NO_LABEL = "no label"  # the reason for which an example is left out
_LARGEST = float(np.finfo(np.float32).max)
STRATA = 5  # of numbers, each with as many examples


@dataclass(frozen=True)
class Targets:
    """What is predicted for each example that has a label.

    Parameters
    ----------
    rows : NDArray[np.int64]
        Which of the given examples have one, ``(m,)``, sorted.
    classes : tuple of str
        The names of the outputs: classes, labels or numbers.
    values : NDArray
        int64 class indices ``(m,)``; float32 ``(m, C)`` of 0 and 1, NaN where it is not known; or
        float32 ``(m, K)`` numbers, NaN where they are not known.
    kind : TaskKind
        Which of the three.
    """

    rows: NDArray[np.int64]
    classes: tuple[str, ...]
    values: Values
    kind: TaskKind

    def strata(self) -> NDArray[np.int64]:
        """Return one number an example, for splits with equal shares of each: int64 ``(m,)``.

        The class; of several labels the rarest that holds; of numbers the fifth of the first one.
        """
        if self.kind.name == CLASSES:
            return self.values.astype(np.int64)
        if self.kind.name == LABELS:
            holds = np.asarray(self.values == 1)  # NaN is not
            rarest = np.argsort(holds.sum(axis=0), kind="stable")
            place = np.argmax(holds[:, rarest], axis=1)
            none = len(self.classes)
            return np.where(holds.any(axis=1), rarest[place], none).astype(np.int64)
        first = np.nan_to_num(self.values[:, 0].astype(np.float64))
        cuts = np.quantile(first, np.linspace(0, 1, STRATA + 1)[1:-1])
        return np.searchsorted(cuts, first, side="right").astype(np.int64)


def read_targets(
    cells: Cells,
    task: TaskOptions,
    rules: CellRules,
    configured: Mapping[str, Sequence[str]] | None,
    *,
    deployed: bool,
    findings: Findings,
) -> Targets:
    """Return the targets of all examples that have a label; the others are counted as left out.

    Parameters
    ----------
    cells : Cells
        The cells of the columns of ``task``.
    task : TaskOptions
        Its name, columns and kind.
    rules : CellRules
        What a missing cell is, which labels are the same, how numbers are written.
    configured : mapping or None
        ``data.classes``: the names by task.
    deployed : bool
        Whether this is a real site, which sends only configured names.
    findings : Findings
        Is told what was left out, and how labels were taken.

    Raises
    ------
    UserError
        No example has a label, or the cells are not what the kind needs.
    """
    read = {CLASSES: _classes, LABELS: _labels}.get(task.kind.name, _numbers)
    targets = read(cells, task, rules, configured, deployed, findings)
    if len(targets.rows) < len(cells):
        absent = np.setdiff1d(np.arange(len(cells)), targets.rows)
        for row in absent[:10]:
            findings.leave_out(NO_LABEL, cells.where(int(row)))
        findings.left_out[NO_LABEL] += len(absent[10:])
    return targets


def has_label(
    cells: Sequence[str],
    task: TaskOptions,
    rules: CellRules,
    configured: Mapping[str, Sequence[str]] | None,
) -> bool:
    """Return whether any of an example's cells has a value; a configured name is one."""
    if not all(map(rules.is_missing, cells)):
        return True
    names = configured_names(configured, task.name)
    return any(normal(cell) in names for cell in cells)


def _present(
    cells: Cells, column: Sequence[str], rules: CellRules, names: Sequence[str], task: TaskOptions
) -> tuple[list[int], list[str]]:
    """Return the rows whose cell has a value, and the values; a configured name is one."""
    values = [normal(cell) for cell in column]
    if cells.folders:
        return list(range(len(values))), values
    absent = {each for each in set(values) if rules.is_missing(each) and each not in names}
    rows = [row for row, value in enumerate(values) if value not in absent]
    if not rows:
        raise _no_label(cells, task)
    return rows, [values[row] for row in rows]


def _no_label(cells: Cells, task: TaskOptions) -> UserError:
    columns = " or ".join(repr(column) for column in task.columns)
    return UserError(
        as_private_text(cells.source) + f": no {cells.what} has a label in column {columns}"
    )


def _classes(
    cells: Cells,
    task: TaskOptions,
    rules: CellRules,
    configured: Mapping[str, Sequence[str]] | None,
    deployed: bool,
    findings: Findings,
) -> Targets:
    if len(task.columns) > 1:
        raise UserError(
            f"data.tasks.{task.name}: classes stand in one column, and {len(task.columns)} are "
            f"named; write data.tasks.{task.name}.kind=labels for several labels at once"
        )
    names = configured_names(configured, task.name)
    rows, values = _present(cells, cells.columns[0], rules, names, task)
    labels = Counter(values)
    _reject_several(labels, task, names)
    named = name_labels(
        labels, names, task, rules, findings, what=cells.what, folders=cells.folders
    )
    first: dict[str, int] = {}
    for row, value in zip(rows, values, strict=True):
        first.setdefault(named[value], row)
    found = {name: cells.where(row) for name, row in first.items()}
    classes = class_names(configured, task.name, found, deployed=deployed)
    index = {name: number for number, name in enumerate(classes)}
    indices = np.array([index[named[value]] for value in values], dtype=np.int64)
    return Targets(np.array(rows, dtype=np.int64), classes, indices, task.kind)


def _reject_several(labels: Counter[str], task: TaskOptions, names: Sequence[str]) -> None:
    """Raise a `UserError` where a cell has several labels, and the task is of one class each."""
    for separator in dict.fromkeys((task.separator, "|", ";", ",")):
        for label in labels:
            parts = [part.strip() for part in label.split(separator) if part.strip()]
            sure = separator in (task.separator, "|") or all(part in labels for part in parts)
            if len(parts) > 1 and label not in names and sure:
                option = f"data.tasks.{task.name}"
                other = f" {option}.separator='{separator}'" if separator != "|" else ""
                raise UserError(
                    f"column {task.columns[0]!r}: "
                    + private(repr(label), "a cell")
                    + f" has several labels; write {option}.kind=labels{other}, or name it in "
                    "data.classes"
                )


def _labels(
    cells: Cells,
    task: TaskOptions,
    rules: CellRules,
    configured: Mapping[str, Sequence[str]] | None,
    deployed: bool,
    findings: Findings,
) -> Targets:
    names = configured_names(configured, task.name)
    if len(task.columns) == 1:
        rows, values = _present(cells, cells.columns[0], rules, names, task)
        flags = all(_flag(value, rules) is not None for value in set(values))
        if not (flags and len(names) < 2):
            return _labels_in_one_column(
                cells, rows, values, task, rules, configured, deployed, findings
            )
    names = names or task.columns
    if len(names) != len(task.columns):
        raise UserError(
            f"data.classes, task {task.name!r}: {len(names)} names for {len(task.columns)} columns"
        )
    matrix = _matrix(cells, task, rules)
    used = np.flatnonzero(~np.isnan(matrix).all(axis=1))
    if not len(used):
        raise _no_label(cells, task)
    return Targets(used, tuple(names), matrix[used], task.kind)


def _labels_in_one_column(
    cells: Cells,
    rows: Sequence[int],
    values: Sequence[str],
    task: TaskOptions,
    rules: CellRules,
    configured: Mapping[str, Sequence[str]] | None,
    deployed: bool,
    findings: Findings,
) -> Targets:
    """Read cells such as ``effusion|edema``; the task's word for none means that none holds."""
    names = configured_names(configured, task.name)
    split = {value: _parts(value, task, rules, names) for value in set(values)}
    labels: Counter[str] = Counter(part for value in values for part in split[value])
    named = name_labels(labels, names, task, rules, findings, what=cells.what, folders=True)
    first: dict[str, int] = {}
    for row, value in zip(rows, values, strict=True):
        for part in split[value]:
            first.setdefault(named[part], row)
    found = {name: cells.where(row) for name, row in first.items()}
    classes = class_names(configured, task.name, found, deployed=deployed, fewest=1)
    index = {name: number for number, name in enumerate(classes)}
    matrix = np.zeros((len(rows), len(classes)), dtype=np.float32)
    for place, value in enumerate(values):
        matrix[place, [index[named[part]] for part in split[value]]] = 1
    return Targets(np.array(rows, dtype=np.int64), classes, matrix, task.kind)


def _parts(value: str, task: TaskOptions, rules: CellRules, names: Sequence[str]) -> list[str]:
    parts = [normal(part) for part in value.split(task.separator)]
    kept = [part for part in parts if part in names or not rules.is_missing(part)]
    return [part for part in kept if part in names or part.casefold() != task.none.casefold()]


def _flag(value: str, rules: CellRules) -> float | None:
    """Return 1, 0, or -1 for uncertain; None for any other cell."""
    word = value.casefold()
    if word in TRUE or word in FALSE:
        return float(word in TRUE)
    number = rules.number(value)
    return number if number in (-1.0, 0.0, 1.0) else None


def _matrix(cells: Cells, task: TaskOptions, rules: CellRules) -> NDArray[np.float32]:
    """Read one column a label: 1, 0, -1 by the task's policy, NaN where a cell is missing."""
    uncertain = {"ignore": np.nan, "positive": 1.0, "negative": 0.0, "refuse": np.inf}
    faults = Faults()
    matrix = np.full((len(cells), len(task.columns)), np.nan, dtype=np.float32)
    for place, (name, column) in enumerate(zip(task.columns, cells.columns, strict=True)):
        known: dict[str, float | None] = {
            cell: np.nan if rules.is_missing(cell) else _flag(normal(cell), rules)
            for cell in set(column)
        }
        known = {k: uncertain[task.uncertain] if v == -1 else v for k, v in known.items()}
        for row, cell in enumerate(column):
            value = known[cell]
            if value is None or np.isinf(value):
                here = cells.where(row) + f", column {name!r}: " + private(repr(cell), "a cell")
                faults.add(here + " is not 0, 1 or empty")
            else:
                matrix[row, place] = value
    faults.raise_any(
        "; write 0 or 1 for each label"
        f" (-1 with data.tasks.{task.name}.uncertain=ignore, positive or negative)"
    )
    return matrix


def _numbers(
    cells: Cells,
    task: TaskOptions,
    rules: CellRules,
    configured: Mapping[str, Sequence[str]] | None,
    deployed: bool,
    findings: Findings,
) -> Targets:
    names = configured_names(configured, task.name) or task.columns
    if len(names) != len(task.columns):
        raise UserError(
            f"data.classes, task {task.name!r}: {len(names)} names for {len(task.columns)} columns"
        )
    faults, other = Faults(), False
    matrix = np.full((len(cells), len(task.columns)), np.nan, dtype=np.float32)
    for place, (name, column) in enumerate(zip(task.columns, cells.columns, strict=True)):
        for row, cell in enumerate(column):
            value = np.nan if rules.is_missing(cell) else rules.number(cell)
            finite = value is not None and not abs(value) > _LARGEST
            if value is None or not finite:
                here = cells.where(row) + f", column {name!r}: " + private(repr(cell), "a cell")
                faults.add(here + (" is not a number" if value is None else " is not finite"))
                other = other or rules.looks_like_other_decimals(cell)
            else:
                matrix[row, place] = value
    sign = "," if rules.decimal == "." else "."
    faults.raise_any(
        f'; write data.decimal="{sign}"' if other else "; correct it, or empty the cell"
    )
    used = np.flatnonzero(~np.isnan(matrix).all(axis=1))
    if not len(used):
        raise _no_label(cells, task)
    return Targets(used, tuple(names), matrix[used], task.kind)
