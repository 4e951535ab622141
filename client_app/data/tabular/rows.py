"""One site's rows of a table: which columns, which rows, in which split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client_app.data.arrays import stamp
from client_app.data.findings import Findings
from client_app.data.groups import likely_column
from client_app.data.labels import Targets
from client_app.data.paths import describe_file
from client_app.data.sharing import Labelled, draw_splits, share_of_site
from client_app.data.site_files import choose_file, files_of_sites
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    require_root,
)
from client_app.data.site_split import ALONE, seed_of_split, task_and_rank
from client_app.data.splitting import SplitIndices
from client_app.data.tables import row_split
from client_app.data.tabular.cells import TableRules, missing_counts, words
from client_app.data.tabular.encoding import (
    SPLIT,
    Encoded,
    Feature,
    choose_features,
    encode,
)
from client_app.data.tabular.options import TabularOptions
from client_app.data.tabular.reading import SUFFIXES, Table, read_table
from client_app.data.tabular.targets import table_targets
from client_app.data.task_options import TaskOptions
from fedstrata.support.errors import UserError, private
from fedstrata.support.seeds import derive_seed

MOSTLY = 0.99  # of the rows of a split: where fewer differ, equal ones are chance


@dataclass(frozen=True)
class SiteRows:
    """A site's rows, before anything is filled in or scaled.

    Parameters
    ----------
    name, source : str
        The site's name, and which file or value of a column it is.
    task : TaskOptions
        What is predicted.
    targets : Targets
        Of all rows of the file that the site shares.
    encoded : Encoded
        The site's own ``n`` rows.
    values : NDArray
        Their targets.
    parts : SplitIndices
        Which of them are in which split.
    features : tuple of Feature
        The columns that are inputs.
    path : Path
        The file.
    lines : NDArray[np.int64]
        Where the rows are in it.
    """

    name: str
    source: str
    task: TaskOptions
    targets: Targets
    encoded: Encoded
    values: NDArray[np.generic]
    parts: SplitIndices
    features: tuple[Feature, ...]
    path: Path
    lines: NDArray[np.int64]


def site_rows(settings: TabularOptions, info: SiteInfo, seed: int) -> SiteRows:
    """Return the site's rows of the files in its data-root."""
    root = require_root(info)
    path, own_name = choose_file(root, info, settings.file, SUFFIXES)
    tables = tables_of(settings, info, root, path)
    return rows_of_tables(settings, tables, own_name, info, seed)


def rows_of_tables(
    settings: TabularOptions,
    tables: Sequence[Table],
    own_name: str | None,
    info: SiteInfo,
    seed: int,
    draw: int | None = None,
) -> SiteRows:
    """Return a site's rows, with their targets and splits.

    Parameters
    ----------
    settings : TabularOptions
        The columns, and how their cells are read.
    tables : sequence of Table
        The site's; after it those of other sites, where columns or names are found in all.
    own_name : str or None
        The site's name where the first table is its own; None where simulated sites share it.
    info : SiteInfo
        Which site this is.
    seed : int
        The run's seed.
    draw : int, optional
        The seed with which missing splits are drawn; by default one of task and site.

    Raises
    ------
    UserError
        The site info, a column or a cell is wrong.
    """
    tasks = settings.named_tasks()
    name, rank = task_and_rank(info, [task.name for task in tasks])
    task = _task(name, tasks)
    shared = own_name is None  # a file of the site's own is not split
    column = settings.site_split.column if shared else None
    if shared and rank.count > 1:
        column = settings.site_split.required_column()
    features, encoded, every = _read(settings, tables, task, column, info)
    share = share_of_site(
        every,
        settings,
        settings.site_split,
        rank if shared else ALONE,
        seed_of_split(seed, "tabular", task.name),
        info,
    )
    site = name_of_site(info, own_name or default_name(info))
    parts = draw_splits(
        share,
        every.copies[share.rows],
        settings.validation_fraction,
        settings.test_fraction,
        derive_seed(seed, "tabular", task.name, site) if draw is None else draw,
        info.findings,
    )
    rows = every.targets.rows[share.rows]
    mine = encoded.take(rows)
    _note_missing(settings, mine, info.findings)
    source = share.source or ("" if info.deployed else own_name or "")
    return SiteRows(
        site,
        source,
        task,
        every.targets,
        mine,
        share.own.targets.values,
        parts,
        features,
        tables[0].path,
        tables[0].lines[rows],
    )


