"""Pictures from class subfolders or a CSV manifest, one folder per site or one for all sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client_app.data.cells import Cells
from client_app.data.dicom import PATIENT, PATIENT_ID, dicom_patients, some_patients
from client_app.data.file_digests import digest_of, same_content
from client_app.data.findings import Findings
from client_app.data.groups import compile_pattern, groups_by_pattern, likely_column
from client_app.data.kept_listing import Listing, kept_listing, listing_key
from client_app.data.labels import has_label, read_targets
from client_app.data.listing import Entry, Layout, from_domains, from_folders
from client_app.data.manifest import ManifestColumns, from_manifest
from client_app.data.paths import describe_file, describe_root, file_inside, require_folder
from client_app.data.picture_options import PictureOptions
from client_app.data.picture_reading import read_pictures
from client_app.data.remembered import FolderStamp, folder_stamp, is_young, remembered
from client_app.data.sharing import ExampleOptions, Labelled, draw_splits, share_of_site
from client_app.data.site_info import (
    SiteInfo,
    default_name,
    name_of_site,
    reject_empty_splits,
    require_root,
)
from client_app.data.site_split import Rank, SiteSplit, seed_of_split, task_and_rank
from client_app.data.splitting import check_fractions
from client_app.data.tables import TableFormat, describe_line, header_of
from client_app.data.task_options import TaskOptions, read_tasks
from fedstrata.support.errors import PrivateText, UserError
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.training.data import Places, SiteData, Split


@dataclass(frozen=True)
class ImagesOptions(PictureOptions, ExampleOptions):
    """The options of ``conf/data/images.yaml``, which says what each means."""

    manifest: str | None
    delimiter: str | None
    encoding: str | None
    domains: bool
    levels: str | None
    group_pattern: str | None
    task: str | None
    tasks: Any
    classes: dict[str, list[str]] | None
    validation_fraction: float
    test_fraction: float
    site_split: SiteSplit

    def __post_init__(self) -> None:
        check_fractions(self.validation_fraction, self.test_fraction)
        self.check()
        self.check_examples()
        self.table_format()
        Layout(self.levels)
        if self.group_pattern is not None:
            compile_pattern(self.group_pattern)
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
        by_column = self.group not in (None, PATIENT) and self.group_pattern is None
        if by_column and self.manifest is None:
            raise UserError(
                "data.group: a column of a manifest; for folders write data.group_pattern, as in "
                "data.group_pattern='(P[0-9]+)_', or data.group=patient for DICOM files"
            )

    def table_format(self) -> TableFormat:
        """Return how the manifest is written."""
        return TableFormat(self.delimiter, self.encoding)


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
    names, every = _shared_examples(settings, root, task, info)
    shared_seed = seed_of_split(seed, "images", task.name)
    share = share_of_site(every, settings, settings.site_split, rank, shared_seed, info)
    name = name_of_site(info, default_name(info))
    paths = [root / names[row] for row in share.rows]
    read = read_pictures(settings, paths, info.findings, info.cache_dir, root)
    share = share.take(read.rows)
    parts = draw_splits(
        share,
        read.copies(),
        settings.validation_fraction,
        settings.test_fraction,
        derive_seed(seed, "images", "split", task.name, name),
        info.findings,
    )
    inputs, span = read.inputs(parts)
    values = share.own.targets.values
    splits = (Split(each, values[part]) for each, part in zip(inputs, parts, strict=True))
    train, validation, test = splits
    return reject_empty_splits(
        SiteData(
            name,
            task.name,
            every.targets.classes,
            (settings.channels, settings.size, settings.size),
            train,
            validation,
            test,
            kind=task.kind,
            value_range=span,
            source=share.source,
            preprocessing=inputs[0].preprocessing,
            test_places=Places(inputs[2].paths, tuple(each.frame for each in inputs[2].pictures)),
        )
    )


def _task(settings: ImagesOptions, info: SiteInfo) -> tuple[TaskOptions, Rank]:
    """Return the site's task and its rank among those that share the task's pictures."""
    tasks = read_tasks(settings.tasks) or read_tasks([settings.task] if settings.task else None)
    if not tasks and info.task is None:
        raise UserError("data.task: name the task, or give task in the site's node config")
    named = {task.name: task for task in tasks}
    name, rank = task_and_rank(info, list(named))
    return named.get(name, TaskOptions(name, (name,))), rank


def _shared_examples(
    settings: ImagesOptions, root: Path, task: TaskOptions, info: SiteInfo
) -> tuple[Sequence[str], Labelled]:
    """Return the names of all pictures with a label, and more of them.

    In a simulation they are listed once for all sites of a machine. A deployed site lists its own
    for each process, so that no name of a file stands in its cache.
    """
    if info.deployed:
        listing = _listing(settings, root, task, info, info.findings)
        return listing.names, _labelled(settings, root, listing, info)
    manifest = None
    if settings.manifest is not None:
        settings.site_split.required_column()
        manifest = file_inside(root, settings.manifest, "data.manifest")
    wanted = (repr(settings), repr(task), str(root))
    content = manifest and digest_of(manifest)

    def listed(findings: Findings, before: FolderStamp) -> tuple[Sequence[str], Labelled]:
        listing = kept_listing(
            None if is_young(before) else info.cache_dir,
            listing_key(wanted, before, content),
            lambda: listing_key(wanted, folder_stamp(root), manifest and digest_of(manifest)),
            task.kind,
            findings,
            lambda own: _listing(settings, root, task, info, own),
        )
        return listing.names, _labelled(settings, root, listing, info)

    return remembered((wanted, content), root, info.findings, listed)


def _listing(
    settings: ImagesOptions, root: Path, task: TaskOptions, info: SiteInfo, findings: Findings
) -> Listing:
    """List all pictures that the sites share and that have a label."""
    entries, group_by = _list(settings, root, task, findings)
    manifest = None if settings.manifest is None else root / settings.manifest

    def where(row: int) -> PrivateText:
        entry = entries[row]
        return describe_line(manifest, entry.line) if manifest else describe_file(entry.path)

    cells = Cells(
        list(zip(*(entry.cells for entry in entries), strict=True)),
        where,
        describe_file(manifest) if manifest else describe_root(root),
        "picture",
        folders=manifest is None,
    )
    targets = read_targets(
        cells,
        task,
        settings.rules(),
        settings.classes,
        deployed=info.deployed,
        findings=findings,
    )
    chosen = [entries[row] for row in targets.rows]
    return Listing(
        [str(entry.path).removeprefix(str(root)).lstrip("/") for entry in chosen],
        [entry.split for entry in chosen],
        [entry.domain for entry in chosen],
        [entry.group for entry in chosen],
        group_by,
        targets,
    )


def _labelled(settings: ImagesOptions, root: Path, listing: Listing, info: SiteInfo) -> Labelled:
    """Return the listed pictures with what only their files say: which are copies, whose they are."""
    names, group_by = listing.names, listing.group_by
    paths = [f"{root}/{name}" for name in names]
    groups: Sequence[str] | None = listing.groups if group_by else None
    if settings.group_pattern is not None:
        groups = groups_by_pattern(names, settings.group_pattern)
        group_by = settings.group or "data.group_pattern"
    elif settings.group == PATIENT and not group_by:
        files = [Path(path) for path in paths]
        groups, group_by = dicom_patients(files, info.cache_dir), PATIENT_ID
    elif not group_by and (found := some_patients(paths, info.cache_dir)):
        groups, group_by = found, PATIENT_ID  # for a warning, where splits cut through them
    has_domains = settings.manifest is not None or settings.domains
    return Labelled(
        listing.targets,
        listing.splits,
        same_content(root, paths, info.cache_dir),
        lambda row: describe_file(root / names[row]),
        "picture",
        listing.domains if has_domains else None,
        groups,
        group_by,
        grouped=settings.group is not None or settings.group_pattern is not None,
    )


def _list(
    settings: ImagesOptions, root: Path, task: TaskOptions, findings: Findings
) -> tuple[list[Entry], str]:
    """Return the pictures, and the column that says, or probably says, what belongs together."""
    split_names = settings.split_names or {}
    if settings.manifest is None:
        classes = (settings.classes or {}).get(task.name, ())
        layout = Layout(settings.levels, split_names, classes)
        listed = (from_domains if settings.domains else from_folders)(root, findings, layout)
        if not listed:  # all class folders are configured ones, and may be empty
            raise UserError(describe_root(root) + ": no pictures in any class folder")
        return listed, ""
    written, rules = settings.table_format(), settings.rules()
    column = settings.site_split.required_column()
    group = None if settings.group_pattern is not None else settings.group
    if group in (None, PATIENT):
        path = file_inside(root, settings.manifest, "data.manifest")
        header = header_of(path, written)
        likely = likely_column(header)
        # Without any such column, data.group=patient goes by the headers of DICOM files.
        group = likely if group is None or likely is None else group
    columns = ManifestColumns(task.columns, column, group, split_names)
    entries = from_manifest(
        root,
        settings.manifest,
        columns,
        findings,
        labelled=lambda cells: has_label(cells, task, rules, settings.classes),
        written=written,
    )
    return entries, group or ""
