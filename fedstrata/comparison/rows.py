"""The comparison of runs as plain values: a row for what differs, means and deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fedstrata.comparison.comparable import unchecked
from fedstrata.comparison.figures import (
    AtSites,
    Scope,
    is_reached,
    mean,
    measured,
    scopes_of,
    states,
    unweighted,
    weighted,
    worst,
)
from fedstrata.runs.options import differences
from fedstrata.runs.results import Results
from fedstrata.support.errors import UserError

# Options that make no row: what changes no figure, and the seed, over which means are taken.
NO_ROW = ("seed", "compare", "tracker", "keep_models", "baselines", "simulation", "experiment")
Targets = Mapping[str, float]  # by task; "" for all


class Figure(msgspec.Struct, frozen=True):
    """A figure over seeds: the mean, the sample standard deviation, and each seed's value."""

    mean: float | None
    deviation: float | None
    values: list[float | None]


class Reached(msgspec.Struct, frozen=True):
    """After how many rounds a target was reached: over the seeds that reached it."""

    rounds: Figure
    seeds: int


class StateRow(msgspec.Struct, frozen=True):
    """One row's figures of one state at the sites of a scope; docs/compare.md explains each."""

    row: str
    value: Figure
    weighted: Figure
    worst: Figure
    worst_sites: list[str | None]
    gain: Figure | None
    better_alone: int | None
    paired_sites: int
    over_first: Figure | None
    state: Figure
    reached: Reached | None = None


class ScopeTable(msgspec.Struct, frozen=True):
    """One task, or all tasks of classes."""

    name: str
    tasks: list[str]
    kind: str
    unit: str
    measure: str
    sites: list[str]
    target: float | None
    last: list[StateRow]
    best: list[StateRow]
    best_on_test: list[StateRow]


class Row(msgspec.Struct, frozen=True):
    """Runs that differ in their seed alone, and what they cost."""

    name: str
    options: dict[str, str]
    seeds: list[int]
    runs: list[str]
    rounds: Figure
    mb_up: Figure
    mb_down: Figure
    seconds: Figure


class Part(msgspec.Struct, frozen=True):
    """Runs on the same data."""

    options: list[str]
    rows: list[Row]
    scopes: list[ScopeTable]
    notes: list[str]
    results: dict[str, str]


def compared(runs: Sequence[Results], targets: Targets | None = None) -> Part:
    """Return the comparison of runs on the same data, each with its last state measured.

    Parameters
    ----------
    runs : sequence of Results
        At least one.
    targets : mapping of str to float, optional
        By task the leading measure whose rounds are counted; "" is of all tasks.

    Raises
    ------
    UserError
        Two runs have one configuration and one seed.
    """
    options = {k: v for k, v in differences(runs).items() if k.split(".")[0] not in NO_ROW}
    rows = _rows(runs, options)
    notes: list[str] = []
    scopes = []
    for scope in scopes_of(runs[0]):
        table = _scope_table(rows, scope, _target(scope, targets or {}), notes)
        if table is not None:
            scopes.append(table)
    notes += _notes(runs, rows, targets or {})
    return Part(
        list(options),
        [_row(name, members, options, runs) for name, members in rows.items()],
        scopes,
        list(dict.fromkeys(notes)),
        {run.run: run.sha256 for run in runs},
    )


def _rows(
    runs: Sequence[Results], options: Mapping[str, Sequence[str]]
) -> dict[str, list[Results]]:
    """Return the runs of each row, by its name, sorted by seed."""
    by_values: dict[tuple[str, ...], list[Results]] = {}
    for index, run in enumerate(runs):
        by_values.setdefault(tuple(each[index] for each in options.values()), []).append(run)
    rows: dict[str, list[Results]] = {}
    for values, members in by_values.items():
        seen: dict[int, str] = {}
        for run in members:
            if run.seed in seen:
                raise UserError(
                    f"{seen[run.seed]} and {run.run} are the same run twice, with the same options "
                    f"and seed {run.seed}: leave one out"
                )
            seen[run.seed] = run.run
        name = row_name(dict(zip(options, values, strict=True)), members[0])
        rows[name] = sorted(members, key=lambda run: run.seed)
    return rows


