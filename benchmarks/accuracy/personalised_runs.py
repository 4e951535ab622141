"""Runs of one method: the rate that validation data choose, all seeds with it, and their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import SimulationFailed, Simulator
from benchmarks.report.outcome import evaluated, mean_of, mean_validation

MEGABYTE = 1e6
ROUNDS_FOR_BYTES = SITES_FOR_BYTES = 2
Results = Mapping[str, Any]
"""results.json of a run."""


@dataclass(frozen=True)
class Chosen:
    """The runs of a method at the rate that was chosen for it.

    Parameters
    ----------
    case : Case
        With that rate.
    rate : float
        The learning rate.
    tried : mapping of float to float or None
        By rate, the mean accuracy on validation data with the first seed; None of a run without.
    runs : sequence of Results
        One a seed that is finished.
    as_nodes : sequence of Results
        Runs whose bytes are those of one node a site; the same where there are no cohorts.
    """

    case: Case
    rate: float
    tried: Mapping[float, float | None]
    runs: Sequence[Results]
    as_nodes: Sequence[Results] = ()


def at_rate(case: Case, rate: float) -> Case:
    """Return the case with a learning rate."""
    return Case(f"{case.name} lr={rate:g}", (*case.overrides, f"train.optimizer.lr={rate:g}"))


@dataclass(frozen=True)
class Tried:
    """What the rates of a method gave; ``rate`` and ``values`` as in `Chosen`."""

    case: Case
    rate: float
    values: Mapping[float, float | None]


def attempt(study: Study, simulator: Simulator, cases: Sequence[Case]) -> None:
    """Run what is not finished, together, which starts Flower once; what fails is only printed."""
    try:
        study.run(simulator, cases)
    except SimulationFailed as error:
        print(error, flush=True)


def first_seed(study: Study) -> Study:
    """Return the study with its first seed alone: the runs that choose a rate."""
    return replace(study, seeds=study.seeds[:1])


def try_rates(study: Study, simulator: Simulator, case: Case, rates: Sequence[float]) -> Tried:
    """Try all rates with the first seed, and return the best by validation data.

    Raises
    ------
    SimulationFailed
        No rate gave results.
    """
    wanted = {rate: at_rate(case, rate) for rate in rates}
    found = _each(first_seed(study), simulator, wanted)
    values = {rate: validated(found[rate]) if rate in found else None for rate in rates}
    rate = best_rate(values)
    if rate is None:
        raise SimulationFailed(f"{case.name} left no results at any rate")
    return Tried(wanted[rate], rate, values)


def chosen_runs(study: Study, simulator: Simulator, tried: Tried) -> Chosen:
    """Return the runs at the rate that was chosen, of all seeds that gave results."""
    alone = {seed: replace(study, seeds=(seed,)) for seed in study.seeds}
    found = {
        seed: each
        for seed, one in alone.items()
        for each in _each(one, simulator, {tried.rate: tried.case}).values()
    }
    runs = list(found.values())
    if study.nodes is None:
        return Chosen(tried.case, tried.rate, tried.values, runs, runs)
    nodes = _each(as_nodes(study), simulator, {tried.rate: tried.case})
    return Chosen(tried.case, tried.rate, tried.values, runs, list(nodes.values()))


def as_nodes(study: Study) -> Study:
    """Return two rounds of two sites, a node each, whose bytes are counted: a cohort sends one sum.

    The bytes of a site depend on its network and method, and not on how many sites there are.
    """
    overrides = (*study.overrides, f"strategy.rounds={ROUNDS_FOR_BYTES}")
    few = min(study.sites, SITES_FOR_BYTES)
    return replace(first_seed(study), sites=few, nodes=None, overrides=overrides)


def _each(study: Study, simulator: Simulator, wanted: Mapping[float, Case]) -> dict[float, Results]:
    """Return the run of each case that left results."""
    found: dict[float, Results] = {}
    for rate, case in wanted.items():
        try:
            (found[rate],) = study.run(simulator, [case])[case.name]
        except SimulationFailed as error:
            print(error, flush=True)
    return found


def chosen_pooled(study: Study, simulator: Simulator, rates: Sequence[float]) -> Chosen:
    """Return the same of training in one place; each run is what `central` returns."""
    study = replace(study, nodes=None)  # no message between sites, and no cohorts
    first = first_seed(study)
    wanted = {rate: at_rate(Case("pooled", ("method=fedavg",)), rate) for rate in rates}
    tried: dict[float, float | None] = {}
    for rate, case in wanted.items():
        try:
            tried[rate] = mean_validation(first.run_centrally(simulator, case)[0]["sites"])
        except SimulationFailed:  # where only finished runs count
            tried[rate] = None
    best = best_rate(tried)
    if best is None:
        raise SimulationFailed("training in one place left no finite results")
    return Chosen(wanted[best], best, tried, study.run_centrally(simulator, wanted[best]))


def best_rate(tried: Mapping[float, float | None]) -> float | None:
    """Return the rate with the highest value, the lowest of equal ones; None where none is known."""
    known = {rate: value for rate, value in tried.items() if value is not None and isfinite(value)}
    return min(known, key=lambda rate: (-known[rate], rate)) if known else None


def validated(results: Results) -> float | None:
    """Return the mean accuracy over the sites on validation data, in the round that it chose."""
    value = (results["best"] or {}).get("value")
    return None if value is None else float(value)


def last(results: Results) -> float:
    """Return the mean accuracy over the sites after the last round."""
    return mean_of(results["final"]["sites"])


def at_best(results: Results) -> float:
    """Return the same in the round that validation data chose; of the last one where none did."""
    return mean_of((results["best"] or results["final"])["sites"])


def by_examples(results: Results) -> list[float]:
    """Return the accuracy over the test examples of all sites, after rounds 1, 2, ... and the last.

    That is how PFLlib counts. The metrics of round r are those of the state after round r - 1.
    """
    curve = []
    for each in evaluated(results)[1:]:
        tasks = each["tasks"].values()
        examples = [task["examples"] for task in tasks]
        curve.append(float(np.average([task["accuracy"] for task in tasks], weights=examples)))
    return [*curve, float(results["final"]["weighted_mean"]["accuracy"])]


def worst(results: Results) -> float:
    """Return the accuracy of the worst site after the last round."""
    return min(float(site["accuracy"]) for site in results["final"]["sites"].values())


def better_elsewhere(results: Sequence[Results], others: Sequence[Results]) -> tuple[int, int]:
    """Return at how many of how many sites (of the seeds of both) the others are better at the end."""
    better = count = 0
    by_seed = {other["seed"]: other["final"]["sites"] for other in others}
    for one in results:
        sites = by_seed.get(one["seed"], {})
        for name, site in one["final"]["sites"].items():
            if name in sites:
                count += 1
                better += sites[name]["accuracy"] > site["accuracy"]
    return better, count


def megabytes(results: Sequence[Results], way: str) -> float:
    """Return the MB of a site and round: ``bytes_up`` or ``bytes_down``."""
    each = [
        sum(played[way].values()) / max(1, len(played["participants"]))
        for run in results
        for played in run["rounds"]
    ]
    return float(np.mean(each)) / MEGABYTE


def seconds(results: Sequence[Results]) -> float:
    """Return the median seconds of a round; the first is left out, in which sites read their data."""
    each = [played["seconds"] for run in results for played in run["rounds"][1:]]
    return float(np.median(each)) if each else float("nan")
