"""What one run reached at its sites: after the last round, in the chosen state, in each state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedstrata.protocol.measures import MEASURES, Measures
from fedstrata.runs.results import Evaluation, Kind, Results, Round


@dataclass(frozen=True)
class Scope:
    """Tasks whose sites have one mean: one task, or all tasks of classes.

    Parameters
    ----------
    tasks : tuple of str
        Their names.
    kind : str
        The kind of each.
    unit : str
        Of a number.
    """

    tasks: tuple[str, ...]
    kind: Kind
    unit: str = ""

    @property
    def name(self) -> str:
        """What a table is called."""
        if len(self.tasks) == 1:
            return self.tasks[0]
        return f"all {len(self.tasks)} tasks of {self.kind} ({', '.join(self.tasks)})"

    @property
    def measures(self) -> Measures:
        """The measures of the kind."""
        return MEASURES[self.kind]

    def sites(self, results: Results) -> list[str]:
        """Return the sites of a run that belong to it."""
        return sorted(name for name, site in results.sites.items() if site.task in self.tasks)


@dataclass(frozen=True)
class AtSites:
    """The leading measure of one state on the test data, by site.

    Parameters
    ----------
    values, alone : mapping of str to float
        Of the state, and of training alone; only what is known.
    weights : mapping of str to float
        Test examples.
    state : int
        It is the state after this round.
    """

    values: Mapping[str, float]
    alone: Mapping[str, float]
    weights: Mapping[str, float]
    state: int


def scopes_of(results: Results) -> list[Scope]:
    """Return what means are taken over: all tasks of classes where there are several; each task."""
    kinds = {site.task: site.kind for _, site in sorted(results.sites.items())}
    final = results.final.sites.values() if results.final else ()
    units = {site.task: site.unit for site in final}
    each = [Scope((task,), kind, units.get(task, "")) for task, kind in sorted(kinds.items())]
    of_classes = tuple(task for task, kind in sorted(kinds.items()) if kind == "classes")
    return [Scope(of_classes, "classes"), *each] if len(of_classes) > 1 else each


def measured(evaluation: Evaluation | None, scope: Scope, state: int) -> AtSites | None:
    """Return what an evaluation has of a scope; None where no site of it was measured."""
    sites = evaluation.sites if evaluation else {}
    own = {name: site for name, site in sites.items() if site.task in scope.tasks}
    values = {name: site.value for name, site in own.items() if site.value is not None}
    if not values:
        return None
    return AtSites(
        values,
        {name: site.alone for name, site in own.items() if site.alone is not None},
        {name: own[name].examples for name in values},
        state,
    )


def states(results: Results, scope: Scope, sites: Sequence[str]) -> list[tuple[int, AtSites]]:
    """Return each state after a round that all ``sites`` have measured, with its number.

    A site that did not measure a state counts with its latest measurement before it. Round r
    measures the state after round r-1, and ``final`` the last one. A state that no site measured is
    left out.
    """
    ends = [results.final] if results.final else []
    last = measured(results.final, scope, len(results.rounds))
    alone = last.alone if last else {}
    values: dict[str, float] = {}
    weights: dict[str, float] = {}
    found = []
    measurements: list[Round | Evaluation] = [*results.rounds, *ends]
    for state, record in enumerate(measurements):
        fresh = False
        for name in sites:
            site = record.sites.get(name)
            if site is not None and site.value is not None:
                values[name], weights[name], fresh = site.value, site.examples, True
        if state and fresh and values.keys() >= set(sites):
            found.append((state, AtSites(dict(values), alone, dict(weights), state)))
    return found


def mean(values: Sequence[float]) -> float:
    """Return the mean of one value or more."""
    return sum(values) / len(values)


def unweighted(at: AtSites, sites: Sequence[str]) -> float:
    """Return the mean over sites."""
    return mean([at.values[name] for name in sites])


def weighted(at: AtSites, sites: Sequence[str]) -> float:
    """Return the mean over sites weighted by test examples."""
    total = sum(at.weights[name] for name in sites)
    if not total:
        return unweighted(at, sites)
    return sum(at.values[name] * at.weights[name] for name in sites) / total


def worst(at: AtSites, sites: Sequence[str], measures: Measures) -> tuple[str, float]:
    """Return the site with the worst value, and that."""
    sign = -1 if measures.lower_is_better else 1
    name = min(sites, key=lambda each: (sign * at.values[each], each))
    return name, at.values[name]


def is_reached(value: float, target: float, measures: Measures) -> bool:
    """Return whether a value is as good as a target."""
    return value <= target if measures.lower_is_better else value >= target