def row_name(options: Mapping[str, str], run: Results) -> str:
    """Return the name of a row: the options that it has and others have not."""
    given = {key: value for key, value in options.items() if value}
    if not given:
        given = {"method.name": str(run.option("method.name"))}
    return ", ".join(f"{key.removesuffix('.name')}={value}" for key, value in given.items())


def _row(
    name: str,
    members: Sequence[Results],
    options: Mapping[str, Sequence[str]],
    runs: Sequence[Results],
) -> Row:
    index = next(i for i, run in enumerate(runs) if run is members[0])
    return Row(
        name=name,
        options={key: values[index] for key, values in options.items()},
        seeds=[run.seed for run in members],
        runs=[run.run for run in members],
        rounds=over_seeds([len(run.rounds) for run in members]),
        mb_up=over_seeds([_megabytes(run, up=True) for run in members]),
        mb_down=over_seeds([_megabytes(run, up=False) for run in members]),
        seconds=over_seeds([sum(each.seconds for each in run.rounds) for run in members]),
    )


def _megabytes(run: Results, *, up: bool) -> float:
    return sum(sum((r.bytes_up if up else r.bytes_down).values()) for r in run.rounds) / 1e6


def over_seeds(values: Sequence[float | None]) -> Figure:
    """Return a figure over seeds; of one seed no deviation is known."""
    known = [value for value in values if value is not None]
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Figure(mean(known) if known else None, deviation, list(values))


def _target(scope: Scope, targets: Targets) -> float | None:
    named = [targets[task] for task in scope.tasks if task in targets]
    if len(named) == len(scope.tasks) and len(set(named)) == 1:
        return named[0]
    return targets.get("")


def _scope_table(
    rows: Mapping[str, Sequence[Results]], scope: Scope, target: float | None, notes: list[str]
) -> ScopeTable | None:
    """Return the table of a scope; None where no run has a figure of it."""

    def last_of(run: Results) -> AtSites | None:
        return measured(run.final, scope, len(run.rounds))

    def best_of(run: Results) -> AtSites | None:
        return measured(run.best, scope, (run.best.round or 0) if run.best else 0)

    last, sites = _state_rows(rows, scope, last_of, "after the last round", notes)
    if not last:
        return None
    best, _ = _state_rows(rows, scope, best_of, "in the state chosen on validation data", notes)
    curves = {run.run: states(run, scope, sites) for members in rows.values() for run in members}

    def best_on_test(run: Results) -> AtSites | None:
        found = [at for _, at in curves[run.run]]
        sign = -1 if scope.measures.lower_is_better else 1
        return max(found, key=lambda at: sign * unweighted(at, sites), default=None)

    if target is not None:
        found = {
            row: _reached([_rounds_to(curves[r.run], sites, scope, target) for r in members])
            for row, members in rows.items()
        }
        last = [msgspec.structs.replace(row, reached=found[row.row]) for row in last]
    return ScopeTable(
        scope.name,
        list(scope.tasks),
        scope.kind,
        scope.unit,
        scope.measures.leading,
        sites,
        target,
        last,
        best,
        _state_rows(rows, scope, best_on_test, "in the state that is best on test data", notes)[0],
    )


def _rounds_to(
    curve: Sequence[tuple[int, AtSites]], sites: Sequence[str], scope: Scope, target: float
) -> float | None:
    reached = (n for n, at in curve if is_reached(unweighted(at, sites), target, scope.measures))
    return next(reached, None)


def _reached(rounds: Sequence[float | None]) -> Reached:
    return Reached(over_seeds(rounds), sum(each is not None for each in rounds))


def _state_rows(
    rows: Mapping[str, Sequence[Results]],
    scope: Scope,
    state_of: Callable[[Results], AtSites | None],
    what: str,
    notes: list[str],
) -> tuple[list[StateRow], list[str]]:
    """Return the rows of one state, and the sites that all runs measured: means are over those."""
    found = {row: {run.seed: state_of(run) for run in members} for row, members in rows.items()}
    every = [at for by_seed in found.values() for at in by_seed.values() if at is not None]
    if not every:
        return [], []
    if without := [r.run for row, own in rows.items() for r in own if found[row][r.seed] is None]:
        notes.append(f"{scope.name}, {what}: no figure of {', '.join(without)}")
    sites = sorted(set.intersection(*(set(at.values) for at in every)))
    some = set.union(*(set(at.values) for at in every))
    if lacking := sorted(some - set(sites)):
        notes.append(
            f"{scope.name}, {what}: not counted, since not every run measured it: "
            + ", ".join(lacking)
        )
    if not sites:
        return [], []
    made, first = [], next(iter(found.values()))
    for row, by_seed in found.items():
        if any(by_seed.values()):
            over = None if by_seed is first else _over_first(by_seed, first, sites, scope)
            made.append(_state_row(row, list(by_seed.values()), sites, scope, over))
    return made, sites


