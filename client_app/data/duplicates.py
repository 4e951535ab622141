"""Finds examples with the same content, and what that does to splits, labels and sites."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client_app.data.cells import MOST_NAMED
from client_app.data.findings import Findings
from fedstrata.support.errors import PrivateText, UserError, private

REFUSE, DROP, KEEP = "refuse", "drop", "keep"
POLICIES = (REFUSE, DROP, KEEP)
DUPLICATE = "duplicate"  # the reason for which an example is left out
_ORDER = {"test": 0, "validation": 1, "train": 2}  # which of the copies is kept


@dataclass(frozen=True)
class Examples:
    """What is known of each example, before any is read.

    Parameters
    ----------
    copies : NDArray[np.int64]
        A number for each, which examples with the same content share, ``(n,)``.
    labels : NDArray
        Its label or labels, ``(n,)`` or ``(n, C)``.
    splits : sequence of str or None
        The split that the data give.
    sites : NDArray[np.str_] or None
        The value by which sites of a simulation are split; None where nothing says so.
    where : callable
        Returns where example ``i`` is, for texts.
    what : str
        What one is: ``picture`` or ``text``.
    """

    copies: NDArray[np.int64]
    labels: NDArray[np.int64] | NDArray[np.float32]
    splits: Sequence[str | None]
    sites: NDArray[np.str_] | None
    where: Callable[[int], PrivateText]
    what: str

    def sets(self) -> list[NDArray[np.int64]]:
        """Return the rows of each set of two or more examples with the same content."""
        order = np.argsort(self.copies, kind="stable")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(self.copies[order])) + 1])
        ends = np.append(starts[1:], len(order))
        several = ends - starts > 1
        pairs = zip(starts[several].tolist(), ends[several].tolist(), strict=True)
        return [order[start:end] for start, end in pairs]

    def side(self, row: int) -> str:
        """Return the split of a row; one that is not given is on the side of training."""
        return self.splits[row] or "train"


def numbered_contents(contents: Iterable[bytes]) -> NDArray[np.int64]:
    """Return a number for each content, equal for equal contents, in order of their first place."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(each, digest_size=16).digest() for each in contents)
    return np.array([seen.setdefault(each, len(seen)) for each in digests], dtype=np.int64)


def check_policy(policy: str) -> None:
    """Raise a `UserError` unless it is one of ``data.duplicates``."""
    if policy not in POLICIES:
        raise UserError(f"data.duplicates: {', '.join(POLICIES)}, not {policy!r}")


def settle_duplicates(examples: Examples, policy: str, findings: Findings) -> NDArray[np.int64]:
    """Return the rows to use, ``(m,)``, sorted.

    Copies in two splits, under two labels or at two sites are an error with ``refuse``. With
    ``drop``, one of each set is used: of those for the test before those for validation before those
    for training. Of a set with two labels none is used, for which is right is not known.

    Raises
    ------
    UserError
        There are such copies, and ``policy`` is ``refuse``; or there is no such policy.
    """
    check_policy(policy)
    everything = np.arange(len(examples.copies), dtype=np.int64)
    sets = examples.sets()
    if not sets:
        return everything
    if policy == DROP:
        return _without(examples, sets, findings)
    wrong = [found for found in _conflicts(examples, sets) if found[1]]
    if policy == REFUSE and wrong:
        raise UserError(_named(examples, wrong))
    many = sum(len(rows) - 1 for rows in sets)
    findings.note(private(f"{many} ", "") + f"{examples.what}s are copies of others (same content)")
    for reason, rows in wrong:
        findings.warn(
            private(f"{len(rows)} ", "") + f"{examples.what}s {reason} (data.duplicates=keep)"
        )
    return everything


def _conflicts(
    examples: Examples, sets: Sequence[NDArray[np.int64]]
) -> list[tuple[str, list[NDArray[np.int64]]]]:
    """Return what is wrong with copies, each with the sets of which it holds."""
    labels = examples.labels.reshape(len(examples.copies), -1)

    def two_labels(rows: NDArray[np.int64]) -> bool:
        return len(np.unique(np.nan_to_num(labels[rows], nan=-1), axis=0)) > 1

    def two_splits(rows: NDArray[np.int64]) -> bool:
        return len({examples.side(row) for row in rows}) > 1

    def two_sites(rows: NDArray[np.int64]) -> bool:
        return examples.sites is not None and len(set(examples.sites[rows])) > 1

    return [
        ("stand in two splits", list(filter(two_splits, sets))),
        ("have two labels", list(filter(two_labels, sets))),
        ("belong to two sites", list(filter(two_sites, sets))),
    ]


def _named(examples: Examples, wrong: Sequence[tuple[str, list[NDArray[np.int64]]]]) -> PrivateText:
    """Return one text that names some of the copies of every kind."""
    parts: list[PrivateText] = []
    for reason, sets in wrong:
        shown = "; ".join(
            " = ".join(f"{examples.where(row).whole} ({examples.side(row)})" for row in rows[:3])
            for rows in sets[:MOST_NAMED]
        )
        more = f"; and {len(sets) - MOST_NAMED} more" if len(sets) > MOST_NAMED else ""
        parts.append(
            f"{examples.what}s with the same content {reason}"
            + private(f" ({len(sets)} times): {shown}{more}")
        )
    text = parts[0]
    for part in parts[1:]:
        text = text + ". " + part
    return (
        text
        + ". Remove the copies, or write data.duplicates=drop (one is used, that of the test first) "
        "or data.duplicates=keep"
    )


def _without(
    examples: Examples, sets: Sequence[NDArray[np.int64]], findings: Findings
) -> NDArray[np.int64]:
    used = np.ones(len(examples.copies), dtype=bool)
    contradict = {int(rows[0]) for rows in _conflicts(examples, sets)[1][1]}
    for rows in sets:
        used[rows] = False
        if int(rows[0]) not in contradict:
            used[min(rows, key=lambda row: (_ORDER[examples.side(row)], row))] = True
    for row in np.flatnonzero(~used):
        findings.leave_out(DUPLICATE, examples.where(int(row)))
    return np.flatnonzero(used)
