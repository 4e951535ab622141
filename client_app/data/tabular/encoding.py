"""A table's rows as inputs: which columns, what fills a missing value, and on which scale."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client_app.data.cells import MOST_NAMED
from client_app.data.findings import Findings
from client_app.data.paths import describe_file
from client_app.data.tabular.cells import (
    MISSING,
    TableRules,
    as_numbers,
    category_cells,
    number_cells,
    words,
)
from client_app.data.tabular.options import TabularOptions
from client_app.data.tabular.reading import Table
from fedstrata.protocol.categories import MOST_CATEGORIES, in_order
from fedstrata.support.errors import PrivateText, UserError, nearest, private

SPLIT = "split"
# What pandas and spreadsheets call the numbers of the rows.
_ROW_NUMBERS = re.compile(r"|Unnamed: 0|__index_level_[0-9]+__")
MOST_INPUTS = 20_000  # columns of the inputs, with one for each category
_CODES = {-1.0, -9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0}
LEAST_ROWS = 20  # fewer are not judged: all numbers may differ by chance


@dataclass(frozen=True)
class Feature:
    """A column that is an input: its name, and its categories if it is no number."""

    name: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """The rows of a table as numbers, before anything is filled in.

    Parameters
    ----------
    names : tuple of str
        Of the ``d`` inputs: ``age``, or ``cp=1`` for a category.
    numbers : NDArray[np.bool_]
        Which inputs are numbers, shape ``(d,)``; the others are 0 or 1.
    values : NDArray[np.float64]
        Shape ``(n, d)``; NaN where a number is not known. Where a category is not known, all of
        its inputs are 0.
    missing : mapping of str to NDArray[np.bool_]
        By feature, the rows where it is not known.
    """

    names: tuple[str, ...]
    numbers: NDArray[np.bool_]
    values: NDArray[np.float64]
    missing: Mapping[str, NDArray[np.bool_]]

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        """Return some of the rows."""
        missing = {name: each[rows] for name, each in self.missing.items()}
        return Encoded(self.names, self.numbers, self.values[rows], missing)

    def gaps(self, rows: NDArray[np.int64] | slice = slice(None)) -> dict[str, int]:
        """Return in how many of some rows each feature is not known."""
        counted = np.stack(list(self.missing.values()))[:, rows].sum(axis=1)
        return dict(zip(self.missing, counted.tolist(), strict=True))

    @property
    def incomplete(self) -> NDArray[np.bool_]:
        """Which rows have something that is not known."""
        unknown = np.stack(list(self.missing.values())).sum(axis=0)
        return np.asarray(unknown > 0)


def choose_features(
    options: TabularOptions,
    tables: Sequence[Table],
    others: Sequence[str],
    rules: TableRules,
    findings: Findings,
    *,
    deployed: bool = False,
) -> tuple[Feature, ...]:
    """Return the columns that are inputs, in the same order at every site.

    Parameters
    ----------
    options : TabularOptions
        They name the columns, or leave it to the file.
    tables : sequence of Table
        The site's; in a simulation those of all sites, of which categories are found.
    others : sequence of str
        Columns that are no inputs: those of labels, splits and sites.
    rules : TableRules
        How cells are read.
    findings : Findings
        Where it is noted which columns were taken.
    deployed : bool
        Whether other sites have categories that these tables lack. Then the site's own stand in
        for those of all until the plan has these.

    Raises
    ------
    UserError
        A column is missing, or is neither number nor configured as a category.
    """
    own = tables[0]
    names = options.features
    if names is None:
        names = _all_others(options, tables, others, rules, findings)
    for name in names:
        require_column(own, name, rules)
    features = [
        Feature(name, _categories(options, tables, name, rules, deployed=deployed))
        for name in names
    ]
    _reject_words(own, features, rules)
    width = sum(max(len(feature.categories), 1) for feature in features)
    if width > MOST_INPUTS:
        raise UserError(f"data.features: {width} inputs, at most {MOST_INPUTS}: leave columns out")
    return tuple(features)


def encode(table: Table, features: Sequence[Feature], rules: TableRules) -> Encoded:
    """Return all rows of a table as numbers; raise UserError for a cell that cannot be read."""
    if (values := _typed_numbers(table, features)) is not None:
        named = tuple(feature.name for feature in features)
        unknown = dict(zip(named, np.isnan(values).T, strict=True))
        return Encoded(named, np.ones(len(named), dtype=np.bool_), values, unknown)
    names: list[str] = []
    parts: list[NDArray[np.float64]] = []
    missing: dict[str, NDArray[np.bool_]] = {}
    is_number: list[bool] = []
    for feature in features:
        if feature.categories:
            codes = category_cells(table, feature.name, feature.categories, rules)
            missing[feature.name] = codes == MISSING
            parts.append((codes[:, None] == np.arange(len(feature.categories))).astype(np.float64))
            names += [f"{feature.name}={category}" for category in feature.categories]
        else:
            values = number_cells(table, feature.name, rules)
            missing[feature.name] = np.isnan(values)
            parts.append(values[:, None])
            names.append(feature.name)
        is_number += [not feature.categories] * parts[-1].shape[1]
    return Encoded(tuple(names), np.array(is_number), np.concatenate(parts, axis=1), missing)


def _typed_numbers(table: Table, features: Sequence[Feature]) -> NDArray[np.float64] | None:
    """Return the rows where every input is a column of typed numbers, all of them finite or NaN."""
    columns = [table.columns[feature.name] for feature in features]
    if any(f.categories or c.dtype == object for f, c in zip(features, columns, strict=True)):
        return None
    values = np.stack(columns, axis=1).astype(np.float64, copy=False)
    return None if np.isinf(values).any() else values


def fill(encoded: Encoded, train: NDArray[np.int64], impute: str) -> Encoded:
    """Fill in missing numbers from the site's own training rows.

    Parameters
    ----------
    encoded : Encoded
        All rows of the site.
    train : NDArray[np.int64]
        Those for training.
    impute : str
        ``mean``, ``median``, ``drop`` (nothing is missing then), or ``indicator``: the mean, and
        an input more for each feature, which is 1 where it was not known.

    Returns
    -------
    Encoded
        A column without any value at the site becomes 0.
    """
    return filled_with(encoded, fill_values(encoded, train, impute), impute)


def filled_with(encoded: Encoded, known: NDArray[np.float64], impute: str) -> Encoded:
    """Fill in missing numbers: those of input ``i`` become ``known[i]``; else as `fill`."""
    unknown_numbers = np.isnan(encoded.values) & encoded.numbers
    values = np.where(unknown_numbers, known, encoded.values)
    if impute != "indicator":
        return Encoded(encoded.names, encoded.numbers, values, encoded.missing)
    unknown = np.stack([each.astype(np.float64) for each in encoded.missing.values()], axis=1)
    return Encoded(
        (*encoded.names, *(f"{name} missing" for name in encoded.missing)),
        np.concatenate([encoded.numbers, np.zeros(unknown.shape[1], dtype=np.bool_)]),
        np.concatenate([values, unknown], axis=1),
        encoded.missing,
    )


def fill_values(encoded: Encoded, train: NDArray[np.int64], impute: str) -> NDArray[np.float64]:
    """Return what a missing number of each input becomes, shape ``(d,)``; arguments as of `fill`."""
    average = np.median if impute == "median" else np.mean
    made = np.zeros(len(encoded.names))
    if not len(train):
        return made
    # A row for each input: its numbers stand side by side, and add up as they do by themselves.
    chosen = np.ascontiguousarray(encoded.values[train].T)
    gaps = np.isnan(chosen).any(axis=1)
    whole = encoded.numbers & ~gaps
    made[whole] = average(chosen[whole], axis=1)
    for column in np.flatnonzero(encoded.numbers & gaps):
        known = chosen[column][~np.isnan(chosen[column])]
        made[column] = average(known) if known.size else 0.0
    return made


def scale_of(
    encoded: Encoded, train: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each input over the training rows: 0 and 1 of no number.

    A number that is the same in all of them has the deviation 1.
    """
    chosen = encoded.values[train]
    mean, std = chosen.mean(axis=0), chosen.std(axis=0)
    constant = std <= 1e-12 * np.abs(mean)
    return np.where(encoded.numbers, mean, 0.0), np.where(encoded.numbers & ~constant, std, 1.0)


