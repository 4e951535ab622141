"""Measures of each class or label as results.json has them: of a site, and over a task's sites."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fedstrata.protocol.class_measures import BINS, COUNTS, RATES, ROC_POINTS, ByClass, OneClass


def record_of(by_class: ByClass | None, names: Collection[str]) -> dict[str, Any]:
    """Return the measures as results.json has them, by the names of the classes; docs/results.md."""
    if by_class is None:
        return {}
    named = list(zip(names, by_class.classes, strict=True))
    return {
        "by_class": {name: _class_record(one) for name, one in named},
        "confusion": [list(row) for row in by_class.confusion] or None,
        "calibration": {
            "error": by_class.calibration_error,
            "bins": [None if each is None else list(each) for each in by_class.calibration],
        },
        "roc": {name: list(one.roc) for name, one in named if one.roc},
    }


def _class_record(one: OneClass) -> dict[str, Any]:
    intervals = dict(zip(RATES, one.intervals, strict=True))
    return {
        **dict(zip(RATES, one.rates, strict=True)),
        "threshold": one.threshold,
        "intervals": {
            name: None if each is None else list(each) for name, each in intervals.items()
        },
        "counts": dict(zip(COUNTS, one.counts, strict=True)) if one.counts else None,
    }


def over_sites(records: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the four keys of a task, over the records of its sites; {} where no site has them.

    Rates and ROC are means weighted by test examples, over the sites that have them. Counts are
    sums, and None where a site withholds them.
    """
    there = [record for record in records if "by_class" in record]
    if not there:
        return {}
    names = list(there[0]["by_class"])
    return {
        "by_class": {name: _task_class(name, there) for name in names},
        "confusion": _summed([record["confusion"] for record in there]),
        "calibration": _task_calibration(there),
        "roc": {
            name: [
                _weighted([(r["roc"][name][point], r["examples"]) for r in with_it])
                for point in range(ROC_POINTS)
            ]
            for name in names
            if (with_it := [record for record in there if name in record["roc"]])
        },
    }


def _task_class(name: str, records: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    pairs = [(record["by_class"][name], record["examples"]) for record in records]
    counts = [one["counts"] for one, _ in pairs]
    return {
        **{rate: _weighted([(one[rate], examples) for one, examples in pairs]) for rate in RATES},
        "counts": {count: sum(each[count] for each in counts) for count in COUNTS}
        if all(counts)
        else None,
    }


def _summed(matrices: Collection[list[list[int]] | None]) -> list[list[int]] | None:
    known = [matrix for matrix in matrices if matrix]
    if len(known) < len(matrices):
        return None
    return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*known, strict=True)]


def _task_calibration(records: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    total = sum(record["examples"] for record in records)
    bins: list[list[float] | None] = []
    for place in range(BINS):
        found = [
            (record["calibration"]["bins"][place], record["examples"])
            for record in records
            if record["calibration"]["bins"]
        ]
        weights = [(each, each[2] * examples) for each, examples in found if each]
        mass = sum(weight for _, weight in weights)
        bins.append(
            [
                sum(each[0] * weight for each, weight in weights) / mass,
                sum(each[1] * weight for each, weight in weights) / mass,
                mass / total,
            ]
            if mass
            else None
        )
    known = sum(b[2] for b in bins if b)
    error = sum(abs(b[0] - b[1]) * b[2] for b in bins if b) / known if known else None
    return {"error": error, "bins": bins}


def _weighted(pairs: Collection[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
