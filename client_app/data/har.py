"""UCI HAR (Anguita et al., ESANN 2013): a table of 561 features, with one subject a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.har_files import ACTIVITIES, FEATURES, Recordings, open_recordings
from client_app.data.overlaps import blocks_in_time
from client_app.data.site_info import SiteInfo, require_root
from client_app.data.site_split import SiteSplit
from client_app.data.splitting import check_fractions
from client_app.data.tabular.encoding import SPLIT
from client_app.data.tabular.loader import site_data, sums_of_rows
from client_app.data.tabular.options import TabularOptions
from client_app.data.tabular.reading import Cells, Table
from client_app.data.tabular.rows import SiteRows, rows_of_tables
from fedstrata.protocol.sums import SumsReport
from fedstrata.support.errors import UserError, nearest, private
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.preprocessing import Measurements
from models.training.data import Places, SiteData

OF_SUBJECTS = "subject"  # data.task: each subject is a task of its own
ACTIVITY = "activity"  # the column with the labels
INPUTS = [f"feature {number}" for number in range(1, FEATURES + 1)]
MEASURED = "the 561 features of UCI HAR, from -1 to 1"
WHOLE = SiteSplit("none", 1.0, 1, 1, None)  # a subject's rows are all its site's


@dataclass(frozen=True)
class HarOptions:
    """The options of ``conf/data/har.yaml``, which says what each means."""

    task: str
    split: str
    test_fraction: float
    validation_fraction: float
    subjects: tuple[int, ...] | None
    duplicates: str
    standardize: str
    constants: dict[str, Any] | None

    def __post_init__(self) -> None:
        check_fractions(self.validation_fraction, self.test_fraction)
        if not self.task:
            raise UserError("data.task: subject, or a name for the one task of all, as in activity")
        if self.split == "official":
            raise UserError(
                "data.split: the official split puts every subject wholly on one side, so a site "
                "that has one subject would have nothing to test on (or to train on); "
                "use 'random' or 'blocks'"
            )
        if self.split not in ("random", "blocks"):
            raise UserError(f"data.split: no split {self.split!r}; there is 'random' and 'blocks'")
        if self.subjects is not None and not self.subjects:
            raise UserError("data.subjects: name at least one subject, or null for all")
        self.of_table(OF_SUBJECTS)

    def of_table(self, task: str) -> TabularOptions:
        """Return how a subject's table is read, whose one task is called ``task``."""
        return TabularOptions(
            missing=[],
            join_labels=False,
            decimal=".",
            split_names=None,
            duplicates=self.duplicates,
            group=None,
            file=None,
            delimiter=None,
            encoding=None,
            tasks={task: ACTIVITY},
            classes={task: list(ACTIVITIES)},
            features=INPUTS,
            exclude=[],
            categories=None,
            impute="mean",  # of nothing: a file with a missing value is refused
            standardize=self.standardize,
            constants=self.constants,
            validation_fraction=self.validation_fraction,
            test_fraction=self.test_fraction,
            largest_mb=1,  # `open_recordings` has a limit of its own
            site_split=WHOLE,
        )


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return one subject's windows; the site is called ``subject-01`` and so on.

    So is its task, unless ``data.task`` names one for all subjects.

    Raises
    ------
    UserError
        An option, the site info or a file is wrong.
    """
    recordings, settings, rows = _subject_rows(options, info, seed)
    data = site_data(settings, rows, info)
    assert data.test_places is not None
    windows = [line - 1 for line in data.test_places.rows]
    data = replace(data, test_places=Places(*zip(*map(recordings.place, windows), strict=True)))
    if settings.standardize != "none":
        return data
    return replace(data, preprocessing=Measurements(FEATURES, MEASURED))


def site_sums(options: Mapping[str, object], info: SiteInfo, seed: int) -> SumsReport:
    """Return the sums over the subject's training windows; raise UserError as `load` does."""
    _, settings, rows = _subject_rows(options, info, seed)
    return sums_of_rows(settings, rows)