def _over_first(
    own: Mapping[int, AtSites | None],
    first: Mapping[int, AtSites | None],
    sites: Sequence[str],
    scope: Scope,
) -> Figure | None:
    """Return by how much a row is better than the first one, over the seeds that both have."""

    def over(seed: int) -> float | None:
        ours, before = own[seed], first.get(seed)
        if ours is None or before is None:
            return None
        return scope.measures.gain(unweighted(ours, sites), unweighted(before, sites))

    gains = [over(seed) for seed in own]
    return None if all(each is None for each in gains) else over_seeds(gains)


def _state_row(
    row: str,
    members: Sequence[AtSites | None],
    sites: Sequence[str],
    scope: Scope,
    over: Figure | None,
) -> StateRow:
    gain = scope.measures.gain
    known = [at for at in members if at is not None]
    lowest = [worst(at, sites, scope.measures) if at else (None, None) for at in members]
    paired = [name for name in sites if all(name in at.alone for at in known)]
    gains = [
        [gain(at.values[name], at.alone[name]) or 0.0 for name in paired] if at else None
        for at in members
    ]
    by_site = [mean(each) for each in zip(*filter(None, gains), strict=True)]
    return StateRow(
        row=row,
        value=over_seeds([unweighted(at, sites) if at else None for at in members]),
        weighted=over_seeds([weighted(at, sites) if at else None for at in members]),
        worst=over_seeds([value for _, value in lowest]),
        worst_sites=[name for name, _ in lowest],
        gain=over_seeds([mean(each) if each else None for each in gains]) if paired else None,
        better_alone=sum(each < 0 for each in by_site) if paired else None,
        paired_sites=len(paired),
        over_first=over,
        state=over_seeds([at.state if at else None for at in members]),
    )


def _notes(
    runs: Sequence[Results], rows: Mapping[str, Sequence[Results]], targets: Targets
) -> list[str]:
    """Return what a reader of the tables has to know besides."""
    notes = []
    seeds = {row: [run.seed for run in members] for row, members in rows.items()}
    if all(len(each) == 1 for each in seeds.values()):
        notes.append("one seed: how much another seed would change the figures is not known")
    if len({tuple(each) for each in seeds.values()}) > 1:
        listed = "; ".join(f"{row}: {', '.join(map(str, each))}" for row, each in seeds.items())
        notes.append(f"the rows have unlike seeds: {listed}")
    kinds = {site.kind for site in runs[0].sites.values()}
    if len(kinds) > 1:
        notes.append("tasks of several kinds are measured otherwise: no mean is over all of them")
    if "" in targets and len(kinds) > 1:
        notes.append("one target for tasks of several kinds: name the task, --target TASK=VALUE")
    for package in sorted({name for run in runs for name in run.versions}):
        if len(versions := {run.versions.get(package, "none") for run in runs}) > 1:
            notes.append(
                f"the runs were made with several versions of {package}: "
                + ", ".join(sorted(versions))
            )
    every = {row: sorted({run.evaluate_every for run in own}) for row, own in rows.items()}
    if any(each != [1] for each in every.values()):
        listed = "; ".join(f"{row}: {', '.join(map(str, each))}" for row, each in every.items())
        notes.append(
            "not every state was measured, so the best on test data and the rounds to a target are of "
            f"those that were, every so many rounds (strategy.evaluate_every): {listed}"
        )
    if loose := unchecked(runs):
        notes.append(
            f"{len(loose)} of {len(runs)} runs have no digest of their data: for them names of sites, "
            "tasks, numbers of examples and options of the data were compared"
        )
    return notes
