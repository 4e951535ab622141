"""PAMAP2 (Reiss and Stricker 2012): three inertial sensors on a subject, in windows of 5.12 s."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client_app.data.duplicates import numbered_contents
from client_app.data.paths import describe_file, reject_escape
from client_app.data.pflbench.published import Published, missing
from fedstrata.support.errors import UserError, private

ACTIVITIES = {
    1: "lying",
    2: "sitting",
    3: "standing",
    4: "walking",
    5: "running",
    6: "cycling",
    7: "Nordic walking",
    12: "ascending stairs",
    13: "descending stairs",
    16: "vacuum cleaning",
    17: "ironing",
    24: "rope jumping",
}
"""The activities of the protocol, by their number; 0, between two of them, is left out."""

WINDOW, STEP = 512, 3  # samples of a window at 100 Hz, and every how manyth is an input
_FOLDERS = ("", "Protocol", "PAMAP2_Dataset/Protocol")
_ACTIVITY, _COLUMNS = 1, 54
_MOST = 1e6  # of a value: thousands of times what a sensor measures
# Of each sensor's 17 columns: acceleration (16 g), turning rate and magnetic field, of three axes each.
_OF_SENSOR = (1, 2, 3, 7, 8, 9, 10, 11, 12)
_READ = tuple(3 + 17 * sensor + column for sensor in range(3) for column in _OF_SENSOR)
# m/s^2, rad/s and microtesla become numbers of about 1: the same scale for all subjects.
_SCALE = np.repeat([10.0, 1.0, 50.0], 3)


def subject_files(root: Path) -> list[Path]:
    """Return the files of all subjects in order; raise UserError where there is none."""
    for folder in _FOLDERS:
        found = sorted((root / folder).glob("subject[0-9]*.dat"))
        if found:
            for path in found:
                reject_escape(root, path)
            return found
    raise missing(root, ["subject101.dat"])


def subject_name(path: Path) -> str:
    """Return ``subject-101`` and so on."""
    return f"subject-{path.stem.removeprefix('subject')}"


def read_subject(path: Path, largest: int) -> Published:
    """Return the windows of one subject in order of time: parts of one activity, not overlapping.

    A window is float32 ``(27 * 171,)``: each signal by itself. A value that is missing lies on the
    line between its neighbors in time.

    Raises
    ------
    UserError
        The file is damaged or larger than ``largest`` bytes, or has no whole window.
    """
    recorded = _table(path, largest)
    activity, signals = recorded[:, 0].astype(np.int64), recorded[:, 1:]
    for column in signals.T:
        _fill(path, column)
    signals /= np.tile(_SCALE, 3)
    numbers = {number: index for index, number in enumerate(ACTIVITIES)}
    starts = np.flatnonzero(np.diff(activity, prepend=activity[0] - 1))
    windows, labels = [], []
    for start, end in zip(starts, [*starts[1:], len(activity)], strict=True):
        if int(activity[start]) not in numbers:
            continue
        for first in range(start, end - WINDOW + 1, WINDOW):
            windows.append(signals[first : first + WINDOW : STEP].T.reshape(-1))
            labels.append(numbers[int(activity[start])])
    if not windows:
        raise UserError(describe_file(path) + f": no activity lasts {WINDOW} samples")
    values = np.array(windows, dtype=np.float32)
    return Published(
        tuple(ACTIVITIES.values()),
        np.array(labels, dtype=np.int64),
        np.zeros(len(labels), dtype=bool),
        lambda rows: values[rows],
        numbered_contents(each.tobytes() for each in values),
        lambda row: describe_file(path) + f", window {row + 1}",
        lambda row: (path, row),
        "window",
    )


def _table(path: Path, largest: int) -> NDArray[np.float64]:
    """Return the activity and the signals of each sample, ``(n, 28)``."""
    where = describe_file(path)
    if path.stat().st_size > largest:
        raise UserError(where + f": larger than data.largest_mb allows ({largest >> 20} MiB)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a file without any rows
            recorded = np.loadtxt(path, usecols=(_ACTIVITY, *_READ), ndmin=2, encoding="ascii")
    except (OSError, ValueError, UserWarning) as error:
        raise UserError(
            where + f": no rows of {_COLUMNS} numbers" + private(f" ({error})")
        ) from error
    activity = recorded[:, 0]
    if not np.isfinite(activity).all() or (activity != np.floor(activity)).any():
        raise UserError(where + ": the second column is no number of an activity")
    if np.abs(activity).max() > 255 or (np.abs(recorded) > _MOST).any():  # not of what is missing
        raise UserError(where + ": has numbers that no recording has")
    return recorded


def _fill(path: Path, column: NDArray[np.float64]) -> None:
    known = np.flatnonzero(~np.isnan(column))
    if not len(known):
        raise UserError(describe_file(path) + ": a sensor has no values at all")
    column[:] = np.interp(np.arange(len(column)), known, column[known])
