"""Finds the classes of a task, in the configuration or in the data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from client_app.data.cells import MOST_NAMED, CellRules, joined, normal, perhaps_missing, same_key
from client_app.data.findings import Findings
from client_app.data.task_options import TaskOptions
from fedstrata.support.errors import PrivateText, UserError, nearest, private

_WHOLE = re.compile(r"-?\d{1,4000}(?:\.0*)?", re.ASCII)  # Python reads no more than 4,300 digits
FEW = 10  # examples up to which each may have a class of its own
MANY = 20  # classes by number, above which they are probably numbers to predict


def class_names(
    configured: Mapping[str, Sequence[str]] | None,
    task: str,
    found: Mapping[str, PrivateText],
    *,
    deployed: bool,
    fewest: int = 2,
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
    fewest : int
        How many there must be: 2 classes, or 1 of several labels.

    Raises
    ------
    UserError
        A deployed site has no configured names, the task or a class in the data is not configured,
        or there are too few.
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
        classes = configured_names(configured, task)
    else:
        raise UserError(f"data.classes: no task {task!r}; there is {nearest(task, configured)}")
    if len(set(classes)) < max(fewest, len(classes)):
        raise _too_few(configured, task, classes, fewest)
    unknown = {label: where for label, where in sorted(found.items()) if label not in classes}
    if unknown:
        raise _unknown_class(unknown, task, classes)
    return classes


def _too_few(configured: object, task: str, classes: Sequence[str], fewest: int) -> UserError:
    few = "two classes or more" if fewest > 1 else "one label or more"
    if configured is not None or not classes:
        return UserError(
            f"data.classes, task {task!r}: {few}, each once" + private(f"; {tuple(classes)}")
        )
    return UserError(
        f"task {task!r}: {few} are needed, and here is only one"
        + private(f", {classes[0]!r}")
        + "; for a site with examples of one class alone name all of them, as in "
        f"data.classes={{{task}:[cat,dog]}}"
    )


def _unknown_class(
    unknown: Mapping[str, PrivateText], task: str, classes: Sequence[str]
) -> UserError:
    label, where = next(iter(unknown.items()))
    others = [private(f"class {other!r}") for other in unknown]
    more = joined(others, len(unknown)).whole.partition("; ")[2]
    alike = any(same_key(label) == same_key(name) for name in classes)
    return UserError(
        where
        + private(f": class {label!r}", ": a class")
        + f" is not among data.classes of task {task!r}"
        + private(f", which has {nearest(label, classes)}")
        + "; add it there at every site, or leave it out here"
        + private(", or write data.join_labels=true" if alike else "")
        + private(f"; and {more}" if more else "")
    )


def configured_names(configured: Mapping[str, Sequence[str]] | None, task: str) -> tuple[str, ...]:
    """Return the names of ``data.classes`` for the task in composed Unicode; none: empty."""
    return tuple(map(normal, (configured or {}).get(task, ())))


def name_labels(
    labels: Counter[str],
    names: Sequence[str],
    task: TaskOptions,
    rules: CellRules,
    findings: Findings,
    *,
    what: str = "row",
    folders: bool = False,
) -> dict[str, str]:
    """Return for each label of a column the name of its class, and say what was joined.

    Parameters
    ----------
    labels : Counter of str
        Every label in the column, and how many examples have it.
    names : sequence of str
        The configured names; empty where there are none.
    task : TaskOptions
        Its name and column, for error texts.
    rules : CellRules
        Whether labels that differ in case, blanks or format are one.
    findings : Findings
        Notes what was joined, and how labels by number were taken.
    what : str
        What an example is.
    folders : bool
        Whether the labels are names of folders, which need not be dense.

    Raises
    ------
    UserError
        Two labels are the same but for case, blanks or format; or they are numbers to predict, or
        numbers with gaps.
    """
    named = _join(labels, names, task, rules, findings)
    free = Counter[str]()
    for label, count in labels.items():
        if named[label] not in names:
            free[named[label]] += count
    if not free:
        return named
    if not folders:
        _reject_numbers_to_predict(free, labels, task, what)
    if names and all(_WHOLE.fullmatch(label) for label in free):
        return named | _by_number(free, named, names, task, findings)
    if not names and not folders:
        _reject_gaps(free, task)
        if len(free) > MANY and all(_WHOLE.fullmatch(label) for label in free):
            findings.warn(
                f"column {task.columns[0]!r}: "
                + private(f"{len(free)} different whole numbers", "many whole numbers")
                + " are taken as classes"
                + _to_predict(task)
            )
    return named


def _join(
    labels: Counter[str],
    names: Sequence[str],
    task: TaskOptions,
    rules: CellRules,
    findings: Findings,
) -> dict[str, str]:
    """Return the spelling to use for each label; without the option, raise where two are alike."""
    alike: dict[str, list[str]] = {}
    for label in sorted(labels, key=lambda each: (-labels[each], each)):
        alike.setdefault(same_key(label), []).append(label)
    ours = {same_key(name): name for name in reversed(names)}
    named = {label: label for label in labels}
    for key, group in alike.items():
        others = [label for label in group if label not in names]
        chosen = ours.get(key, group[0])
        if not others or others == [chosen]:
            continue
        counts = " and ".join(f"{label!r} ({labels[label]})" for label in group[:MOST_NAMED])
        if rules.join:
            named |= dict.fromkeys(others, chosen)
            if group != [chosen]:
                findings.note(
                    f"column {task.columns[0]!r}: "
                    + private(f"{counts} are the class {chosen!r}", "labels were joined")
                )
        elif len(group) > 1:
            raise UserError(
                f"column {task.columns[0]!r}: "
                + private(counts, "some labels")
                + " differ only in case, blanks or the format of a number; write "
                "data.join_labels=true to make them one class, or name each in data.classes"
            )
    return named


def _reject_numbers_to_predict(
    free: Counter[str], labels: Counter[str], task: TaskOptions, what: str
) -> None:
    """Raise a `UserError` for a column of decimals, or of another label for every example."""
    total = sum(labels.values())
    comma = any(map(CellRules().looks_like_other_decimals, free))
    rules = CellRules(decimal="," if comma else ".")
    numeric = all(_WHOLE.fullmatch(label) or rules.number(label) is not None for label in free)
    column, many = f"column {task.columns[0]!r}: ", len(free)
    if numeric and not all(_WHOLE.fullmatch(label) for label in free):
        many_of = private(f"{many} different numbers for {total} {what}s", "decimals, no classes")
        sign = ' data.decimal=","' if comma else ""
        raise UserError(column + many_of + _to_predict(task) + sign)
    if total > FEW and many == total:
        if numeric:
            many_of = private(f"{many} different numbers for {total} {what}s", "no classes")
            raise UserError(column + many_of + _to_predict(task))
        raise UserError(
            column
            + f"every {what} has a label of its own"
            + private(f" ({total} of them, such as {next(iter(free))!r})")
            + "; name a column of classes in data.tasks, or write data.classes"
        )


def warn_of_missing(
    labels: Counter[str], task: TaskOptions, rules: CellRules, findings: Findings
) -> None:
    """Warn of labels that are taken as classes, and often mean that nothing is known."""
    signs = {"+", "-"} <= set(labels)  # of results: both are classes
    doubtful = [
        label
        for label in sorted(labels)
        if perhaps_missing(label) and not (signs and label in ("+", "-"))
    ]
    if doubtful:
        counts = ", ".join(f"{label!r} ({labels[label]})" for label in doubtful[:MOST_NAMED])
        words = ",".join(map(_quoted, [*filter(None, rules.missing), *doubtful[:MOST_NAMED]]))
        findings.warn(
            f"column {task.columns[0]!r}: "
            + private(counts, "some labels")
            + " taken as a class; if it means that nothing is known, write "
            + private(f"data.missing=[{words}]", "it into data.missing")
            + "; if not, name it in data.classes"
        )


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _to_predict(task: TaskOptions) -> str:
    return f"; for numbers to predict write data.tasks.{task.name}.kind=number"


def _whole(label: str) -> int:
    return int(label.partition(".")[0])


def _by_number(
    free: Counter[str],
    named: Mapping[str, str],
    names: Sequence[str],
    task: TaskOptions,
    findings: Findings,
) -> dict[str, str]:
    """Return the names of labels that are the classes' numbers, from 0 on; else raise."""
    values = {label: _whole(label) for label in free}
    if any(_WHOLE.fullmatch(name) for name in names):
        return {}  # the classes are called by numbers: another number is an unknown class
    if not all(0 <= value < len(names) for value in values.values()):
        found = ",".join(map(str, sorted(set(values.values()))[:MOST_NAMED]))
        raise UserError(
            f"column {task.columns[0]!r}: labels by number go from 0 to {len(names) - 1} in the "
            f"order of data.classes, and here are others"
            + private(f" ({found})")
            + "; write the names into the column, or the numbers as names, as in "
            + f"data.classes={{{task.name}:"
            + private(f"[{found}]", "[...]")
            + "}"
        )
    findings.note(
        f"column {task.columns[0]!r}: labels by number, "
        + ", ".join(f"{number} is {name!r}" for number, name in enumerate(names[:MOST_NAMED]))
    )
    numbered = {label: names[value] for label, value in values.items()}
    return {label: numbered[name] for label, name in named.items() if name in numbered}


def _reject_gaps(free: Counter[str], task: TaskOptions) -> None:
    """Raise a `UserError` where the labels are whole numbers that leave some out, such as 0, 255."""
    if not all(_WHOLE.fullmatch(label) for label in free):
        return
    values = sorted(set(map(_whole, free)))
    if values[-1] - values[0] + 1 == len(values):
        return
    found = ",".join(map(str, values[:20])) + (",..." if len(values) > 20 else "")
    few = private(f" ({len(values)} different numbers from {values[0]} to {values[-1]})")
    raise UserError(
        f"column {task.columns[0]!r}: labels by number with gaps"
        + few
        + "; name the classes, as in "
        + f"data.classes={{{task.name}:"
        + private(f"[{found}]", "[...]")
        + "}, or"
        + _to_predict(task).removeprefix(";")
    )
