"""The few numbers of a run's results that the tables show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report.tables import Figure


def mean_accuracy(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the accuracy on their test data, at the end."""
    return float(results["final"]["mean"]["accuracy"])


def balanced_accuracy(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the balanced accuracy on their test data, at the end."""
    return float(results["final"]["mean"]["balanced_accuracy"])


def alone_accuracy(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the accuracy that each reaches alone.

    Raises
    ------
    ValueError
        No site was trained alone.
    """
    alone = results["final"]["mean"]["alone_accuracy"]
    if alone is None:
        raise ValueError(f"run {results['run']}: no site was trained alone; see the run's log")
    return float(alone)


def majority_accuracy(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the accuracy of their commonest training class."""
    return float(results["final"]["mean"]["majority_accuracy"])


def validation_accuracy(sites: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean over the sites of the accuracy on their validation data."""
    return float(np.mean([site["validation"]["accuracy"] for site in sites.values()]))


def by_task(sites: Mapping[str, Mapping[str, Any]], measure: str = "accuracy") -> dict[str, float]:
    """Return the mean of ``measure`` over the sites of each task."""
    tasks: dict[str, list[float]] = {}
    for site in sites.values():
        tasks.setdefault(str(site["task"]), []).append(float(site[measure]))
    return {task: float(np.mean(values)) for task, values in sorted(tasks.items())}


def mean_of(sites: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean over the sites of their accuracy."""
    return float(np.mean([site["accuracy"] for site in sites.values()]))


def curve(results: Mapping[str, Any]) -> list[float]:
    """Return the mean accuracy over the sites after each round.

    Round r measures the state after round r - 1, so the curve is that of rounds 2, 3, ... and the end.
    With a fraction of the sites per round, each point is the mean over those sites.
    """
    rounds = [np.mean([s["accuracy"] for s in r["sites"].values()]) for r in results["rounds"][1:]]
    return [*map(float, rounds), mean_accuracy(results)]


def better_alone(results: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return at how many of how many sites (of all seeds) training alone is better."""
    pairs = [
        (site["accuracy"], site["alone_accuracy"])
        for run in results
        for site in run["final"]["sites"].values()
        if site["alone_accuracy"] is not None
    ]
    return sum(federated < alone for federated, alone in pairs), len(pairs)


def figure(values: Sequence[float]) -> Figure:
    """Return a figure over seeds."""
    return Figure(tuple(float(value) for value in values))