def warn_of_columns(encoded: Encoded, train: NDArray[np.int64], findings: Findings) -> None:
    """Warn of inputs without use, the same in all training rows or another in each, and of codes."""
    chosen = encoded.values[train]
    _warn_of_codes(encoded, chosen, findings)
    # Both pass over what is not known, and are NaN where nothing is.
    least, most = np.fmin.reduce(chosen, initial=np.nan), np.fmax.reduce(chosen, initial=np.nan)
    constant = (least == most) | np.isnan(least)
    same = [encoded.names[column] for column in np.flatnonzero(constant)]
    if same:
        findings.warn(private(f"the same in all training rows: {_named(same)}"))
    if len(train) < LEAST_ROWS:
        return
    whole = encoded.numbers & (np.isnan(chosen) | (chosen == np.floor(chosen))).all(axis=0)
    each = [
        encoded.names[column]
        for column in np.flatnonzero(whole)
        if len(np.unique(encoded.values[:, column])) == len(encoded.values)
    ]
    if each:
        findings.warn(
            private(f"another whole number in every row, as an identifier has: {_named(each)}")
            + "; leave such columns out of data.features"
        )


def _warn_of_codes(encoded: Encoded, chosen: NDArray[np.float64], findings: Findings) -> None:
    """Warn of numbers such as -999 that are far from all others: they often mean "not known"."""
    found = []
    holds_code = np.isin(chosen, list(_CODES)).any(axis=0)
    for column in np.flatnonzero(encoded.numbers & holds_code):
        known = chosen[~np.isnan(chosen[:, column]), column]
        for code in _CODES & set(known.tolist()):
            others = known[known != code]
            many = len(known) - len(others)
            if many > 1 and _is_far(code, others):
                found.append(f"{encoded.names[column]!r} {code:g} ({many} rows)")
    if found:
        findings.warn(
            "far from all other values, as a code for what is not known: "
            + private(", ".join(found[:MOST_NAMED]), "some numbers")
            + "; if it is one, add it to data.missing"
        )