def _read(
    settings: TabularOptions,
    tables: Sequence[Table],
    task: TaskOptions,
    column: str | None,
    info: SiteInfo,
) -> tuple[tuple[Feature, ...], Encoded, Labelled]:
    """Return the inputs of the first table, its rows as numbers, and those that have a target."""
    rules = rules_of(settings, info)
    group = settings.group or likely_column(list(tables[0].columns))
    besides = [each for each in (column, group) if each]
    labels = [each for one in settings.named_tasks() for each in one.columns]
    for table in tables:
        _require(table, [*task.columns, *besides])
    features = choose_features(
        settings,
        tables,
        [*labels, SPLIT, *besides],
        rules,
        info.findings,
        deployed=info.deployed,
    )
    encoded = encode(tables[0], features, rules)
    for feature, count in encoded.gaps().items():
        info.findings.miss(feature, count)
    targets = _complete(settings, info, tables, task, encoded, rules)
    used = [*(feature.name for feature in features), *task.columns]
    every = _labelled(settings, tables[0], targets, used, rules, column, group, info.findings)
    return features, encoded, every


def _labelled(
    settings: TabularOptions,
    table: Table,
    targets: Targets,
    used: Sequence[str],
    rules: TableRules,
    column: str | None,
    group: str | None,
    findings: Findings,
) -> Labelled:
    """Return the rows that have a target, with what says to which split, site and group they belong."""

    def of(name: str) -> list[str]:
        cells = words(table.columns[name], rules)
        return [cells[row] for row in targets.rows]

    splits: list[str | None] = [None] * len(targets.rows)
    if SPLIT in table.columns:
        cells = table.columns[SPLIT]
        splits = [
            row_split({"split": str(cells[row])}, table.source(row), settings.split_names)
            for row in targets.rows
        ]
    domains = of(column) if column else None
    sides = list(zip(splits, domains or [""] * len(splits), strict=True))
    return Labelled(
        targets,
        splits,
        copies_of(row_contents(table, targets.rows, used, rules), sides, findings),
        lambda row: table.source(int(targets.rows[row])),
        "row",
        domains,
        of(group) if group else None,
        group or "",
        grouped=settings.group is not None,
    )


def row_contents(
    table: Table, rows: NDArray[np.int64], names: Sequence[str], rules: TableRules
) -> list[tuple[Hashable, ...]]:
    """Return what rows hold in some columns: equal where all of their cells are."""
    typed = [name for name in names if table.columns[name].dtype != object]
    others = [name for name in names if table.columns[name].dtype == object]
    worded = [words(table.columns[name], rules) for name in others]
    texts = [tuple(column[row] for column in worded) for row in rows]
    if not typed:
        return [*texts]
    # As bytes, since a table of numbers can have thousands of columns. Zero and NaN have one form.
    block = np.stack([table.columns[name][rows] for name in typed]).T + 0.0
    block = np.ascontiguousarray(block)  # a row's bytes stand side by side
    block[np.isnan(block)] = np.nan
    return [(block[place].tobytes(), *text) for place, text in enumerate(texts)]


