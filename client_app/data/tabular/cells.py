"""The cells of a column as numbers or as categories; every wrong cell is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client_app.data.cells import MOST_NAMED, CellRules, normal
from client_app.data.paths import describe_file
from client_app.data.tabular.reading import Cells, Table
from fedstrata.support.errors import PrivateText, UserError, private

MISSING = -1  # instead of a category's number
_POINT = CellRules()


@dataclass(frozen=True)
class TableRules:
    """How the cells of a table are read.

    Parameters
    ----------
    cells : CellRules
        Which mean that nothing is known, and what the decimal mark is.
    public : bool
        Whether the names of columns may leave the site: they are in the configuration.
    """

    cells: CellRules
    public: bool

    def column(self, name: str) -> PrivateText:
        """Return a column for an error text."""
        return private(f"column {name!r}", f"column {name!r}" if self.public else "a column")


def number_cells(table: Table, name: str, rules: TableRules) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where it is not known; raise UserError for other cells."""
    found, wrong = as_numbers(table.columns[name], rules)
    if not wrong.size:
        return found
    cells = table.columns[name]
    advice = (
        "if it has categories, name it in data.categories; if it is no input, leave it out of "
        "data.features; if these mean that nothing is known, add them to data.missing"
    )
    if cells.dtype == object and rules.cells.looks_like_other_decimals(cells[wrong[0]]):
        mark = "," if rules.cells.decimal == "." else "."
        advice = f"if the decimal mark is {mark!r}, write data.decimal='{mark}'; {advice}"
    raise _wrong_cells(table, name, wrong, rules, "no number", advice)


def as_numbers(cells: Cells, rules: TableRules) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return cells as numbers, and the rows of those that are none."""
    if cells.dtype != object:
        values = np.asarray(cells, dtype=np.float64)
        return values, np.flatnonzero(np.isinf(values))
    read: dict[str, float | None] = {}  # None for what is no number
    for cell in set(cells):
        read[cell] = _number(cell, rules)
    values = np.array([read[cell] if read[cell] is not None else math.inf for cell in cells])
    values = values.astype(np.float64)
    return values, np.flatnonzero(np.isinf(values))


def _number(cell: str, rules: TableRules) -> float | None:
    return math.nan if rules.cells.is_missing(cell) else rules.cells.number(cell)


def words(cells: Cells, rules: TableRules) -> list[str]:
    """Return cells as texts, "" where nothing is known: whole numbers without ``.0``."""
    if cells.dtype != object:
        return [_plain(value) for value in cells.tolist()]
    kept = {cell: "" if rules.cells.is_missing(cell) else normal(cell) for cell in set(cells)}
    return [kept[cell] for cell in cells]


def _plain(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def category_cells(
    table: Table, name: str, categories: Sequence[str], rules: TableRules
) -> NDArray[np.int64]:
    """Return each cell's number in ``categories``, and `MISSING` where nothing is known.

    Where a category and a cell are numbers, they are compared as such: ``1.0`` is ``1``.

    Raises
    ------
    UserError
        A cell is none of the categories.
    """
    found, wrong = as_categories(table.columns[name], categories, rules)
    if wrong.size:
        shown = ", ".join(repr(each) for each in categories[:MOST_NAMED])
        there = f"data.categories.{name} has {shown}" if rules.public else "data.categories has it"
        advice = (
            private(there, there if rules.public else "data.categories lacks them")
            + "; add them there at every site, or to data.missing if they mean that nothing is known"
        )
        raise _wrong_cells(table, name, wrong, rules, "no category of it", advice)
    return found


def as_categories(
    cells: Cells, categories: Sequence[str], rules: TableRules
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return cells as numbers of categories or `MISSING`, and the rows of those that are neither."""
    named = words(cells, rules)
    find = _finder(categories)
    numbers = {cell: MISSING if not cell else find(cell) for cell in set(named)}
    found = [MISSING if (n := numbers[cell]) is None else n for cell in named]
    wrong = [row for row, cell in enumerate(named) if numbers[cell] is None]
    return np.array(found, dtype=np.int64), np.array(wrong, dtype=np.int64)


def _finder(categories: Sequence[str]) -> Callable[[str], int | None]:
    by_word = {normal(category): number for number, category in enumerate(categories)}
    by_value = {
        value: number
        for number, category in enumerate(categories)
        if (value := _POINT.number(category)) is not None
    }

    def find(cell: str) -> int | None:
        if cell in by_word:
            return by_word[cell]
        value = _POINT.number(cell)
        return None if value is None else by_value.get(value)

    return find


def _wrong_cells(
    table: Table,
    name: str,
    rows: NDArray[np.int64],
    rules: TableRules,
    what: str,
    advice: str | PrivateText,
) -> UserError:
    """Return the error for wrong cells: the first few with their lines, and how many there are."""
    cells = table.columns[name]
    shown = ", ".join(f"{str(cells[r])[:40]!r} in line {table.lines[r]}" for r in rows[:MOST_NAMED])
    more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    count = f"{len(rows)} cells are" if len(rows) > 1 else "1 cell is"
    return UserError(
        describe_file(table.path)
        + ", "
        + rules.column(name)
        + f": {count} {what}"
        + private(f" ({shown}{more})")
        + "; "
        + advice
    )


def missing_counts(gaps: Mapping[str, int]) -> str:
    """Return how many cells of each column are not known, for a note: ``age 3, chol 20``."""
    return ", ".join(f"{name} {count}" for name, count in gaps.items() if count)
