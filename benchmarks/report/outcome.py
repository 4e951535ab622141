"""The few numbers of a run's results that the tables show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report.tables import Figure
from fedstrata.protocol.measure_words import kind_of, measures_of
from server_app.rounds.records import baseline_name

IN_UNITS = ("mae", "rmse")  # measures that are no shares


Site = Mapping[str, Any]
"""What results.json says of a site; without ``kind``, of a task of classes."""


def leading(sites: Iterable[Site]) -> str:
    """Return the measure that leads for the kind of task that sites have.

    Raises
    ------
    ValueError
        They are of several kinds, whose measures have no mean.
    """
    kinds = sorted({kind_of(site) for site in sites})
    if len(kinds) > 1:
        raise ValueError(f"tasks of the kinds {' and '.join(kinds)} have no measure in common")
    return measures_of({"kind": kinds[0]}).leading


def mean_leading(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the leading measure on their test data, at the end.

    It is the accuracy of classes, the AUROC of labels, the mean absolute error of numbers.
    """
    name = leading(results["final"]["sites"].values())
    if name == "accuracy":
        return float(results["final"]["mean"][name])
    return mean_of(results["final"]["sites"])


def balanced_accuracy(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the balanced accuracy on their test data, at the end."""
    return float(results["final"]["mean"]["balanced_accuracy"])


def mean_alone(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the leading measure that each reaches alone.

    Raises
    ------
    ValueError
        No site was trained alone.
    """
    sites = results["final"]["sites"].values()
    found = [site[f"alone_{leading(sites)}"] for site in sites]
    known = [float(value) for value in found if value is not None]
    if not known:
        raise ValueError(f"run {results['run']}: no site was trained alone; see the run's log")
    return float(np.mean(known))


def mean_guess(results: Mapping[str, Any]) -> float:
    """Return the mean over the sites of the leading measure of a guess without any input."""
    sites = results["final"]["sites"].values()
    leading(sites)
    return float(np.mean([site[baseline_name(site)] for site in sites]))


def mean_validation(sites: Mapping[str, Site]) -> float:
    """Return the mean over the sites of the leading measure on their validation data."""
    name = leading(sites.values())
    return float(np.mean([site["validation"][name] for site in sites.values()]))


def by_task(sites: Mapping[str, Site]) -> dict[str, float]:
    """Return the mean of the leading measure of each task over its sites."""
    tasks: dict[str, list[float]] = {}
    for site in sites.values():
        tasks.setdefault(str(site["task"]), []).append(float(site[leading([site])]))
    return {task: float(np.mean(values)) for task, values in sorted(tasks.items())}


def mean_of(sites: Mapping[str, Site]) -> float:
    """Return the mean over the sites of their leading measure."""
    name = leading(sites.values())
    return float(np.mean([site[name] for site in sites.values()]))


def curve(results: Mapping[str, Any]) -> list[float]:
    """Return the mean of the leading measure over the sites after each round.

    Round r measures the state after round r - 1, so the curve is that of rounds 2, 3, ... and the end.
    With a fraction of the sites per round, each point is the mean over those sites.
    """
    return [*(mean_of(each["sites"]) for each in evaluated(results)[1:]), mean_leading(results)]


def evaluated(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of the rounds, of which a curve has one point each.

    Raises
    ------
    ValueError
        Not every round was evaluated: the points that are there would be taken for others.
    """
    rounds: list[Mapping[str, Any]] = results["rounds"]
    if without := [each["round"] for each in rounds if not each.get("evaluated", True)]:
        raise ValueError(
            f"run {results['run']}: {len(without)} of {len(rounds)} rounds were not evaluated, the "
            f"first is round {without[0]}: write strategy.evaluate_every=1"
        )
    return rounds


def better_alone(results: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return at how many of how many sites (of all seeds) training alone is better."""
    gains = [
        measures_of(site).gain(site[leading([site])], site[f"alone_{leading([site])}"])
        for run in results
        for site in run["final"]["sites"].values()
    ]
    known = [gain for gain in gains if gain is not None]
    return sum(gain < 0 for gain in known), len(known)


def figure(values: Sequence[float], measure: str = "accuracy") -> Figure:
    """Return a figure of a measure over seeds; shares are shown as per cent."""
    return Figure(tuple(float(value) for value in values), percent=measure not in IN_UNITS)
