"""What MedMNIST files say of their pictures: one class, several labels, or numbers; and the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_app.data.arrays import whole_numbers
from client_app.data.task_options import TaskOptions
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER, TaskKind
from fedstrata.support.errors import PrivateText, UserError, nearest, private
from models.training.data import Labels

MOST_CLASSES = 10_000  # a larger label is damage: class names are sent to the server


def read_labels(array: NDArray[Any], kind: str | None, where: str | PrivateText) -> Labels:
    """Return the labels of one split of a file, as a `Split` has them for their kind.

    Parameters
    ----------
    array : NDArray
        ``(n,)``, ``(n, 1)`` or ``(n, C)``.
    kind : str or None
        The configured kind. None: several columns are labels, one is a class.
    where : str or PrivateText
        File and array, for the text of an error.

    Raises
    ------
    UserError
        The numbers cannot be of the kind.
    """
    columns = array.shape[1] if array.ndim == 2 else 1
    kind = kind or (LABELS if columns > 1 else CLASSES)
    if kind == CLASSES:
        if columns > 1:
            raise UserError(
                where + f": has {columns} labels per picture, so it is no task of classes: leave "
                "the task's kind out, or write kind: labels"
            )
        return whole_numbers(array, 0, MOST_CLASSES - 1, where)
    if array.ndim not in (1, 2) or columns < 1 or array.dtype.kind not in "biuf":
        raise UserError(where + f": rows of numbers are needed, not {array.shape} of {array.dtype}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        values = array.reshape(len(array), columns).astype(np.float32)
    wrong = ~np.isfinite(values) & ~np.isnan(values)
    if kind == LABELS:
        wrong |= ~np.isnan(values) & (values != 0) & (values != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        wanted = "0, 1 or NaN" if kind == LABELS else "a finite number or NaN"
        found = private(f"{values[row, column]}, ")
        raise UserError(where + f": row {row + 1} has " + found + f"not {wanted}")
    return values


def kind_of_labels(labels: Labels, task: TaskOptions | None) -> TaskKind:
    """Return what the labels of a file, as `read_labels` gave them, mean."""
    if task is not None and task.kind.name == NUMBER:
        return task.kind
    return TaskKind(CLASSES if labels.ndim == 1 else LABELS)


def class_names(
    configured: Mapping[str, Sequence[str]] | None, task: str, highest: int, where: PrivateText
) -> tuple[str, ...]:
    """Return the configured names of classes, or "0", "1", ... up to ``highest``."""
    if configured is None:
        return tuple(map(str, range(max(2, highest + 1))))
    names = _configured(configured, task)
    if len(set(names)) < max(2, len(names)):
        raise UserError(f"data.classes, task {task!r}: two classes or more, each once; {names}")
    if highest >= len(names):
        raise UserError(
            where
            + ": has "
            + private(f"label {highest}", "a higher label")
            + f", but data.classes of task {task!r} ends at {len(names) - 1} ({names[-1]!r})"
        )
    return names


def label_names(
    configured: Mapping[str, Sequence[str]] | None, task: str, count: int, where: PrivateText
) -> tuple[str, ...]:
    """Return the configured names of labels, or "0", "1", ... for each."""
    if configured is None:
        return tuple(map(str, range(count)))
    names = _configured(configured, task)
    if len(names) != count or len(set(names)) < count:
        raise UserError(
            where + f": has {count} labels per picture, and data.classes of task {task!r} needs as "
            f"many different names, not {len(names)}"
        )
    return names


def number_names(task: TaskOptions, count: int, where: PrivateText) -> tuple[str, ...]:
    """Return the names of numbers: the task's columns."""
    if len(task.columns) != count:
        raise UserError(
            where + f": has {count} numbers per picture, and data.tasks.{task.name}.columns names "
            f"{len(task.columns)}"
        )
    return task.columns


def require_names(configured: object, task: str, what: str) -> None:
    """Raise UserError for a deployed site without configured names: it sends none that it found."""
    if configured is None:
        raise UserError(
            f"data.classes=null: the {what} would be numbered by this site's own file, and sites "
            "with other files would number them otherwise; write the names that all sites agreed "
            f"on, as in data.classes={{{task}:[normal,pneumonia]}}"
        )


def _configured(configured: Mapping[str, Sequence[str]], task: str) -> tuple[str, ...]:
    if task not in configured:
        raise UserError(
            "data.classes: "
            + private(f"no task {task!r}", "this site's task is missing")
            + private(f"; there is {nearest(task, configured)}")
        )
    return tuple(configured[task])