def _is_far(code: float, others: NDArray[np.float64]) -> bool:
    """Return whether it is farther from the nearest of two values or more than these are apart."""
    if not len(others) or others.min() == others.max():
        return False
    return bool(np.abs(others - code).min() > others.max() - others.min())


def _all_others(
    options: TabularOptions,
    tables: Sequence[Table],
    others: Sequence[str],
    rules: TableRules,
    findings: Findings,
) -> list[str]:
    """Return all columns of a file but those that are no inputs; the files of all sites have them."""
    own = tables[0]
    for name in options.exclude:
        require_column(own, name, rules)
    header = [*own.columns, *own.unread]
    for table in tables[1:]:
        if odd := sorted({*table.columns, *table.unread} ^ set(header)):
            raise UserError(
                describe_file(table.path)
                + private(f": {_named(odd)}", ": some columns")
                + " not in the files of all sites: name those of all in data.features"
            )
    numbering = [name for name in header if _ROW_NUMBERS.fullmatch(name)]
    left = {*others, *options.exclude, *numbering}
    names = [name for name in header if name not in left]
    if not names:
        raise UserError(describe_file(own.path) + ": no column is left to learn from")
    findings.note(private(f"data.features=null: {len(names)} inputs, {_named(names)}"))
    if numbering:
        findings.leave_out("row numbers", private(", ".join(map(repr, numbering))), len(numbering))
    return names


def _categories(
    options: TabularOptions,
    tables: Sequence[Table],
    name: str,
    rules: TableRules,
    *,
    deployed: bool,
) -> tuple[str, ...]:
    """Return the categories of a column: configured, or found in the tables; none of a number."""
    if name not in options.by_category:
        return ()
    configured = options.categories_of(name)
    if configured is not None:
        return configured
    found = in_order(words_in(tables, name, rules))
    where = f"data.categories.{name}=agreed: "
    if len(found) < 2 and not deployed:
        raise UserError(where + f"the data have {len(found)} categories: leave this column out")
    if len(found) > MOST_CATEGORIES:
        raise UserError(
            where + f"the data have {len(found)} categories, at most {MOST_CATEGORIES}: this looks "
            "like an identifier or like text; leave this column out"
        )
    return found


def words_in(tables: Sequence[Table], name: str, rules: TableRules) -> set[str]:
    """Return the different cells of a column that have a value, in all tables that have it."""
    return {
        word
        for each in tables
        if name in each.columns
        for word in words(each.columns[name], rules)
        if word
    }


def require_column(table: Table, name: str, rules: TableRules) -> None:
    """Raise UserError for a column that a file does not have, or that cannot be read."""
    if name in table.columns:
        return
    where = describe_file(table.path) + ": "
    if name in table.unread:
        of = private(f" of the type {table.unread[name]}", " of a type")
        raise UserError(
            where + rules.column(name) + " is" + of + " that is neither number nor text"
        )
    there = private(f"; there is {nearest(name, table.columns)}")
    raise UserError(where + f"no column {name!r}" + there)


def _reject_words(table: Table, features: Sequence[Feature], rules: TableRules) -> None:
    """Raise one UserError for all columns that mostly hold words and have no categories."""
    wordy = [
        feature.name
        for feature in features
        if not feature.categories and _mostly_words(table, feature.name, rules)
    ]
    if not wordy:
        return
    raise UserError(
        describe_file(table.path)
        + _some(wordy, rules)
        + ": these hold words, not numbers; name their categories, as in data.categories={"
        + private(f"{wordy[0]}: ", "column: ")
        + "[a, b]}, or leave them out (data.features, or data.exclude)"
    )


def _mostly_words(table: Table, name: str, rules: TableRules) -> bool:
    cells = table.columns[name]
    if cells.dtype != object:
        return False
    known = sum(not rules.cells.is_missing(cell) for cell in cells)
    # With another decimal mark they are numbers too, of which the reader of numbers speaks.
    wrong = as_numbers(cells, rules)[1]
    other = sum(rules.cells.looks_like_other_decimals(cells[row]) for row in wrong)
    return 2 * (len(wrong) - other) > known


def _some(names: Sequence[str], rules: TableRules) -> PrivateText:
    return private(f", {_named(names)}", f", {_named(names)}" if rules.public else "")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more
