"""The options of `data=tabular`, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from client_app.data.sharing import ExampleOptions
from client_app.data.site_split import SiteSplit
from client_app.data.splitting import check_fractions
from client_app.data.tables import TableFormat
from client_app.data.task_options import TaskOptions, read_tasks
from fedstrata.protocol import sums
from fedstrata.protocol.categories import MOST_CATEGORIES
from fedstrata.support.errors import UserError, nearest

# Of the scale: by sums of all sites. Of categories: those that all sites name.
AGREED = sums.AGREED
IMPUTE = ("mean", "median", "indicator", "drop")
STANDARDIZE = ("none", "site", AGREED)


@dataclass(frozen=True)
class TabularOptions(ExampleOptions):
    """The options of ``conf/data/tabular.yaml``, which says what each means."""

    file: str | None
    delimiter: str | None
    encoding: str | None
    tasks: Any
    classes: dict[str, list[str]] | None
    features: list[str] | None
    exclude: list[str]
    categories: dict[str, Any] | None
    impute: str
    standardize: str
    constants: dict[str, Any] | None
    validation_fraction: float
    test_fraction: float
    largest_mb: int
    site_split: SiteSplit

    def __post_init__(self) -> None:
        check_fractions(self.validation_fraction, self.test_fraction)
        for name, value, choices in (
            ("impute", self.impute, IMPUTE),
            ("standardize", self.standardize, STANDARDIZE),
        ):
            if value not in choices:
                raise UserError(
                    f"data.{name}: one of {', '.join(choices)}, not {value[:80]!r} "
                    f"(nearest: {nearest(value, choices)})"
                )
        self.check_examples()
        self.table_format()
        if self.largest_mb < 1:
            raise UserError("data.largest_mb: at least 1")
        self._check_columns()

    def _check_columns(self) -> None:
        """Refuse lists of columns that contradict each other."""
        features = self.features
        if features is not None and (not features or len(set(features)) < len(features)):
            raise UserError(
                "data.features: name columns, each once, as in [age, sex]; or null for all others"
            )
        if features is not None and self.exclude:
            raise UserError(
                "data.exclude is for data.features=null: leave the columns out of data.features"
            )
        for column in self.by_category:
            if features is not None and column not in features:
                raise UserError(
                    f"data.categories.{column}: not in data.features, which has "
                    f"{nearest(column, features)}; add it there"
                )
        for task in self.named_tasks():
            for column in task.columns:
                if features is not None and column in features:
                    raise UserError(
                        f"data.features: {column!r} is what task {task.name!r} predicts; leave it "
                        "out there"
                    )
        for column in self.by_category:
            self.categories_of(column)

    def table_format(self) -> TableFormat:
        """Return how CSV files are written."""
        return TableFormat(self.delimiter, self.encoding)

    @property
    def by_category(self) -> Mapping[str, Any]:
        """``data.categories``; empty for null."""
        return self.categories or {}

    def named_tasks(self) -> tuple[TaskOptions, ...]:
        """Return the tasks; without any, that of the column ``label``."""
        return read_tasks(self.tasks) or read_tasks(["label"])

    def categories_of(self, column: str) -> tuple[str, ...] | None:
        """Return the configured categories of a column; None where the sites name them."""
        given = self.by_category[column]
        if given == AGREED:
            return None
        names = () if isinstance(given, str | Mapping) else given
        if not isinstance(names, Sequence) or not 2 <= len(set(map(str, names))) == len(names):
            raise UserError(
                f"data.categories.{column}: two names or more, each once, as in [1, 2, 3]; or "
                f"{AGREED}"
            )
        if len(names) > MOST_CATEGORIES:
            raise UserError(f"data.categories.{column}: at most {MOST_CATEGORIES} categories")
        return tuple(map(str, names))
