"""Keeps what belongs together, such as a patient's pictures, on one side of every split."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from client_app.data.cells import MOST_NAMED, CellRules, Faults, normal
from client_app.data.findings import Findings
from fedstrata.support.errors import PrivateText, UserError, private

# What a column of patients is often called. It is used only where data.group names it, but a
# split that cuts through it is worth a warning. Words such as "study" alone are other things too.
_PERSON = r"(?:patient|patienten|subject|participant|person|proband|probanden|volunteer|donor)"
_OF_PERSON = r"(?:pat|pt|subj|case|study|exam|accession|encounter|hadm|individual)"
_NUMBER = r"(?:id|nr|no|num|number|nummer|code|key|uid|instanceuid|hash|pseudonym)"
_LIKELY = re.compile(rf"{_PERSON}{_NUMBER}?|{_OF_PERSON}{_NUMBER}|mrn|pid")
_DOT_ZERO = re.compile(r"(?P<whole>\d+)\.0+")
LONGEST_PATTERN, MOST_REPEATS, LONGEST_PATH = 200, 4, 400
_REPEAT = re.compile(r"(?<!\\)(?:[*+]|\{\d*,)")
_NESTED = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\d*\})[^()]*\)(?:[*+]|\{)")


def likely_column(header: Sequence[str]) -> str | None:
    """Return the column that probably names patients, or None."""
    return _likely_column(tuple(header))


@lru_cache(maxsize=8)  # all sites of a simulation have the same
def _likely_column(header: tuple[str, ...]) -> str | None:
    words = {name: re.sub(r"[\W_]+", "", normal(name).casefold()) for name in header}
    likely = [name for name, word in words.items() if _LIKELY.fullmatch(word)]
    # The column of patients comes before that of their studies.
    return min(likely, key=lambda name: not re.match(_PERSON, words[name]), default=None)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return ``data.group_pattern`` as a regular expression.

    Raises
    ------
    UserError
        It is none, it has not exactly one group, or it could take very long.
    """
    where = "data.group_pattern: "
    if len(pattern) > LONGEST_PATTERN:
        raise UserError(f"{where}at most {LONGEST_PATTERN} characters")
    if _NESTED.search(pattern) or len(_REPEAT.findall(pattern)) > MOST_REPEATS:
        raise UserError(
            f"{where}{pattern!r} could take very long; use at most {MOST_REPEATS} of * and +, and "
            "none of them on a group that has one inside"
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{where}{pattern!r} is no regular expression ({error})") from error
    if compiled.groups != 1:
        raise UserError(
            f"{where}one group in round brackets says what belongs together, as in '(P[0-9]+)_'; "
            f"{pattern!r} has {compiled.groups}"
        )
    return compiled


def groups_by_pattern(names: Sequence[str], pattern: str) -> list[str]:
    """Return the group of each path, relative to the data folder, by ``data.group_pattern``.

    Raises
    ------
    UserError
        The pattern cannot be used, or finds nothing in some paths, which it names.
    """
    compiled = compile_pattern(pattern)
    found, faults = [], Faults()
    for name in names:
        # A part of a path could have another group than the whole.
        match = compiled.search(name) if len(name) <= LONGEST_PATH else None
        if match is None or not match[1]:
            faults.add(private(repr(name), "a file in the data folder"))
        else:
            found.append(normal(match[1]))
    faults.raise_any(
        f": data.group_pattern={pattern!r} finds nothing there; paths have at most {LONGEST_PATH} "
        "characters"
    )
    return found


def group_key(group: str) -> str:
    """Return what two ways of writing one patient have in common: ``P1`` and ``p1 ``, 7 and 7.0.

    Numbers stay texts: those of patients can have more digits than a float.
    """
    text = normal(" ".join(group.split()).casefold())
    number = _DOT_ZERO.fullmatch(text)
    return number["whole"] if number else text


def numbered_groups(
    groups: Sequence[str], rules: CellRules, findings: Findings, by: str
) -> NDArray[np.int64]:
    """Return a number for each example that its group shares; one without a group is alone.

    Values that differ in case, blanks or the format of a number are one group: it is safe to keep
    too much together.
    """
    numbers: dict[str, int] = {}
    numbered = np.empty(len(groups), dtype=np.int64)
    alone = 0
    keys = {group: group_key(group) for group in set(groups)}
    for row, group in enumerate(groups):
        if rules.is_missing(group):
            alone += 1
            numbered[row] = -alone
        else:
            numbered[row] = numbers.setdefault(keys[group], len(numbers))
    if alone:
        findings.warn(
            private(f"{alone} examples", "examples") + f" have no value in {by!r} (data.group): "
            "each counts as one of its own"
        )
    joined = len({normal(group) for group in keys if not rules.is_missing(group)}) - len(numbers)
    if joined:
        findings.note(
            private(f"{joined} values", "values") + f" in {by!r} (data.group) differ from another "
            "only in case, blanks or the format of a number, and belong to the same group"
        )
    return numbered


def joined_units(*numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each example that all share who are linked by any of ``numbers``.

    Two pictures of one patient are linked, and so are two copies of one picture.
    """
    parent = np.arange(len(numbers[0]), dtype=np.int64)

    def first_of(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for each in numbers:
        _, first, number = np.unique(each, return_index=True, return_inverse=True)
        for row in np.flatnonzero(first[number] != np.arange(len(each))):
            one, other = sorted((first_of(int(row)), first_of(int(first[number[row]]))))
            parent[other] = one
    return np.array([first_of(row) for row in range(len(parent))], dtype=np.int64)


def on_both_sides(groups: NDArray[np.int64], sides: Sequence[object]) -> list[int]:
    """Return the groups with examples on more than one side; a side of None counts for nothing."""
    seen: dict[int, object] = {}
    both: dict[int, None] = {}
    for group, side in zip(groups.tolist(), sides, strict=True):
        if side is not None and seen.setdefault(group, side) != side:
            both[group] = None
    return list(both)


def refuse_broken_groups(
    groups: NDArray[np.int64],
    sides: Sequence[object],
    by: str,
    where: Callable[[int], PrivateText],
    *,
    between: str,
) -> None:
    """Raise a `UserError` where the data themselves put a group on two sides.

    ``between`` says what the sides are: ``splits`` or ``sites``.
    """
    both = on_both_sides(groups, sides)
    if not both:
        return
    many = len(np.unique(groups))
    rows = [int(np.flatnonzero(groups == group)[0]) for group in both[:MOST_NAMED]]
    named = ", ".join(where(row).whole for row in rows)
    raise UserError(
        private(f"{len(both)} of {many} groups", "groups")
        + f" by {by!r} (data.group) stand in two {between}"
        + private(f", such as those of {named}")
        + f"; correct the {between}, or write data.group=null"
    )
