"""The digits that the numbers of a report have on the wire: finer ones could carry something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from fedstrata.protocol.measures import MEASURES, kind_of
from fedstrata.protocol.task_kinds import CLASSES

DECIMALS = 6  # of losses and of what is from 0 to 1: a hundredth of what tables print
DIGITS = 7  # significant ones of a large loss, of errors in a number's own unit, and of a range
SECONDS_DECIMALS = 1
OWED_DECIMALS, MOST_OWED = 2, 10.0
MOST_SECONDS = 10_000_000  # of an order: four months
_METRICS = ("metrics", "before", "after")  # fields with metrics by split


def plain(report: Any) -> dict[str, Any]:
    """Return a report's fields by name, dataclasses in them as such too; not to be changed.

    Not `asdict`, which copies each number: a cohort has hundreds of reports. Nor msgspec's way into
    plain data: it leaves out what has its default value in what msgspec has read.
    """
    return {each.name: _plain_value(getattr(report, each.name)) for each in fields(report)}


def _plain_value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(value)
    if isinstance(value, dict):
        return {key: _plain_value(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain_value(each) for each in value]
    return value


def rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a report with their numbers rounded; a rounded report stays as it is.

    An accuracy of classes is a number of examples over all of them, and is rounded to the nearest
    such share.
    """
    changed = dict(record)
    if "loss" in changed:
        changed["loss"] = _loss(changed["loss"])
    if "seconds" in changed:
        changed["seconds"] = _plain(round(changed["seconds"], SECONDS_DECIMALS))
    if changed.get("owed") is not None:
        changed["owed"] = _plain(round(min(changed["owed"], MOST_OWED), OWED_DECIMALS))
    if "baseline" in changed:
        kind, tested = changed["kind"]["name"], changed["examples"].get("test", 0)
        changed["baseline"] = {
            name: _measure(kind, name, value, tested) for name, value in changed["baseline"].items()
        }
    if changed.get("interval") is not None:
        kind = kind_of(changed["metrics"].get("test", {})) or CLASSES
        leading = MEASURES[kind].leading
        # No share of the examples: a bound lies between two resamples.
        changed["interval"] = [_measure(kind, leading, each, 0) for each in changed["interval"]]
    if changed.get("data") is not None and changed["data"]["value_range"] is not None:
        span = [_significant(each) for each in changed["data"]["value_range"]]
        changed["data"] = {**changed["data"], "value_range": span}
    for name in _METRICS:
        if name in changed:
            changed[name] = {split: _metrics(values) for split, values in changed[name].items()}
    return changed


def _metrics(values: Mapping[str, float | None]) -> dict[str, float | None]:
    examples = values.get("examples") or 0
    kind = kind_of(values) or CLASSES
    return {
        name: value
        if value is None or name == "examples"
        else _measure(kind, name, value, examples)
        for name, value in values.items()
    }


def _measure(kind: str, name: str, value: float, examples: float) -> float:
    name = name.partition("/")[0]
    if name in ("loss", "r2"):
        return _loss(value)
    if name in ("mae", "rmse"):  # in a unit that may be small: no fixed number of decimals
        return _significant(value)
    if name == "accuracy" and kind == CLASSES:
        return _share(value, examples)
    return _plain(round(value, DECIMALS))


def _loss(value: float) -> float:
    return _plain(round(_significant(value), DECIMALS))


def _significant(value: float) -> float:
    return _plain(float(f"{value:.{DIGITS}g}"))


def _share(value: float, examples: float) -> float:
    """Return the share of ``examples`` nearest to ``value``; finer than `DECIMALS` it need not be."""
    if not 0 < examples <= 10**DECIMALS or not 0 <= value <= 1:
        return _plain(round(value, DECIMALS))
    return _plain(round(value * examples) / examples)


def _plain(value: float) -> float:
    """Return ``value``, and 0.0 for -0.0: the sign would be one bit more."""
    return value + 0.0
