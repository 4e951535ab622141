"""UCI HAR (Anguita et al., ESANN 2013): activities from a phone's sensors, one subject a site."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.arrays import Stamp, read_npz, stamp, whole_numbers
from client_app.data.overlaps import in_order_of_time, overlap_free_share, shared_extremes
from client_app.data.paths import describe_file, describe_root
from client_app.data.site_info import SiteInfo, name_of_site, reject_empty_splits, require_root
from client_app.data.splitting import SplitIndices, block_splits, check_fractions, stratified_splits
from fedstrata.support.errors import PrivateText, UserError, nearest, private
from fedstrata.support.options import read_options
from fedstrata.support.seeds import derive_seed
from models.preprocessing import Measurements
from models.training.data import ArrayInputs, SiteData, Split

FEATURES = 561
ACTIVITIES = (
    "WALKING",
    "WALKING_UPSTAIRS",
    "WALKING_DOWNSTAIRS",
    "SITTING",
    "STANDING",
    "LAYING",
)
FOLDER = "UCI HAR Dataset"
OF_SUBJECTS = "subject"  # data.task: each subject is a task of its own
HALVES = ("train", "test")
MOST_OVERLAP_FREE = 0.25  # of the shuffled windows; 0.2 % in the published data
LARGEST = 1 << 30  # bytes; the published data take 23 MB, so a larger file is another one


@dataclass(frozen=True)
class HarOptions:
    """The options of ``conf/data/har.yaml``, which says what each means."""

    task: str
    split: str
    test_fraction: float
    validation_fraction: float
    subjects: tuple[int, ...] | None

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


@dataclass(frozen=True)
class Recordings:
    """All windows of a file or folder, in its order.

    Parameters
    ----------
    features : NDArray[np.float32]
        Shape ``(n, 561)``.
    labels : NDArray[np.int64]
        Index into `ACTIVITIES`, shape ``(n,)``.
    subjects : NDArray[np.int64]
        The subject's number, shape ``(n,)``.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    subjects: NDArray[np.int64]


def load(options: Mapping[str, object], info: SiteInfo, seed: int) -> SiteData:
    """Return one subject's windows; the site is called ``subject-01`` and so on.

    So is its task, unless ``data.task`` names one for all subjects.

    Raises
    ------
    UserError
        An option, the site info or a file is wrong.
    """
    settings = read_options(HarOptions, options, "data")
    recordings = open_recordings(require_root(info))
    subject = _choose_subject(settings, _subjects(settings, recordings), info)
    rows = np.flatnonzero(recordings.subjects == subject)
    name = _subject_name(subject)
    parts = _draw_splits(settings, recordings, rows, name, derive_seed(seed, "har", subject))
    train, validation, test = (_split(recordings, rows[part]) for part in parts)
    task = name if settings.task == OF_SUBJECTS else settings.task
    data = SiteData(
        name_of_site(info, name),
        task,
        ACTIVITIES,
        (FEATURES,),
        train,
        validation,
        test,
        source=name,
        preprocessing=Measurements(FEATURES, "the 561 features of UCI HAR, from -1 to 1"),
    )
    return reject_empty_splits(data)


def open_recordings(root: Path) -> Recordings:
    """Read the official folder or an npz file, once until its files change.

    Parameters
    ----------
    root : Path
        An ``.npz`` file with the arrays ``x``, ``y`` and ``subject``; a folder with exactly one; or
        the official folder (``train/X_train.txt``, ...) or its parent.

    Raises
    ------
    UserError
        None of them exists, or a file is damaged.
    """
    return _read_cached(tuple(map(stamp, _files(root))))


def _files(root: Path) -> tuple[Path, ...]:
    if root.is_file():
        return (root,)
    for folder in (root, root / FOLDER):
        if (folder / "train" / "X_train.txt").exists():
            return _official_files(folder)
    found = sorted(root.glob("*.npz"))
    if len(found) != 1:
        raise UserError(
            describe_root(root)
            + ": needs train/X_train.txt and the other official files, or exactly one "
            f".npz; it has {len(found)} npz files"
        )
    return (found[0],)


def _official_files(folder: Path) -> tuple[Path, ...]:
    paths = tuple(
        folder / half / f"{kind}_{half}.txt" for half in HALVES for kind in ("X", "y", "subject")
    )
    for path in paths:
        if not path.is_file():
            raise UserError(_official(path) + " is missing: the official folder has it")
    return paths


def _official(path: Path) -> PrivateText:
    """Return a file of the official folder for an error text; its published name may leave."""
    return private(path, path.name)


@lru_cache(maxsize=2)
def _read_cached(stamps: tuple[Stamp, ...]) -> Recordings:
    """Parse the files once for all sites of a simulation."""
    paths = [path for path, _, _ in stamps]
    if len(paths) == 1:
        return _read_npz(paths[0])
    halves = [_read_text(*paths[:3]), _read_text(*paths[3:])]
    return Recordings(
        np.concatenate([half.features for half in halves]),
        np.concatenate([half.labels for half in halves]),
        np.concatenate([half.subjects for half in halves]),
    )


