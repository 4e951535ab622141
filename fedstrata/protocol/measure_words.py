"""Values of measures in words, of a record of results: ``91.20 %``, ``6.2 years``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstrata.protocol.measures import MEASURES, Measures
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER

Row = Mapping[str, Any]
WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R2",
}
BASELINES = {CLASSES: "majority class", LABELS: "chance", NUMBER: "mean"}


def value_text(name: str, value: float | None, unit: str = "") -> str:
    """Return a value of the measure ``name``; errors of numbers with ``unit``."""
    if value is None:
        return "-"
    if "accuracy" in name:
        return f"{100 * value:.2f} %"
    if name in ("mae", "rmse"):
        return f"{value:.4g}" + (f" {unit}" if unit else "")
    return f"{value:.3f}"


def gain_text(kind: str, value: float | None, unit: str = "") -> str:
    """Return a gain in the leading measure of a kind, above 0 where it is better."""
    if value is None:
        return "-"
    if kind == CLASSES:
        return f"{100 * value:+.2f} points"
    if kind == LABELS:
        return f"{value:+.3f}"
    return f"{value:+.4g}" + (f" {unit}" if unit else "")


def kind_of(record: Row) -> str:
    """Return the kind of task that a record is of."""
    return str(record.get("kind", CLASSES))


def measures_of(record: Row) -> Measures:
    """Return the measures of a record's kind of task."""
    return MEASURES[kind_of(record)]


def gain_so_far(sites: Mapping[str, Row], alone: Mapping[str, float]) -> float | None:
    """Return by how much sites of one kind are better than alone, in the mean over those of both.

    The mean is weighted by test examples; it is None where no site has both.

    Parameters
    ----------
    sites : mapping of str to mapping
        The records of sites whose tasks are of one kind.
    alone : mapping of str to float
        The leading measure of sites that trained alone.
    """
    both = [
        (row[leading], alone[name], row["examples"])
        for name, row in sites.items()
        if row.get(leading := measures_of(row).leading) is not None and name in alone
    ]
    total = sum(examples for *_, examples in both)
    if not total:
        return None
    with_others, by_itself = (sum(each[n] * each[2] for each in both) / total for n in (0, 1))
    return measures_of(next(iter(sites.values()))).gain(with_others, by_itself)


def compared_words(sites: Mapping[str, Row], alone: Mapping[str, float]) -> str:
    """Return the gain over alone so far: ``+3.20 points``; "-" where it is not known.

    Where it is not of all of these sites, the text says of how many.
    """
    gain = gain_so_far(sites, alone)
    if gain is None:
        return "-"
    known = sum(name in alone for name in sites)
    of = "" if known == len(sites) else f" ({known} of {len(sites)} sites)"
    return gain_words(next(iter(sites.values())), gain) + of


def value_words(row: Row, name: str, value: float | None, *, unit: bool = True) -> str:
    """Return a value of the measure ``name`` of a row's kind."""
    return value_text(name, value, row.get("unit", "") if unit else "")


def gain_words(row: Row, value: float | None) -> str:
    """Return a gain in the leading measure, above 0 where it is better."""
    return gain_text(kind_of(row), value, row.get("unit", ""))
