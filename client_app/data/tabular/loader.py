"""Loads one site's rows of a table as inputs: gaps filled, on a scale; and what it says before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from client_app.data.site_files import choose_file
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_root,
)
from client_app.data.tabular.encoding import (
    fill,
    fill_values,
    filled_with,
    require_column,
    scale_of,
    warn_of_columns,
    words_in,
)
from client_app.data.tabular.options import AGREED, TabularOptions
from client_app.data.tabular.reading import SUFFIXES
from client_app.data.tabular.rows import SiteRows, rules_of, site_rows, tables_of
from client_app.data.tabular.scale import column_sums, read_constants
from fedstrata.protocol.categories import CategoriesReport, check_columns
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.sums import SumsReport
from fedstrata.protocol.task_kinds import NUMBER
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from models import preprocessing
from models.training.data import ArrayInputs, Places, SiteData, Split


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return the site's rows as float32 inputs of shape ``(d,)``.

    Raises
    ------
    UserError
        An option, the site info, a file, a column or a cell is wrong.
    """
    settings = read_options(TabularOptions, options, "data")
    return site_data(settings, site_rows(settings, info, seed), info)


def site_data(settings: TabularOptions, site: SiteRows, info: SiteInfo) -> SiteData:
    """Return a site's rows filled in and scaled, as float32 inputs of shape ``(d,)``."""
    warn_of_columns(site.encoded, site.parts.train, info.findings)
    known = fill_values(site.encoded, site.parts.train, settings.impute)
    filled = filled_with(site.encoded, known, settings.impute)
    values = filled.values
    agreed = None
    mean, std = np.zeros(values.shape[1]), np.ones(values.shape[1])
    if settings.standardize == "site":
        mean, std = scale_of(filled, site.parts.train)
        values = (values - mean) / std
    elif settings.standardize == AGREED and settings.constants is not None:
        agreed = read_constants(settings.constants)
        values = agreed.scaled(values)
        mean, std = agreed.mean, agreed.std
    inputs = values.astype(np.float32)
    train, validation, test = (
        Split(ArrayInputs(inputs[part]), site.values[part]) for part in site.parts
    )
    data = SiteData(
        site.name,
        site.task.name,
        site.targets.classes,
        (inputs.shape[1],),
        train,
        validation,
        test,
        kind=site.targets.kind
        if agreed is None
        else agreed.kind(site.targets.kind, site.task.name),
        source=site.source,
        preprocessing=_preprocessing(settings, site, known, mean, std),
        test_places=_places(site, site.parts.test),
    )
    return reject_empty_splits(data)


def _preprocessing(
    settings: TabularOptions,
    site: SiteRows,
    known_values: NDArray[np.float64],
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
) -> preprocessing.Table:
    """Return what becomes of a row, with ``known_values`` that fill its gaps at this site."""
    filled = iter(known_values.tolist())
    gaps = site.encoded.gaps(site.parts.train)
    columns = []
    for each in site.features:
        first, *_ = (next(filled) for _ in each.categories or ("the number",))
        known = settings.impute == "drop" or each.categories
        fill_with = None if known else first
        columns.append(preprocessing.Column(each.name, each.categories, fill_with, gaps[each.name]))
    written = settings.table_format()
    return preprocessing.Table(
        tuple(columns),
        tuple(settings.missing),
        settings.decimal,  # type: ignore[arg-type]
        settings.impute,  # type: ignore[arg-type]
        tuple(mean.tolist()),
        tuple(std.tolist()),
        written.delimiter,
        written.encoding,
    )


def _places(site: SiteRows, rows: NDArray[np.int64]) -> Places:
    return Places((site.path,) * len(rows), tuple(site.lines[rows].tolist()))


def site_sums(options: Mapping[str, object], info: SiteInfo, seed: int) -> SumsReport:
    """Return the sums over the site's training rows of its numbers, before anything is filled in.

    An input that is no number has sums over no values. Of targets there are sums where the task
    predicts numbers whose scale is not configured.

    Raises
    ------
    UserError
        As `load`.
    """
    settings = read_options(TabularOptions, options, "data")
    return sums_of_rows(settings, site_rows(settings, info, seed))


def sums_of_rows(settings: TabularOptions, site: SiteRows) -> SumsReport:
    """Return the sums of `site_sums` over rows that were read."""
    train = site.parts.train
    known = np.where(site.encoded.numbers, site.encoded.values[train], np.nan)
    added = fill(site.encoded, train, settings.impute).values.shape[1] - known.shape[1]
    inputs = np.pad(known, ((0, 0), (0, added)), constant_values=np.nan)
    targets = np.empty((len(train), 0))
    if site.task.kind.name == NUMBER and not site.task.kind.mean:
        targets = site.values[train].astype(np.float64)
    return SumsReport(site.name, column_sums(inputs), column_sums(targets))


def site_categories(options: Mapping[str, object], info: SiteInfo) -> CategoriesReport:
    """Return the different cells of each column whose categories all sites are to agree on.

    Raises
    ------
    UserError
        A file or column cannot be read, or has too many categories, or texts that are no names.
    """
    settings = read_options(TabularOptions, options, "data")
    root = require_root(info)
    path, own_name = choose_file(root, info, settings.file, SUFFIXES)
    tables = tables_of(settings, info, root, path)
    rules = rules_of(settings, info)
    found = {}
    for name in settings.by_category:
        if settings.categories_of(name) is None:
            require_column(tables[0], name, rules)
            found[name] = tuple(sorted(words_in(tables, name, rules)))
    try:
        check_columns(found)
    except Refused as error:
        raise UserError(f"data.categories, {AGREED}: {error}") from None
    return CategoriesReport(name_of_site(info, own_name or default_name(info)), found)
