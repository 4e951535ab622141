"""Gives each site its share of labelled examples, and each of them its split, without leaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client_app.data.cells import MOST_NAMED, CellRules, same_key
from client_app.data.dicom import PATIENT, PATIENT_ID
from client_app.data.duplicates import KEEP, POLICIES, Examples, settle_duplicates
from client_app.data.findings import Findings
from client_app.data.groups import (
    joined_units,
    numbered_groups,
    on_both_sides,
    refuse_broken_groups,
)
from client_app.data.labels import Targets
from client_app.data.site_info import SiteInfo
from client_app.data.site_split import (
    COLUMN_SCHEMES,
    Rank,
    SiteSplit,
    rows_of_site,
    value_of_site,
)
from client_app.data.split_names import SPLITS
from client_app.data.splitting import SplitIndices, fill_missing_splits, fractions_to_draw
from fedstrata.protocol.task_kinds import CLASSES
from fedstrata.support.errors import PrivateText, UserError, private


@dataclass(frozen=True)
class ExampleOptions:
    """The options of labels, splits and groups that data sets have in common."""

    missing: list[str]
    join_labels: bool
    decimal: str
    split_names: dict[str, str] | None
    duplicates: str
    group: str | None

    def check_examples(self) -> None:
        """Raise a `UserError` where an option makes no sense."""
        self.rules()
        for name, split in (self.split_names or {}).items():
            if split not in SPLITS:
                raise UserError(
                    f"data.split_names.{name}: train, validation or test, not {split[:80]!r}"
                )
        if self.duplicates not in POLICIES:
            raise UserError(f"data.duplicates: {', '.join(POLICIES)}, not {self.duplicates!r}")

    def rules(self) -> CellRules:
        """Return how cells are read."""
        return CellRules(tuple(self.missing), self.join_labels, self.decimal)


@dataclass(frozen=True)
class Labelled:
    """All examples that sites share and that have a label, before any is read.

    Parameters
    ----------
    targets : Targets
        What is predicted; ``targets.rows`` is not used here.
    splits : sequence of str or None
        What the data say; each ``train``, ``validation``, ``test`` or None.
    copies : NDArray[np.int64]
        A number that examples with the same content share, ``(n,)``.
    where : callable
        Returns where example ``i`` is, for texts.
    what : str
        What one is: ``picture`` or ``text``.
    domains : sequence of str or None
        Their values for the schemes ``natural`` and ``domain``.
    groups : sequence of str or None
        What belongs together, such as the patient; None where nothing says it.
    group_by : str
        What says it: the column's name.
    grouped : bool
        Whether ``data.group`` asks to keep groups together; else they are counted alone.
    """

    targets: Targets
    splits: Sequence[str | None]
    copies: NDArray[np.int64]
    where: Callable[[int], PrivateText]
    what: str
    domains: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    group_by: str = ""
    grouped: bool = False

    def take(self, rows: NDArray[np.int64]) -> Labelled:
        """Return some of the examples."""
        if np.array_equal(rows, np.arange(len(self.splits))):
            return self
        targets = replace(
            self.targets, rows=self.targets.rows[rows], values=self.targets.values[rows]
        )
        return replace(
            self,
            targets=targets,
            splits=[self.splits[row] for row in rows],
            copies=self.copies[rows],
            where=lambda row: self.where(int(rows[row])),
            domains=None if self.domains is None else [self.domains[row] for row in rows],
            groups=None if self.groups is None else [self.groups[row] for row in rows],
        )


@dataclass(frozen=True)
class Share:
    """A site's own examples.

    Parameters
    ----------
    rows : NDArray[np.int64]
        Which of the labelled examples that were given, ``(m,)``.
    own : Labelled
        Those.
    units : NDArray[np.int64]
        A number that examples share which must be in one split, ``(m,)``.
    numbers : NDArray[np.int64] or None
        A number that examples of one group share, ``(m,)``.
    given : set of str or None
        The splits that the data of all sites have.
    source : str
        Which value of the column, or which domain, the site is.
    """

    rows: NDArray[np.int64]
    own: Labelled
    units: NDArray[np.int64]
    numbers: NDArray[np.int64] | None
    given: frozenset[str | None]
    source: str

    def take(self, rows: NDArray[np.int64]) -> Share:
        """Return the examples that could be read: ``rows`` of these, some perhaps several times."""
        return replace(
            self,
            rows=self.rows[rows],
            own=self.own.take(rows),
            units=self.units[rows],
            numbers=None if self.numbers is None else self.numbers[rows],
        )


def share_of_site(
    every: Labelled,
    options: ExampleOptions,
    split: SiteSplit,
    rank: Rank,
    seed: int,
    info: SiteInfo,
) -> Share:
    """Return the examples of the site at ``rank``.

    Raises
    ------
    UserError
        Copies or groups are on two sides, or the examples cannot be split like this.
    """
    by_value = split.scheme in COLUMN_SCHEMES and rank.count > 1 and every.domains is not None
    values = np.array(every.domains, dtype=np.str_) if every.domains is not None else None
    examples = Examples(
        every.copies,
        every.targets.values,
        every.splits,
        values if by_value else None,
        every.where,
        every.what,
    )
    kept = settle_duplicates(examples, options.duplicates, info.findings)
    every = every.take(kept)
    values = None if values is None else values[kept]
    numbers = _groups(every, options, values if by_value else None, info.findings)
    # Copies that are kept are drawn as any others are: the user knows of them.
    units = np.arange(len(kept)) if options.duplicates == KEEP else every.copies
    if numbers is not None and every.grouped:
        units = joined_units(units, numbers)
    rows = rows_of_site(split, every.targets.strata(), rank, seed, values, units)
    source, unheld = value_of_site(split, rank, values)
    if by_value and values is not None:
        _warn_alike(split, values, info.findings)
    if unheld:
        _warn_unheld(split, unheld, rank, info.findings)
    own = every.take(rows)
    _, units = np.unique(units[rows], return_inverse=True)
    numbers = None if numbers is None else numbers[rows]
    return Share(kept[rows], own, units, numbers, frozenset(every.splits), source)


def draw_splits(
    share: Share,
    copies: NDArray[np.int64],
    validation: float,
    test: float,
    seed: int,
    findings: Findings,
) -> SplitIndices:
    """Keep the splits that the data give, draw the missing ones, and say what is odd about them.

    ``copies`` numbers the examples by content, ``(m,)``: the draw depends on the order of these.
    """
    together = share.numbers is not None and share.own.grouped
    units = joined_units(copies, share.units) if together else copies
    validation, test = fractions_to_draw(share.given, validation, test)
    parts = fill_missing_splits(
        share.own.splits,
        share.own.targets.strata(),
        validation=validation,
        test=test,
        seed=seed,
        copies=units,
    )
    _count_groups(share, parts, findings)
    _warn_few(share.own.targets, parts, findings)
    return parts


def _groups(
    every: Labelled,
    options: ExampleOptions,
    values: NDArray[np.str_] | None,
    findings: Findings,
) -> NDArray[np.int64] | None:
    if every.groups is None:
        return None
    quiet = Findings()
    by = every.group_by
    numbers = numbered_groups(
        every.groups, options.rules(), findings if every.grouped else quiet, by
    )
    if not every.grouped:
        return numbers
    sides = [split or "train" for split in every.splits]
    findings.groups = {
        "by": by,
        "groups": len(np.unique(numbers)),
        "on_both_sides": len(on_both_sides(numbers, sides)),
    }
    refuse_broken_groups(numbers, sides, by, every.where, between="splits")
    if values is not None:
        refuse_broken_groups(numbers, values.tolist(), by, every.where, between="sites")
    return numbers


def _count_groups(share: Share, parts: SplitIndices, findings: Findings) -> None:
    if share.numbers is None:
        return
    side = np.full(len(share.numbers), -1)
    for number, rows in enumerate(parts):
        side[rows] = number
    both = len(on_both_sides(share.numbers, [s if s >= 0 else None for s in side.tolist()]))
    groups = len(np.unique(share.numbers))
    by = share.own.group_by
    if share.own.grouped:
        findings.groups = {"by": by, "groups": groups, "on_both_sides": both}
    elif both and by == PATIENT_ID:
        findings.warn(
            private(f"{both} patients", "patients")
            + " stand in two splits, by the PatientID of DICOM files; to keep each on one side write "
            f"data.group={PATIENT}"
        )
    elif both:
        findings.warn(
            private(f"{both} of {groups} values", "values")
            + " of the column "
            + private(repr(by), "of patients")
            + " stand in two splits; to keep each on one side write data.group="
            + private(by if by.isidentifier() else repr(by), "<column>")
        )


def _warn_few(targets: Targets, parts: SplitIndices, findings: Findings) -> None:
    """Say which classes have too few examples for their splits."""
    if targets.kind.name != CLASSES:
        return
    counts = np.stack(
        [np.bincount(targets.values[rows], minlength=len(targets.classes)) for rows in parts]
    )
    named = dict(zip(targets.classes, counts.T.tolist(), strict=True))
    absent = [repr(name) for name, each in named.items() if not any(each)]
    few = [
        f"{name!r} has {train} for training, {validation} for validation and {test} for testing"
        for name, (train, validation, test) in named.items()
        if train + validation + test and not (train and validation and test)
    ]
    note_absent(absent, findings)
    if few:
        findings.warn("too few examples of a class for its splits" + private(f": {_first(few)}"))


def note_absent(names: Sequence[str], findings: Findings) -> None:
    """Say which classes have no example at this site."""
    if names:
        findings.note("no example here of " + private(_first(names), "some classes"))


def _first(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return ", ".join(texts[:MOST_NAMED]) + more


def _warn_alike(split: SiteSplit, values: NDArray[np.str_], findings: Findings) -> None:
    """Warn of values by which sites are split that are probably one."""
    alike: dict[str, list[str]] = {}
    for value in np.unique(values).tolist():
        alike.setdefault(same_key(value), []).append(value)
    several = [" and ".join(map(repr, each)) for each in alike.values() if len(each) > 1]
    if several:
        findings.warn(
            private(f"{_first(several)}", "values")
            + f" of {split.column or 'the domains'!r} differ only in case, blanks or the format of a "
            "number, and are different sites; write them alike"
        )


def _warn_unheld(split: SiteSplit, unheld: Sequence[str], rank: Rank, findings: Findings) -> None:
    many = rank.count + len(unheld)
    findings.warn(
        private(f"{len(unheld)} of {many} values", "values")
        + f" of {split.column or 'the domains'!r} belong to no site"
        + private(f" ({_first(unheld)})")
        + f"; for all of them start {many} sites of the task, as with "
        f"--federation-config 'num-supernodes={many}'"
    )
