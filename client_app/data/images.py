"""Pictures from class subfolders or a CSV manifest, one folder per site or one for all sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client_app.data.classes import class_names
from client_app.data.listing import Entry, from_domains, from_folders, from_manifest
from client_app.data.paths import describe_file, require_folder
from client_app.data.picture_options import PictureOptions
from client_app.data.picture_reading import read_pictures
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_root,
)
from client_app.data.site_split import Rank, SiteSplit, rows_of_site, seed_of_split, task_and_rank
from client_app.data.splitting import (
    check_fractions,
    fill_missing_splits,
    fractions_to_draw,
)
from fedstrata.support.errors import UserError
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.training.data import SiteData, Split


@dataclass(frozen=True)
class ImagesOptions(PictureOptions):
    """The options of ``conf/data/images.yaml``, which says what each means."""

    manifest: str | None
    domains: bool
    task: str | None
    tasks: list[str] | None
    classes: dict[str, list[str]] | None
    validation_fraction: float
    test_fraction: float
    site_split: SiteSplit

    def __post_init__(self) -> None:
        check_fractions(self.validation_fraction, self.test_fraction)
        self.check()
        if self.domains and (self.manifest is not None or self.site_split.column is not None):
            raise UserError(
                "data.domains: is for folders, which have no columns; use data.manifest=null and "
                "data.site_split.column=null with it, or data.domains=false for a manifest"
            )
        if self.tasks is not None and (not self.tasks or self.manifest is None):
            raise UserError(
                "data.tasks: several tasks need a manifest with a column for each; "
                "use data.tasks=null for class folders"
            )


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return the site's pictures, after decoding each once to find bad files before training.

    Raises
    ------
    UserError
        An option, the site info, the manifest, a path or a picture is wrong.
    """
    settings = read_options(ImagesOptions, options, "data")
    root = require_folder(require_root(info))
    task, rank = _task(settings, info)
    entries = _list(settings, root, task)
    found = {entry.label: describe_file(entry.path) for entry in entries}
    classes = class_names(settings.classes, task, found, deployed=info.deployed)
    labels = np.array([classes.index(entry.label) for entry in entries], dtype=np.int64)
    domains = None
    if settings.manifest is not None or settings.domains:
        domains = np.array([entry.domain for entry in entries], dtype=np.str_)
    shared_seed = seed_of_split(seed, "images", task)
    rows = rows_of_site(settings.site_split, labels, rank, shared_seed, domains)
    name = name_of_site(info, default_name(info))
    own = [entries[row] for row in rows]
    split_seed = derive_seed(seed, "images", "split", task, name)
    given = {entry.split for entry in entries}
    fractions = fractions_to_draw(given, settings.validation_fraction, settings.test_fraction)
    read = read_pictures(settings, [entry.path for entry in own], info.findings, info.cache_dir)
    own, labels = [own[row] for row in read.rows], labels[rows][read.rows]
    parts = fill_missing_splits(
        [entry.split for entry in own],
        labels,
        validation=fractions[0],
        test=fractions[1],
        seed=split_seed,
        # Copies in two splits would be tested on what was trained.
        copies=read.copies(),
    )
    chosen = (parts.train, parts.validation, parts.test)
    inputs, span = read.inputs(chosen)
    train, validation, test = (
        Split(each, labels[part]) for each, part in zip(inputs, chosen, strict=True)
    )
    shape = (settings.channels, settings.size, settings.size)
    return reject_empty_splits(
        SiteData(name, task, classes, shape, train, validation, test, value_range=span)
    )


def _task(settings: ImagesOptions, info: SiteInfo) -> tuple[str, Rank]:
    """Return the site's task and its rank among those that share the task's pictures."""
    tasks = settings.tasks or ((settings.task,) if settings.task else ())
    if not tasks and info.task is None:
        raise UserError("data.task: name the task, or give task in the site's node config")
    return task_and_rank(info, tasks)


def _list(settings: ImagesOptions, root: Path, task: str) -> list[Entry]:
    if settings.manifest is not None:
        column = settings.site_split.required_column()
        return from_manifest(root, settings.manifest, task, column)
    return from_domains(root) if settings.domains else from_folders(root)
