"""Turns the cells of a task's columns into targets: the one place that says what a label is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
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
from client_app.data.classes import class_names, configured_names, name_labels, warn_of_missing
from client_app.data.findings import Findings
from client_app.data.task_options import TaskOptions
from fedstrata.protocol.task_kinds import CLASSES, LABELS, TaskKind
from fedstrata.support.errors import PrivateText, UserError, as_private_text, private

Values = NDArray[np.int64] | NDArray[np.float32]
NO_LABEL = "no label"  # the reason for which an example is left out
_LARGEST = float(np.finfo(np.float32).max)
_UNCERTAIN = {
    "ignore": "count as not known",
    "positive": "count as 1",
    "negative": "count as 0",
}
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
        Notes what was left out, and how labels were taken.

    Raises
    ------
    UserError
        No example has a label, or the cells are not what the kind needs.
    """
    reader = _Reader(cells, task, rules, configured, deployed, findings)
    read = {CLASSES: reader.classes, LABELS: reader.labels}.get(task.kind.name, reader.numbers)
    targets = read()
    reader.count_missing()
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


@dataclass(frozen=True)
class _Reader:
    """Reads the cells of one task; the fields are the parameters of `read_targets`."""

    cells: Cells
    task: TaskOptions
    rules: CellRules
    configured: Mapping[str, Sequence[str]] | None
    deployed: bool
    findings: Findings

    @property
    def names(self) -> tuple[str, ...]:
        """The configured names of the outputs; empty where there are none."""
        return configured_names(self.configured, self.task.name)

    def count_missing(self) -> None:
        """Count the cells without a value by column; those that are configured names have one."""
        for name, column in zip(self.task.columns, self.cells.columns, strict=True):
            counted = Counter(column)
            self.findings.miss(
                name, sum(n for cell, n in counted.items() if self._is_missing(cell))
            )

    def _is_missing(self, cell: str) -> bool:
        if self.cells.folders:
            return False
        return self.rules.is_missing(cell) and normal(cell) not in self.names

    def classes(self) -> Targets:
        """Read a column with a class in each cell."""
        task = self.task
        if len(task.columns) > 1:
            raise UserError(
                f"data.tasks.{task.name}: classes stand in one column, and {len(task.columns)} are "
                f"named; write data.tasks.{task.name}.kind=labels for several labels at once"
            )
        rows, values = self._present()
        self._reject_several(dict.fromkeys(values))
        named, classes = self._named(rows, [[value] for value in values])
        index = {name: number for number, name in enumerate(classes)}
        indices = np.array([index[named[value]] for value in values], dtype=np.int64)
        return Targets(np.array(rows, dtype=np.int64), classes, indices, task.kind)

    def labels(self) -> Targets:
        """Read several labels: in one column, or one column each."""
        if len(self.task.columns) == 1:
            rows, values = self._present()
            flags = all(_flag(value, self.rules) is not None for value in set(values))
            if not (flags and len(self.names) < 2):
                return self._labels_in_one_column(rows, values)
        return self._by_column(self._flags)

    def numbers(self) -> Targets:
        """Read numbers, one column each."""
        return self._by_column(self._numbers)

    def _present(self) -> tuple[list[int], list[str]]:
        """Return the rows whose cell has a value, and the values; a configured name is one."""
        values = [normal(cell) for cell in self.cells.columns[0]]
        if self.cells.folders:
            return list(range(len(values))), values
        absent = set(filter(self.rules.is_missing, set(values))) - set(self.names)
        rows = [row for row, value in enumerate(values) if value not in absent]
        if not rows:
            raise self._no_label()
        return rows, [values[row] for row in rows]

    def _no_label(self) -> UserError:
        columns = " or ".join(repr(column) for column in self.task.columns)
        return UserError(
            as_private_text(self.cells.source)
            + f": no {self.cells.what} has a label in column {columns}"
        )

    def _named(
        self, rows: Sequence[int], labels: Sequence[Sequence[str]]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the name of each label's class, and all names, given the labels of each row."""
        several = self.task.kind.name == LABELS
        counted = Counter(label for each in labels for label in each)
        named = name_labels(
            counted,
            self.names,
            self.task,
            self.rules,
            self.findings,
            what=self.cells.what,
            folders=self.cells.folders or several,
        )
        if not self.names and not self.cells.folders:
            warn_of_missing(counted, self.task, self.rules, self.findings)
        first: dict[str, int] = {}
        for row, each in zip(rows, labels, strict=True):
            for label in each:
                first.setdefault(named[label], row)
        found = {name: self.cells.where(row) for name, row in first.items()}
        fewest = 1 if several else 2
        return named, class_names(
            self.configured, self.task.name, found, deployed=self.deployed, fewest=fewest
        )

    def _reject_several(self, labels: Collection[str]) -> None:
        """Raise a `UserError` where a cell has several labels, and the task is of one class each."""
        task = self.task
        for separator in dict.fromkeys((task.separator, "|", ";", ",")):
            for label in labels:
                parts = [part.strip() for part in label.split(separator) if part.strip()]
                sure = separator in (task.separator, "|") or all(part in labels for part in parts)
                if len(parts) > 1 and label not in self.names and sure:
                    option = f"data.tasks.{task.name}"
                    other = f" {option}.separator='{separator}'" if separator != "|" else ""
                    raise UserError(
                        f"column {task.columns[0]!r}: "
                        + private(repr(label), "a cell")
                        + f" has several labels; write {option}.kind=labels{other}, or name it in "
                        "data.classes"
                    )

    def _labels_in_one_column(self, rows: Sequence[int], values: Sequence[str]) -> Targets:
        """Read cells such as ``effusion|edema``; the task's word for none means that none holds."""
        split = {value: self._parts(value) for value in set(values)}
        named, classes = self._named(rows, [split[value] for value in values])
        index = {name: number for number, name in enumerate(classes)}
        matrix = np.zeros((len(rows), len(classes)), dtype=np.float32)
        for place, value in enumerate(values):
            matrix[place, [index[named[part]] for part in split[value]]] = 1
        return Targets(np.array(rows, dtype=np.int64), classes, matrix, self.task.kind)

    def _parts(self, value: str) -> list[str]:
        names, none = self.names, self.task.none.casefold()
        parts = [normal(part) for part in value.split(self.task.separator)]
        return [
            part
            for part in parts
            if part in names or not (self.rules.is_missing(part) or part.casefold() == none)
        ]

    def _by_column(self, read: Callable[[], NDArray[np.float32]]) -> Targets:
        """Return what ``read`` makes of the columns, one output each."""
        columns = self.task.columns
        names = self.names or columns
        if len(names) != len(columns):
            raise UserError(
                f"data.classes, task {self.task.name!r}: {len(names)} names for {len(columns)} "
                "columns"
            )
        if len(set(names)) < len(names):
            raise UserError(
                f"data.classes or data.tasks, task {self.task.name!r}: each name once, not "
                + ", ".join(map(repr, names))
            )
        matrix = read()
        used = np.flatnonzero(~np.isnan(matrix).all(axis=1))
        if not len(used):
            raise self._no_label()
        return Targets(used, tuple(names), matrix[used], self.task.kind)

    def _flags(self) -> NDArray[np.float32]:
        """Read 1, 0, -1 by the task's policy, NaN where a cell is missing."""
        uncertain = {"ignore": np.nan, "positive": 1.0, "negative": 0.0, "refuse": np.inf}
        faults, unsure = Faults(), 0
        matrix = np.full((len(self.cells), len(self.task.columns)), np.nan, dtype=np.float32)
        for place, column in enumerate(self.cells.columns):
            known: dict[str, float | None] = {
                cell: np.nan if self.rules.is_missing(cell) else _flag(normal(cell), self.rules)
                for cell in set(column)
            }
            unsure += sum(n for cell, n in Counter(column).items() if known[cell] == -1)
            known = {k: uncertain[self.task.uncertain] if v == -1 else v for k, v in known.items()}
            for row, cell in enumerate(column):
                value = known[cell]
                if value is None or np.isinf(value):
                    faults.add(self._cell(row, place) + " is not 0, 1 or empty")
                else:
                    matrix[row, place] = value
        faults.raise_any(
            "; write 0 or 1 for each label"
            f" (-1 with data.tasks.{self.task.name}.uncertain=ignore, positive or negative)"
        )
        if unsure:
            self.findings.note(
                "uncertain cells (-1): "
                + private(f"{unsure} ", "")
                + f"{_UNCERTAIN[self.task.uncertain]} (data.tasks.{self.task.name}.uncertain)"
            )
        return matrix

    def _numbers(self) -> NDArray[np.float32]:
        """Read numbers, NaN where a cell is missing."""
        rules, faults, other = self.rules, Faults(), False
        matrix = np.full((len(self.cells), len(self.task.columns)), np.nan, dtype=np.float32)
        for place, column in enumerate(self.cells.columns):
            for row, cell in enumerate(column):
                value = np.nan if rules.is_missing(cell) else rules.number(cell)
                if value is None or abs(value) > _LARGEST:
                    why = " is not a number" if value is None else " is not finite"
                    faults.add(self._cell(row, place) + why)
                    other = other or rules.looks_like_other_decimals(cell)
                else:
                    matrix[row, place] = value
        sign = "," if rules.decimal == "." else "."
        faults.raise_any(
            f'; write data.decimal="{sign}"' if other else "; correct it, or empty the cell"
        )
        for name, numbers in zip(self.task.columns, matrix.T, strict=True):
            known = numbers[~np.isnan(numbers)]
            if len(known) > 1 and known.min() == known.max():
                self.findings.warn(f"column {name!r}: all numbers to predict are the same")
        return matrix

    def _cell(self, row: int, place: int) -> PrivateText:
        """Return where a cell is, and what stands in it, for an error text."""
        cell = private(repr(self.cells.columns[place][row]), "a cell")
        return self.cells.where(row) + f", column {self.task.columns[place]!r}: " + cell


def _flag(value: str, rules: CellRules) -> float | None:
    """Return 1, 0, or -1 for uncertain; None for any other cell."""
    word = value.casefold()
    if word in TRUE or word in FALSE:
        return float(word in TRUE)
    number = rules.number(value)
    return number if number in (-1.0, 0.0, 1.0) else None
