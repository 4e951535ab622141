"""Finds the classes of a task, in the configuration or in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedstrata.support.errors import PrivateText, UserError, nearest, private


def class_names(
    configured: Mapping[str, Sequence[str]] | None,
    task: str,
    found: Mapping[str, PrivateText],
    *,
    deployed: bool,
) -> tuple[str, ...]:
    """Return the class names of ``task`` in the order in which every site numbers them.

    Parameters
    ----------
    configured : mapping or None
        ``data.classes``: the names by task; None takes those found in the data, sorted.
    task : str
        The site's task.
    found : mapping of str to PrivateText
        Each class in the data with a file (and line) that has it, for the error text.
    deployed : bool
        Whether this is a real site. Class names are sent to the server, so a real site sends only
        configured ones: a folder's name can be private.

    Raises
    ------
    UserError
        A deployed site has no configured names, the task or a class in the data is not configured,
        or there are fewer than two classes.
    """
    if configured is None and deployed:
        raise UserError(
            "data.classes=null: the classes would be called as in this site's own files, and those "
            "names do not leave it; write the names that all sites agreed on, as in "
            f"data.classes={{{task}:[cat,dog]}}"
        )
    if configured is None:
        classes = tuple(sorted(found))  # sorted, so that all sites number them alike
    elif task in configured:
        classes = tuple(configured[task])
    else:
        raise UserError(f"data.classes: no task {task!r}; there is {nearest(task, configured)}")
    if len(set(classes)) < max(2, len(classes)):
        there = private(f"; {classes}")
        raise UserError(f"data.classes, task {task!r}: two classes or more, each once" + there)
    for label, where in sorted(found.items()):
        if label not in classes:
            raise UserError(
                where
                + private(f": class {label!r}", ": a class")
                + f" is not among data.classes of task {task!r}"
                + private(f", which has {nearest(label, classes)}")
                + "; add it there at every site, or leave it out here"
            )
    return classes
