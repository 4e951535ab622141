"""Whether what a site measured, and what it says of its outputs, can be of its kind of task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedstrata.protocol.class_measures import ByClass
from fedstrata.protocol.limits import (
    MOST_CLASSES,
    MOST_EXAMPLES,
    MOST_UNIT,
    Refused,
    printable,
)
from fedstrata.protocol.measures import MEASURES, Measure, kind_of, measure_of
from fedstrata.protocol.task_kinds import CLASSES, NUMBER, TaskKind

MEASURED = ("validation", "test")  # the splits that a report may carry metrics of
ByName = Mapping[str, float | None]


def check_outputs(kind: TaskKind, names: Sequence[str], baseline: Mapping[str, float]) -> None:
    """Raise Refused for outputs that a task of ``kind`` cannot have, and for another baseline."""
    if len(names) < (2 if kind.name == CLASSES else 1):
        raise Refused("a site needs two classes, one label or one number")
    if len(names) > MOST_CLASSES:
        raise Refused(f"names {len(names)} classes, at most {MOST_CLASSES} are taken")
    if len(set(names)) < len(names):
        raise Refused("a site names two classes, labels or numbers alike")
    if kind.mean and (kind.name != NUMBER or len(kind.mean) != len(names)):
        raise Refused(f"has a mean and std for {len(kind.mean)} of {len(names)} outputs")
    if not all(map(math.isfinite, (*kind.mean, *kind.std))):
        raise Refused("a mean or std of its numbers is not finite")
    if kind.unit != printable(kind.unit) or len(kind.unit) > MOST_UNIT:
        raise Refused(f"the unit must be printable, at most {MOST_UNIT} characters")
    wanted = MEASURES[kind.name].baseline
    if set(baseline) != set(wanted):
        raise Refused(f"the baseline is not of {', '.join(wanted)}")
    for name, value in baseline.items():
        _check_value(f"baseline.{name}", value, measure_of(kind.name, name))


def check_metrics(metrics: Mapping[str, ByName]) -> None:
    """Raise Refused for other numbers than a kind's: they could carry something of the data."""
    found = set()
    for split, values in metrics.items():
        kind = kind_of(values)
        if split not in MEASURED or kind is None:
            raise Refused(f"metrics of {printable(split)[:80]!r} are not those of a kind of task")
        found.add(kind)
        for name, value in values.items():
            if name == "examples":
                measure = Measure(highest=MOST_EXAMPLES)
            else:
                measure = measure_of(kind, name)
            if value is not None or not measure.optional:
                _check_value(f"metric {split}.{name}", value, measure)
    if len(found) > 1:
        raise Refused(f"measures as several kinds of task: {', '.join(sorted(found))}")


def check_interval(interval: tuple[float, float] | None, metrics: Mapping[str, ByName]) -> None:
    """Raise Refused for an interval that no bootstrap of the leading measure has."""
    if interval is None:
        return
    kind = kind_of(metrics.get("test", {}))
    if kind is None:
        raise Refused("has an interval, and no metrics of the test data")
    measure = measure_of(kind, MEASURES[kind].leading)
    if not measure.lowest <= interval[0] <= interval[1] <= measure.highest:
        raise Refused(f"the interval of the test data is {interval[0]} to {interval[1]}")


def check_by_class(by_class: ByClass | None, metrics: Mapping[str, ByName]) -> None:
    """Raise Refused for measures of classes that nobody has on such test data."""
    if by_class is None:
        return
    tested = metrics.get("test", {})
    by_class.check_kind(kind_of(tested) or "")
    by_class.check(tested["examples"] or 0)


def _check_value(what: str, value: float | None, measure: Measure) -> None:
    if value is None or not measure.lowest <= value <= measure.highest:
        raise Refused(f"{what} is {value}")
