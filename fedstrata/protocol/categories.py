"""The categories of columns that sites name once, before they join, and the list that follows.

A run asks for them where its plan says ``data.categories={column: agreed}`` and has no list yet. An
answer has the different cells of those columns, each once, and nothing of how often they occur.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedstrata.protocol.limits import Refused, one_line, printable
from fedstrata.protocol.sums import AGREED

MOST_CATEGORIES = 200  # of a column
MOST_COLUMNS = 200
MOST_CHARACTERS = 80  # of a category
MOST_IN_ALL = 10_000  # characters of all categories: a plan with them must fit in an order
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class CategoriesReport:
    """What a site answers where it is asked for categories.

    Parameters
    ----------
    site : str
        The site's name.
    columns : mapping of str to tuple of str
        By column, the different cells that have a value, sorted.
    error : str
        Why there are none, or "".
    later : bool
        Whether the site may answer at another time.
    """

    site: str
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""
    later: bool = False

    def checked(self) -> CategoriesReport:
        """Return the report with its error on one line; raise Refused for too many or odd names."""
        if self.error:
            return CategoriesReport(self.site, error=one_line(self.error), later=self.later)
        check_columns(self.columns)
        # In one order: another one could carry something else.
        ordered = {column: tuple(sorted(self.columns[column])) for column in sorted(self.columns)}
        return CategoriesReport(self.site, ordered, later=self.later)


def check_columns(columns: Mapping[str, Iterable[str]]) -> None:
    """Raise Refused for more categories, or other texts, than may travel; it has none of them."""
    total = 0
    if len(columns) > MOST_COLUMNS:
        raise Refused(f"categories of {len(columns)} columns; at most {MOST_COLUMNS} are taken")
    for column, given in columns.items():
        names = list(given)
        total += sum(map(len, names))
        where = repr(printable(column)[:MOST_CHARACTERS])
        if len(set(names)) < len(names) or len(names) > MOST_CATEGORIES:
            raise Refused(
                f"column {where} has {len(names)} categories; at most {MOST_CATEGORIES} are taken, "
                "each once: this looks like an identifier or like text; leave this column out"
            )
        if not all(0 < len(name) <= MOST_CHARACTERS and name == printable(name) for name in names):
            raise Refused(
                f"a category of column {where} is no name: names are printable and have at most "
                f"{MOST_CHARACTERS} characters"
            )
    if total > MOST_IN_ALL:
        raise Refused(
            f"the names of all categories have {total} characters; at most {MOST_IN_ALL} are taken"
        )


def open_columns(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of a plan's ``data`` whose categories the sites name."""
    given = data.get("categories")
    if not isinstance(given, Mapping):
        return ()
    return tuple(sorted(str(column) for column, names in given.items() if names == AGREED))


def in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Return categories sorted and once each; where all are numbers, by value and as ``1``."""
    found = {word for word in words if word}
    if not all(map(NUMBER.fullmatch, found)):
        return tuple(sorted(found))
    values = sorted({float(word) for word in found})
    return tuple(str(int(v)) if v.is_integer() else repr(v) for v in values)


def united(reports: Iterable[CategoriesReport]) -> dict[str, list[str]]:
    """Return by column the categories of all sites, the same in whatever order they answered."""
    columns: dict[str, set[str]] = {}
    for report in reports:
        for column, names in report.columns.items():
            columns.setdefault(column, set()).update(names)
    return {column: list(in_order(names)) for column, names in sorted(columns.items())}