def copies_of(
    rows: Sequence[Hashable], sides: Sequence[object], findings: Findings
) -> NDArray[np.int64]:
    """Return a number for each row, which rows with the same cells share.

    Parameters
    ----------
    rows : sequence of hashable
        The content of each of the ``n`` rows, as `row_contents` returns it.
    sides : sequence
        What of a row must not be the other's: its split, and its site.
    findings : Findings
        Notes where equal rows are chance: where they occur on one side too, as in tables of few
        or coarse columns. Each row has a number of its own then.
    """
    numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    on_a_side = len(set(zip(rows, sides, strict=True)))
    if on_a_side >= MOSTLY * len(rows):
        return np.array([numbers[row] for row in rows], dtype=np.int64)
    if across := on_a_side - len(numbers):
        findings.warn(
            private(f"{across} rows", "rows")
            + " are the same in two splits or at two sites; equal rows are common in this table, "
            "so all are used"
        )
    return np.arange(len(rows))


def rules_of(settings: TabularOptions, info: SiteInfo) -> TableRules:
    """Return how cells are read; raise UserError where a deployment names no columns."""
    if info.deployed and settings.features is None:
        raise UserError(
            "data.features=null: all sites need the same inputs in the same order; name their "
            "columns, as in data.features=[age,sex]"
        )
    public = settings.features is not None
    return TableRules(settings.rules(), public)


def tables_of(
    settings: TabularOptions, info: SiteInfo, root: Path, path: Path
) -> tuple[Table, ...]:
    """Return the site's table; in a simulation, and where it matters, those of all sites too."""
    largest = settings.largest_mb << 20
    written = settings.table_format()
    own = read_table(stamp(path), largest, written)
    open_ended = settings.features is None or settings.classes is None
    open_ended |= any(settings.categories_of(name) is None for name in settings.by_category)
    if info.deployed or root.is_file() or settings.file or not open_ended:
        return (own,)
    others = [each for each in files_of_sites(root, SUFFIXES) if each != path]
    return (own, *(read_table(stamp(each), largest, written) for each in others))


def _task(name: str, tasks: Sequence[TaskOptions]) -> TaskOptions:
    for task in tasks:
        if task.name == name:
            return task
    known = ", ".join(task.name for task in tasks)
    raise UserError(f"this site's task {name!r} is not in data.tasks, which has {known}")


def _require(table: Table, names: Sequence[str]) -> None:
    """Raise UserError for columns of labels or sites that a file does not have."""
    absent = [name for name in names if name not in table.columns]
    if absent:
        there = private(f"; there is {', '.join(map(repr, sorted(table.columns)[:10]))}")
        named = ", ".join(map(repr, absent))
        raise UserError(describe_file(table.path) + f": no column {named} to read" + there)


def _complete(
    settings: TabularOptions,
    info: SiteInfo,
    tables: Sequence[Table],
    task: TaskOptions,
    encoded: Encoded,
    rules: TableRules,
) -> Targets:
    """Return the targets of the rows that can be used, and count the others."""
    table = tables[0]
    targets = table_targets(
        tables,
        task,
        settings.classes,
        rules,
        deployed=info.deployed,
        findings=info.findings,
    )
    if settings.impute != "drop":
        return targets
    whole = np.flatnonzero(~encoded.incomplete[targets.rows])
    if len(whole) < len(targets.rows):
        kept = targets.rows[whole]
        _leave_out(info.findings, "missing value", table, np.setdiff1d(targets.rows, kept))
    if not len(whole):
        raise UserError(
            describe_file(table.path) + ": every row has a missing value, and data.impute=drop "
            "leaves all out: fewer data.features, or another data.impute"
        )
    return replace(targets, rows=targets.rows[whole], values=targets.values[whole])


def _leave_out(findings: Findings, reason: str, table: Table, rows: NDArray[np.int64]) -> None:
    for row in rows[:10]:
        findings.leave_out(reason, table.source(int(row)))
    findings.left_out[reason] += len(rows[10:])


def _note_missing(settings: TabularOptions, encoded: Encoded, findings: Findings) -> None:
    """Say how many cells were not known, and which columns have none that is."""
    gaps = encoded.gaps()
    if counts := missing_counts(gaps):
        findings.note(private(f"missing values, filled by {settings.impute}: {counts}"))
    empty = [name for name, count in gaps.items() if count == len(encoded.values)]
    if empty:
        findings.warn(private(f"no value at this site: {', '.join(map(repr, empty))}"))
