"""Reads UCI HAR as it is published: the official folder, or one npz file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.arrays import Stamp, read_npz, stamp, whole_numbers
from client_app.data.paths import describe_file, describe_root
from fedstrata.support.errors import PrivateText, UserError, private

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
HALVES = ("train", "test")
LARGEST = 1 << 30  # bytes; the published data take 23 MB, so a larger file is another one


@dataclass(frozen=True)
class Recordings:
    """All windows of a file or folder, in its order.

    Parameters
    ----------
    path : Path
        The file or folder.
    features : NDArray[np.float32]
        Shape ``(n, 561)``.
    labels : NDArray[np.int64]
        Index into `ACTIVITIES`, shape ``(n,)``.
    subjects : NDArray[np.int64]
        The subject's number, shape ``(n,)``.
    parts : tuple of (Path, int)
        The text files with the windows, in order, and how many each has; empty of an npz file.
    """

    path: Path
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    subjects: NDArray[np.int64]
    parts: tuple[tuple[Path, int], ...] = ()

    def place(self, window: int) -> tuple[Path, int]:
        """Return where a window is: its row in an npz file from 0 on, or text file and line."""
        for path, count in self.parts:
            if window < count:
                return path, window + 1
            window -= count
        return self.path, window


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
        paths[0].parents[1],
        np.concatenate([half.features for half in halves]),
        np.concatenate([half.labels for half in halves]),
        np.concatenate([half.subjects for half in halves]),
        tuple((half.path, len(half.labels)) for half in halves),
    )


def _read_npz(path: Path) -> Recordings:
    arrays = read_npz(path, ("x", "y", "subject"), ("activity_names",), largest=LARGEST)
    named = arrays.get("activity_names")
    if named is not None and tuple(map(str, named.ravel())) != ACTIVITIES:
        order = f": activity_names must be {', '.join(ACTIVITIES)}, in this order"
        raise UserError(describe_file(path) + order)
    sources = (describe_file(path) + f", {name}" for name in ("x", "y", "subject"))
    return _checked(path, (arrays["x"], arrays["y"], arrays["subject"]), tuple(sources))


def _read_text(features: Path, labels: Path, subjects: Path) -> Recordings:
    read = (_numbers(features, FEATURES), _numbers(labels, 1), _numbers(subjects, 1))
    return _checked(features, read, (_official(features), _official(labels), _official(subjects)))


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


def _checked(
    path: Path, arrays: tuple[NDArray[Any], ...], sources: tuple[PrivateText, ...]
) -> Recordings:
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
    return Recordings(path, features, labels, subjects)