def _subject_rows(
    options: Mapping[str, object], info: SiteInfo, seed: int
) -> tuple[Recordings, TabularOptions, SiteRows]:
    chosen = read_options(HarOptions, options, "data")
    recordings = open_recordings(require_root(info))
    subject = _choose_subject(chosen, _subjects(chosen, recordings), info)
    name = _subject_name(subject)
    settings = chosen.of_table(name if chosen.task == OF_SUBJECTS else chosen.task)
    table = _table(chosen, recordings, np.flatnonzero(recordings.subjects == subject), name)
    draw = derive_seed(seed, "har", subject)
    return recordings, settings, rows_of_tables(settings, [table], name, info, seed, draw)


def _table(
    options: HarOptions, recordings: Recordings, rows: NDArray[np.int64], name: str
) -> Table:
    """Return a subject's windows as a table; cut into blocks it has the column of splits."""
    blocks: dict[str, Cells] = {}
    if options.split == "blocks":
        parts = blocks_in_time(
            recordings.features[rows],
            recordings.labels[rows],
            name,
            validation=options.validation_fraction,
            test=options.test_fraction,
        )
        splits = np.full(len(rows), None)
        for split, part in parts._asdict().items():
            splits[part] = split
        kept = np.flatnonzero(splits != None)  # noqa: E711
        rows, blocks = rows[kept], {SPLIT: splits[kept]}
    features = recordings.features[rows].astype(np.float64)
    columns = dict(zip(INPUTS, features.T, strict=True))
    activity = np.array(ACTIVITIES, dtype=object)[recordings.labels[rows]]
    return Table(recordings.path, {**columns, ACTIVITY: activity, **blocks}, {}, rows + 1)


def _subjects(settings: HarOptions, recordings: Recordings) -> tuple[int, ...]:
    found = tuple(int(subject) for subject in np.unique(recordings.subjects))
    if settings.subjects is None:
        return found
    absent = sorted(set(settings.subjects) - set(found))
    if absent:
        there = private(f"; there is {found}")
        raise UserError(f"data.subjects: no subject {absent[0]} here" + there)
    return tuple(sorted(set(settings.subjects)))


def _choose_subject(settings: HarOptions, subjects: tuple[int, ...], info: SiteInfo) -> int:
    """Return the subject that the site's node config names, or the one at the site's index.

    It is the name of the site's task, or where all have one task the name of the site.
    """
    by_name = {_subject_name(subject): subject for subject in subjects}
    own = settings.task == OF_SUBJECTS
    if not own and info.task not in (None, settings.task):
        raise UserError(f"this site's task {info.task!r} is not data.task, {settings.task!r}")
    if own and info.task is not None:
        if info.task not in by_name:
            there = private(f"; there is {nearest(info.task, by_name)}")
            raise UserError(f"no task {info.task!r} here" + there)
        return by_name[info.task]
    if not own and info.site in by_name:
        return by_name[info.site]
    if info.index is None:
        if len(subjects) == 1:
            return subjects[0]
        key = "task" if own else "site"
        raise UserError(
            f"this site's data has {len(subjects)} subjects: name its own in the node config, "
            f"as in --node-config '{key}=\"" + private(_subject_name(subjects[0]), "...") + "\"'"
        )
    sites = info.index + 1 if info.count is None else info.count
    if sites > len(subjects):
        raise UserError(
            f"{sites} sites but {len(subjects)} subjects: start as many sites as there are "
            f"subjects, with --federation-config 'num-supernodes={len(subjects)}'"
        )
    if sites < len(subjects) and info.count is not None:
        left = ", ".join(map(_subject_name, subjects[sites:][:5]))
        info.findings.warn(
            private(f"{len(subjects) - sites} subjects", "subjects")
            + " belong to no site"
            + private(f" ({left}{', ...' if len(subjects) - sites > 5 else ''})")
            + "; for all of them: --federation-config "
            f"'num-supernodes={len(subjects)}'"
        )
    return subjects[info.index]


def _subject_name(subject: int) -> str:
    return f"subject-{subject:02d}"