def _read_npz(path: Path) -> Recordings:
    arrays = read_npz(path, ("x", "y", "subject"), ("activity_names",), largest=LARGEST)
    named = arrays.get("activity_names")
    if named is not None and tuple(map(str, named.ravel())) != ACTIVITIES:
        order = f": activity_names must be {', '.join(ACTIVITIES)}, in this order"
        raise UserError(describe_file(path) + order)
    sources = (describe_file(path) + f", {name}" for name in ("x", "y", "subject"))
    return _checked((arrays["x"], arrays["y"], arrays["subject"]), tuple(sources))


def _read_text(features: Path, labels: Path, subjects: Path) -> Recordings:
    read = (_numbers(features, FEATURES), _numbers(labels, 1), _numbers(subjects, 1))
    return _checked(read, (_official(features), _official(labels), _official(subjects)))


def _numbers(path: Path, columns: int) -> NDArray[np.float32]:
    """Return a text table as float32, shape ``(n, columns)``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty file is reported below
            # Without comments=None a line that begins with # would be skipped, not reported.
            table = np.loadtxt(path, dtype=np.float32, comments=None, ndmin=2, encoding="ascii")
    except ValueError as error:
        message = _official(path) + ": not a table of numbers" + private(f" ({error})")
        raise _bad_line(path, columns) or UserError(message) from error
    except OSError as error:
        raise UserError(_official(path) + f": cannot be read ({error.strerror})") from error
    if not table.size:
        raise UserError(_official(path) + ": no rows")
    if table.shape[1] != columns:
        message = _official(path) + f": not {columns} columns"
        raise _bad_line(path, columns) or UserError(message)
    return table


def _bad_line(path: Path, columns: int) -> UserError | None:
    """Return the error for the first line that is not ``columns`` numbers, or None."""
    # numpy's message quotes what stands in the file, which must not leave the site.
    with path.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            words, message = line.split(), _official(path) + f": line {number} has "
            if words and len(words) != columns:
                return UserError(message + f"{len(words)} columns, not {columns}")
            for word in words:
                try:
                    float(word)
                except ValueError:
                    return UserError(
                        message + private(repr(word[:40]), "a word") + ", not a number"
                    )
    return None


def _checked(arrays: tuple[NDArray[Any], ...], sources: tuple[PrivateText, ...]) -> Recordings:
    """Check shapes, finiteness and ranges; ``sources`` names the three arrays in error texts."""
    x, y, subject = arrays
    if x.ndim != 2 or x.shape[1] != FEATURES or x.dtype.kind not in "iuf":
        raise UserError(
            sources[0] + f": {FEATURES} columns of numbers are needed, not {x.shape} of {x.dtype}"
        )
    features = np.ascontiguousarray(x, dtype=np.float32)
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise UserError(sources[0] + f": row {int(np.argmin(finite)) + 1} has NaN or infinity")
    labels = whole_numbers(y, 1, len(ACTIVITIES), sources[1]) - 1
    subjects = whole_numbers(subject, 1, 10_000, sources[2])
    for other, rows in ((sources[1], len(labels)), (sources[2], len(subjects))):
        if rows != len(features):
            raise UserError(other + f" has {rows} rows but " + sources[0] + f" has {len(features)}")
    return Recordings(features, labels, subjects)


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


def _draw_splits(
    settings: HarOptions, recordings: Recordings, rows: NDArray[np.int64], name: str, seed: int
) -> SplitIndices:
    validation, test = settings.validation_fraction, settings.test_fraction
    if settings.split == "random":
        labels = recordings.labels[rows]
        return stratified_splits(labels, validation=validation, test=test, seed=seed)
    labels = recordings.labels[rows]
    changes = int(np.count_nonzero(np.diff(labels)))
    # A recording stays with an activity for ten windows or more, but shuffled rows change at nearly
    # every one. Blocks of shuffled rows would have neighbors in time in other blocks.
    if 3 * changes <= len(labels):
        return block_splits(labels, validation=validation, test=test)
    shared = shared_extremes(recordings.features[rows], labels)
    unknown = overlap_free_share(shared)
    if unknown > MOST_OVERLAP_FREE:
        raise UserError(
            private(f"{name}: ")
            + f"the rows are not in order of time (the activity changes {changes} times in "
            f"{len(labels)} rows), and {unknown:.0%} of them share no extreme value with "
            "another, so their order cannot be found and they cannot be cut into blocks; "
            "use data.split=random"
        )
    order = in_order_of_time(shared)
    blocks = block_splits(labels[order], validation=validation, test=test)
    return _without_overlaps(SplitIndices(*(np.sort(order[part]) for part in blocks)), shared)


def _without_overlaps(parts: SplitIndices, shared: NDArray[np.int64]) -> SplitIndices:
    """Leave out windows that have even one extreme in common with a later split."""
    train, validation, test = parts
    beside_test = np.asarray(shared[:, test].any(axis=1))
    validation = validation[~beside_test[validation]]
    beside = beside_test | np.asarray(shared[:, validation].any(axis=1))
    return SplitIndices(train[~beside[train]], validation, test)


def _split(recordings: Recordings, rows: NDArray[np.int64]) -> Split:
    return Split(ArrayInputs(recordings.features[rows]), recordings.labels[rows])
