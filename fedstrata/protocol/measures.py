"""What is measured of a task, by its kind: the names, their bounds, and which of them leads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedstrata.protocol.limits import MOST_LOSS
from fedstrata.protocol.task_kinds import CLASSES, LABELS, NUMBER

# A report has numbers of single outputs for at most so many: it has few characters.
MOST_BY_OUTPUT = 64


@dataclass(frozen=True)
class Measure:
    """One number of a report.

    Parameters
    ----------
    lowest, highest : float
        Its bounds.
    optional : bool
        Whether it may be missing: an AUROC needs examples of two kinds.
    """

    lowest: float = 0.0
    highest: float = 1.0
    optional: bool = False


SHARE, MAYBE_SHARE = Measure(), Measure(optional=True)
AMOUNT = Measure(highest=MOST_LOSS)


@dataclass(frozen=True)
class Measures:
    """The measures of one kind of task.

    Parameters
    ----------
    of : mapping of str to Measure
        By name, all that a report has, besides ``examples``.
    leading : str
        The one by which models are compared, and which sites are called worst.
    lower_is_better : bool
        Whether less of the leading one is better.
    by_output : str
        The one that a report also has of each output, where there are several; "" for none.
    baseline : tuple of str
        Those that a guess without any input has.
    """

    of: Mapping[str, Measure]
    leading: str
    lower_is_better: bool = False
    by_output: str = ""
    baseline: tuple[str, ...] = ()

    def gain(self, value: float | None, before: float | None) -> float | None:
        """Return by how much ``value`` of the leading measure is better than ``before``, or None."""
        if value is None or before is None:
            return None
        return before - value if self.lower_is_better else value - before

    def of_outputs(self, count: int) -> tuple[str, ...]:
        """Return the names of the numbers that a report has of each of ``count`` outputs."""
        if not self.by_output or not 1 < count <= MOST_BY_OUTPUT:
            return ()
        return tuple(f"{self.by_output}/{number}" for number in range(count))


MEASURES: Mapping[str, Measures] = MappingProxyType(
    {
        CLASSES: Measures(
            {
                "loss": AMOUNT,
                "accuracy": SHARE,
                "balanced_accuracy": SHARE,
                "auroc": MAYBE_SHARE,
            },
            "accuracy",
            baseline=("accuracy",),
        ),
        LABELS: Measures(
            {
                "loss": AMOUNT,
                "auroc": MAYBE_SHARE,
                "average_precision": MAYBE_SHARE,
                "accuracy": MAYBE_SHARE,
            },
            "auroc",
            by_output="auroc",
            baseline=("auroc", "accuracy"),
        ),
        NUMBER: Measures(
            {
                "loss": AMOUNT,
                "mae": Measure(highest=MOST_LOSS, optional=True),
                "rmse": Measure(highest=MOST_LOSS, optional=True),
                "r2": Measure(-MOST_LOSS, 1.0, optional=True),
            },
            "mae",
            lower_is_better=True,
            by_output="mae",
            baseline=("mae", "rmse"),
        ),
    }
)
"""By kind of task."""


def kind_of(names: Collection[str]) -> str | None:
    """Return the kind of task whose measures, and ``examples``, are exactly ``names``; else None."""
    plain = {name for name in names if "/" not in name}
    for kind, measures in MEASURES.items():
        if plain == {"examples", *measures.of}:
            several = measures.of_outputs(len(names) - len(plain))
            return kind if set(names) == {*plain, *several} else None
    return None


def measure_of(kind: str, name: str) -> Measure:
    """Return what the measure ``name`` of a kind is, also of a single output."""
    if "/" not in name:
        return MEASURES[kind].of[name]
    whole = MEASURES[kind].of[name.partition("/")[0]]
    return Measure(whole.lowest, whole.highest, optional=True)
