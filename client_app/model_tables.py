"""Rows of a table as a model's card says; a row with a cell that cannot be read is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.arrays import stamp
from client_app.data.cells import CellRules
from client_app.data.paths import describe_file
from client_app.data.tables import TableFormat
from client_app.data.tabular import reading
from client_app.data.tabular.cells import MISSING, TableRules, as_categories, as_numbers
from client_app.data.tabular.encoding import Feature, encode, filled_with
from fedstrata.support.errors import UserError, private
from models.preprocessing import Column, Table

LARGEST = 512 << 20  # bytes of a table
MOST_NAMED = 5  # categories, or columns, that a text names


@dataclass(frozen=True)
class TableInputs:
    """The rows of a file that a model can be used on.

    Parameters
    ----------
    values : NDArray[np.float32]
        Shape ``(n, d)``, as the network takes them.
    lines : tuple of int
        Where each row is in the file.
    wrong : tuple of str
        Which rows were left out, and why.
    notes : tuple of str
        What was put in where nothing is known.
    """

    values: NDArray[np.float32]
    lines: tuple[int, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]


def read_rows(given: Table, path: Path, of_run: Collection[int] | None = None) -> TableInputs:
    """Read a table, and leave out rows with a cell that the model does not know.

    Parameters
    ----------
    given : Table
        Of the model's card.
    path : Path
        The file.
    of_run : collection of int, optional
        The lines of the run that are wanted; no others are read. Their gaps are filled as the run
        did, although no training row had one.

    Raises
    ------
    UserError
        The file cannot be read, or lacks a column.
    """
    table = reading.read_table(stamp(path), LARGEST, TableFormat(given.delimiter, given.encoding))
    absent = [column.name for column in given.columns if column.name not in table.columns]
    if absent:
        named = ", ".join(map(repr, absent[:MOST_NAMED]))
        raise UserError(describe_file(path) + private(f": no column {named}", ": lacks columns"))
    if of_run is not None:
        table = _taken(table, np.flatnonzero(np.isin(table.lines, [*of_run])))
    rules = TableRules(CellRules(given.missing, decimal=given.decimal), public=True)
    faults: dict[int, list[str]] = defaultdict(list)
    gaps: dict[Column, NDArray[np.bool_]] = {}
    for column in given.columns:
        wrong, gaps[column] = _examined(column, table, rules)
        for row, reason in wrong.items():
            faults[row].append(reason)
        if refused := _why_no_gap(column, given.impute, of_run=of_run is not None):
            for row in np.flatnonzero(gaps[column]).tolist():
                faults[row].append(f"column {column.name!r} has no value, and {refused}")
    kept = np.setdiff1d(np.arange(len(table)), np.array([*faults], dtype=np.int64))
    said = (private(f": {'; '.join(faults[row])}", ": a cell is wrong") for row in sorted(faults))
    left_out = (
        str(UserError(table.source(row) + why))
        for row, why in zip(sorted(faults), said, strict=True)
    )
    values = _values(given, _taken(table, kept), rules)
    filled = {column: int(each[kept].sum()) for column, each in gaps.items()}
    notes = tuple(
        _filled(path, column, count, len(kept)) for column, count in filled.items() if count
    )
    return TableInputs(values, tuple(table.lines[kept].tolist()), tuple(left_out), notes)


def _taken(table: reading.Table, rows: NDArray[np.int64]) -> reading.Table:
    columns = {name: cells[rows] for name, cells in table.columns.items()}
    return reading.Table(table.path, columns, table.unread, table.lines[rows])


def _examined(
    column: Column, table: reading.Table, rules: TableRules
) -> tuple[Mapping[int, str], NDArray[np.bool_]]:
    """Return what is wrong with cells, by row, and in which rows there is no value."""
    cells = table.columns[column.name]
    if column.categories:
        codes, wrong = as_categories(cells, column.categories, rules)
        gaps = np.asarray(codes == MISSING)
        gaps[wrong] = False
        more = ", ..." if len(column.categories) > MOST_NAMED else ""
        known = ", ".join(map(repr, column.categories[:MOST_NAMED]))
        reason = f"no category of the model, which has {known}{more}"
    else:
        values, wrong = as_numbers(cells, rules)
        gaps, reason = np.isnan(values), "no number"
        if wrong.size and rules.cells.looks_like_other_decimals(str(cells[wrong[0]])):
            reason += f" with the decimal mark {rules.cells.decimal!r}, which the model takes"
    faults = {
        row: f"column {column.name!r} is {str(cells[row])[:40]!r}, {reason}"
        for row in wrong.tolist()
    }
    return faults, gaps


def _why_no_gap(column: Column, impute: str, *, of_run: bool) -> str:
    """Return why a row without a value in this column is left out; empty where it is not.

    Where no training row had a gap, nothing was learned for one: of a number its usual value can
    stand in, but of a category, or with an input that says "not known", there is no such value.
    """
    if impute == "drop":
        return "such rows are left out as in the training"
    unlearned = column.gaps == 0 and (bool(column.categories) or impute == "indicator")
    return "it always had one in the training" if unlearned and not of_run else ""


def _filled(path: Path, column: Column, count: int, rows: int) -> str:
    put_in = "zeros for its categories" if column.categories else f"{column.fill or 0.0:.6g}"
    return str(
        UserError(
            describe_file(path)
            + private(f": column {column.name!r} has no value in {count} of {rows} rows")
            + private(f": {put_in} put in, as in the training")
        )
    )


def _values(given: Table, table: reading.Table, rules: TableRules) -> NDArray[np.float32]:
    if not len(table):
        return np.empty((0, given.width), np.float32)
    encoded = encode(table, [Feature(each.name, each.categories) for each in given.columns], rules)
    known = [
        0.0 if column.fill is None else column.fill
        for column in given.columns
        for _ in column.categories or ("the number",)
    ]
    values = filled_with(encoded, np.array(known), given.impute).values
    scaled: NDArray[np.floating[Any]] = (values - np.array(given.mean)) / np.array(given.std)
    return scaled.astype(np.float32)
