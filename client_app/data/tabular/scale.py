"""The scale that all sites agree on: the sums that a site sends for it, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedstrata.protocol.sums import ColumnSums
from fedstrata.protocol.task_kinds import NUMBER, TaskKind
from fedstrata.support.errors import UserError

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Constants:
    """``data.constants``: mean and deviation of each input, and of each task's numbers.

    Parameters
    ----------
    mean, std : NDArray[np.float64]
        Shape ``(d,)``.
    targets : mapping
        By task, ``mean`` and ``std`` of its outputs; tasks without are not in it.
    """

    mean: Numbers
    std: Numbers
    targets: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]

    def scaled(self, values: Numbers) -> Numbers:
        """Return ``(values - mean) / std``; raise UserError for another number of inputs."""
        if values.shape[1] != len(self.mean):
            raise UserError(
                f"data.constants has {len(self.mean)} means, and this site has {values.shape[1]} "
                "inputs: all sites need the same data.features and data.categories"
            )
        return (values - self.mean) / self.std

    def kind(self, kind: TaskKind, task: str) -> TaskKind:
        """Return a task's kind with the agreed scale of its numbers, unless one is configured."""
        if kind.name != NUMBER or kind.mean or task not in self.targets:
            return kind
        mean, std = self.targets[task]
        return replace(kind, mean=mean, std=std)


def read_constants(given: Mapping[str, Any]) -> Constants:
    """Return ``data.constants`` as the configuration or the plan has it; else raise UserError."""
    unknown = given.keys() - {"mean", "std", "targets"}
    if unknown or not {"mean", "std"} <= given.keys():
        raise UserError("data.constants: {mean: [...], std: [...]}, one number for each input")
    targets = {
        str(task): tuple(
            tuple(map(float, part)) for part in _pair(each, f"data.constants.targets.{task}")
        )
        for task, each in dict(given.get("targets") or {}).items()
    }
    mean, std = _pair(given, "data.constants")
    return Constants(mean, std, targets)  # type: ignore[arg-type]


def _pair(given: Any, where: str) -> tuple[Numbers, Numbers]:
    try:
        mean, std = (np.array(list(given[key]), dtype=np.float64) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: mean and std are lists of numbers") from None
    if mean.shape != std.shape or not np.isfinite([mean, std]).all() or not (std > 0).all():
        raise UserError(f"{where}: as many means as deviations, and every deviation above 0")
    return mean, std


def column_sums(values: Numbers) -> ColumnSums:
    """Return the sums over the rows of ``values``, shape ``(n, d)``, without NaN."""
    count = (~np.isnan(values)).sum(axis=0)
    known = np.nan_to_num(values)
    return ColumnSums(
        tuple(map(int, count)),
        tuple(map(float, known.sum(axis=0))),
        tuple(map(float, (known * known).sum(axis=0))),
    ).rounded()
