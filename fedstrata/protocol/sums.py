"""Sums over training rows that sites send once, before the rounds, and the scale that follows.

A run asks for them where its plan says ``data.standardize=agreed`` and has no scale yet. They are
three numbers for each input, and for each number that is predicted: how many values there are, their
sum, and the sum of their squares. Nothing else goes with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedstrata.protocol.limits import MOST_EXAMPLES, Refused, one_line

AGREED = "agreed"
MOST_INPUTS = 2000  # of which sums may travel
DIGITS = 15  # of a sum on the wire
MOST_SUM = 1e300
LEAST_SITES = 2  # one site's sums would be the site's own
# Below, of the mean's square, a variance is what rounding left over.
_NOTHING = 1e-13


@dataclass(frozen=True)
class ColumnSums:
    """The sums of some columns over a site's training rows.

    Parameters
    ----------
    count : tuple of int
        How many values of each column are known.
    total, squares : tuple of float
        Their sum, and the sum of their squares; 0 where none is known.
    """

    count: tuple[int, ...] = ()
    total: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.count)

    def check(self, columns: int) -> None:
        """Raise Refused for sums of another number of columns, or that no values have."""
        if not len(self.count) == len(self.total) == len(self.squares) == columns:
            raise Refused(f"the sums are not three numbers for each of {columns} columns")
        for count, total, squares in zip(self.count, self.total, self.squares, strict=True):
            # By Cauchy and Schwarz; the margin is for rounding.
            possible = total * total <= count * squares * (1 + 1e-6) + 1e-6
            if (
                not 0 <= count <= MOST_EXAMPLES
                or not abs(total) + squares < MOST_SUM
                or not possible
            ):
                raise Refused(f"no {count} values have the sum {total} and the squares {squares}")

    def rounded(self) -> ColumnSums:
        """Return the sums as they travel: with `DIGITS` digits, which rounding does not change."""
        return ColumnSums(
            self.count, *(tuple(map(_short, values)) for values in (self.total, self.squares))
        )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") + 0.0  # no -0.0: the sign would be one bit more


@dataclass(frozen=True)
class SumsReport:
    """What a site answers where it is asked for sums.

    Parameters
    ----------
    site : str
        The site's name.
    inputs, targets : ColumnSums
        Of the inputs, and of the numbers that are predicted where there are any.
    error : str
        Why there are none, or "".
    later : bool
        Whether the site may answer at another time.
    """

    site: str
    inputs: ColumnSums = ColumnSums()
    targets: ColumnSums = ColumnSums()
    error: str = ""
    later: bool = False

    def checked(self) -> SumsReport:
        """Return the report with its error on one line; raise Refused for impossible sums."""
        if self.error:
            return SumsReport(self.site, error=one_line(self.error), later=self.later)
        if not 0 < len(self.inputs) <= MOST_INPUTS:
            raise Refused(f"sums of {len(self.inputs)} inputs; from 1 to {MOST_INPUTS} are taken")
        self.inputs.check(len(self.inputs))
        self.targets.check(len(self.targets))
        return self


def are_wanted(data: Mapping[str, Any], agreed: Mapping[str, Any] | None) -> bool:
    """Return whether a plan with these ``data`` and this scale waits for the sites' sums."""
    return data.get("standardize") == AGREED and data.get("constants") is None and agreed is None


def scale(sums: Iterable[ColumnSums]) -> dict[str, list[float]]:
    """Return ``mean`` and ``std`` of each column over the rows of all sites.

    Whatever the order of the sites, the result is the same to the last bit. A column without values,
    or with the same value everywhere, has the deviation 1.
    """
    each = list(sums)
    mean, std = [], []
    for column in range(len(each[0])):
        count = sum(one.count[column] for one in each)
        average = math.fsum(one.total[column] for one in each) / count if count else 0.0
        square = math.fsum(one.squares[column] for one in each) / count if count else 0.0
        variance = square - average * average
        mean.append(average)
        std.append(math.sqrt(variance) if variance > _NOTHING * average * average else 1.0)
    return {"mean": mean, "std": std}


def combined(reports: Sequence[tuple[str, SumsReport]]) -> dict[str, Any]:
    """Return the scale of all sites, as the plan has it.

    Parameters
    ----------
    reports : sequence of (str, SumsReport)
        Each site's task and sums, of equally many inputs.

    Returns
    -------
    dict
        ``mean`` and ``std`` of the inputs, and ``targets``: the same by task, of the tasks whose
        sites sent sums of what they predict.
    """
    by_task: dict[str, list[ColumnSums]] = {}
    for task, report in reports:
        if len(report.targets):
            by_task.setdefault(task, []).append(report.targets)
    targets = {task: scale(each) for task, each in sorted(by_task.items())}
    return {**scale(report.inputs for _, report in reports), "targets": targets}


def as_record(report: SumsReport) -> dict[str, Any]:
    """Return a report as plain data, with the digits that travel."""
    return {
        **asdict(report),
        "inputs": asdict(report.inputs.rounded()),
        "targets": asdict(report.targets.rounded()),
    }
