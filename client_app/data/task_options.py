"""Reads `data.tasks`: which tasks there are, where their labels stand, and what they predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite, nan

from fedstrata.protocol.task_kinds import CLASSES, NUMBER, ONE_CLASS_EACH, TaskKind
from fedstrata.support.errors import UserError, nearest

NO_FINDING = "No Finding"  # as in the tables of ChestX-ray14 and CheXpert
UNCERTAIN = ("ignore", "positive", "negative", "refuse")


@dataclass(frozen=True)
class TaskOptions:
    """One task as ``data.tasks`` describes it.

    Parameters
    ----------
    name : str
        The task's name, as sites and results call it.
    columns : tuple of str
        The columns with its labels. Of ``labels`` there may be several, one a label (0, 1 or
        empty); of ``number`` one per output.
    kind : TaskKind
        What is predicted.
    uncertain : str
        Of ``labels``, what -1 in a cell means (CheXpert's "uncertain"): ``ignore`` (not known),
        ``positive``, ``negative``, or ``refuse``.
    separator : str
        Of ``labels`` in one column: what stands between them, as in ``effusion|edema``.
    none : str
        Of ``labels`` in one column: the word, in any case, for examples of which no label holds.
        An empty cell is not known, and its example is left out.
    """

    name: str
    columns: tuple[str, ...]
    kind: TaskKind = ONE_CLASS_EACH
    uncertain: str = "ignore"
    separator: str = "|"
    none: str = NO_FINDING

    def __post_init__(self) -> None:
        if not self.columns or not all(self.columns):
            raise UserError(f"data.tasks.{self.name}: name the column with its labels")
        if self.uncertain not in UNCERTAIN:
            raise UserError(
                f"data.tasks.{self.name}.uncertain: one of {', '.join(UNCERTAIN)}, "
                f"not {self.uncertain!r}"
            )
        if not self.separator:
            raise UserError(f"data.tasks.{self.name}.separator: at least one character")


_OF_KIND = tuple(each.name for each in fields(TaskKind) if each.name != "name")
KEYS = ("column", "columns", "kind", "uncertain", "separator", "none", *_OF_KIND)


def read_tasks(given: object) -> tuple[TaskOptions, ...]:
    """Return the tasks that ``data.tasks`` names, in its order; empty for null.

    Parameters
    ----------
    given : object
        null; a list of names, each also its column; or a mapping of names to a column, to a list
        of columns, or to a mapping with the keys `KEYS`.

    Raises
    ------
    UserError
        It is none of these, a name stands there twice, or a task's entry is wrong.
    """
    if given is None or given == {}:
        return ()
    if isinstance(given, Mapping):
        return tuple(_task(str(name), entry) for name, entry in given.items())
    names = _texts(given)
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"data.tasks: {str(given)[:80]!r}; write names, each once, as in [age, pose], or "
            '{effusion: "Pleural Effusion"}'
        )
    return tuple(TaskOptions(name, (name,)) for name in names)


def _task(name: str, entry: object) -> TaskOptions:
    where = f"data.tasks.{name}"
    if not isinstance(entry, Mapping):
        return TaskOptions(name, _texts(name if entry is None else entry))
    for key in entry:
        if key not in KEYS:
            raise UserError(f"{where} has no option {key!r}; there is {nearest(str(key), KEYS)}")
    columns = _texts(entry.get("columns") or entry.get("column") or name)
    kind = TaskKind(
        str(entry.get("kind", CLASSES)),
        str(entry.get("loss", "mse")),
        _numbers(entry.get("mean"), f"{where}.mean"),
        _numbers(entry.get("std"), f"{where}.std"),
        str(entry.get("unit", "")),
    )
    if kind.name == NUMBER and kind.mean and len(kind.mean) != len(columns):
        raise UserError(f"{where}.mean and .std: one number for each of {len(columns)} columns")
    words = [
        str(entry.get(key, default))
        for key, default in (("uncertain", "ignore"), ("separator", "|"), ("none", NO_FINDING))
    ]
    return TaskOptions(name, columns, kind, *words)


def _texts(given: object) -> tuple[str, ...]:
    many = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return tuple(str(each) for each in many)


def _numbers(given: object, where: str) -> tuple[float, ...]:
    many = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if given is None:
        return ()
    try:
        numbers = tuple(float(each) for each in many)
    except (TypeError, ValueError):
        numbers = (nan,)
    if not all(map(isfinite, numbers)):
        raise UserError(f"{where}: a number, or a list of numbers, not {str(given)[:80]!r}")
    return numbers
