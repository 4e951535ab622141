"""The table of personalised methods over the same sites, beside local, pooled and majority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import pfllib
from benchmarks.accuracy.personalised_runs import (
    Chosen,
    Tried,
    as_nodes,
    at_best,
    at_rate,
    attempt,
    better_elsewhere,
    by_examples,
    chosen_pooled,
    chosen_runs,
    first_seed,
    last,
    megabytes,
    seconds,
    try_rates,
    worst,
)
from benchmarks.accuracy.personalised_sets import NEEDS_NORMALIZATION, PersonalSet, method_of
from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import SimulationFailed, Simulator
from benchmarks.flower.site_data import sites_data
from benchmarks.report.outcome import figure, mean_guess, mean_of
from benchmarks.report.tables import Figure, Table, times, write

LOCAL, FEDAVG = "local", "fedavg"
COLUMNS = (
    "method",
    "rate",
    "last round, %",
    "round chosen on validation data, %",
    "best round on test data, %, as PFLlib reports",
    "worst site, %",
    "sites better alone",
    "MB up",
    "MB down",
    "seconds a round",
)
PEER_COLUMNS = (
    "method",
    "ours, last round, %",
    "PFLlib, last round, %",
    "ours, best on test, %",
    "PFLlib, best on test, %",
    "ours, seconds a round",
    "PFLlib, seconds a round",
)
Cells = tuple[str | Figure | None, ...]


@dataclass
class PersonalTable:
    """The methods over one set of data.

    Parameters
    ----------
    dataset : PersonalSet
        The sites.
    cases : tuple of Case
        The methods.
    rates : tuple of float
        The learning rates of which each method gets the best by validation data.
    seeds : tuple of int
        Of the runs; the sites are the same with all of them.
    peer : Peer or None
        PFLlib's checkout, where it plays the same shards.
    nodes : int or None
        SuperNodes, of equally many sites each; None for one a site.
    peer_rounds : int or None
        Rounds that PFLlib plays; None for as many as ours. The rate is constant, so both columns are
        of the same state of the same run.
    """

    dataset: PersonalSet
    cases: tuple[Case, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    peer: pfllib.Peer | None = None
    nodes: int | None = None
    peer_rounds: int | None = None
    chosen: dict[str, Chosen] = field(default_factory=dict, init=False)
    peers: dict[str, pfllib.Played] = field(default_factory=dict, init=False)
    pooled: Chosen | None = field(default=None, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    @property
    def study(self) -> Study:
        """The runs."""
        return replace(
            self.dataset.study("personalised", self.seeds, weights=self.dataset.weights),
            nodes=self.nodes,
        )

    def run(self, simulator: Simulator, folder: Path, command: str) -> None:
        """Play what has not been played, and write the table of what there is, whatever happens."""
        try:
            self._play(simulator)
            self.pooled = chosen_pooled(self.study, simulator, self.rates)
        except SimulationFailed as error:
            self.notes.append(f"{error}.")
        finally:
            self.write(folder, command)

    def _play(self, simulator: Simulator) -> None:
        study, cases = self.study, [case for case in self.cases if self._fits(case)]
        grid = [at_rate(case, rate) for case in cases for rate in self.rates]
        attempt(first_seed(study), simulator, grid)
        tried: dict[str, Tried] = {}
        for case in cases:
            try:
                tried[case.name] = try_rates(study, simulator, case, self.rates)
            except SimulationFailed as error:
                self.notes.append(f"{error}.")
        for name, each in tried.items():  # one seed of all methods before the next seed
            if self.peer is not None and self.dataset.peer_model:
                self._play_peer(simulator, name, each)
        best = [each.case for each in tried.values()]
        if self.nodes is not None:
            attempt(as_nodes(study), simulator, best)
        for seed in self.seeds:
            attempt(replace(study, seeds=(seed,)), simulator, best)
        for name, each in tried.items():
            self.chosen[name] = chosen_runs(study, simulator, each)

    def _fits(self, case: Case) -> bool:
        fits = self.dataset.normalized or method_of(case) not in NEEDS_NORMALIZATION
        if not fits:
            self.notes.append(f"{case.name}: this network has no normalization layers.")
        return fits

    def _play_peer(self, simulator: Simulator, name: str, tried: Tried) -> None:
        assert self.peer is not None
        assert self.dataset.peer_model is not None
        config = self.study.config(tried.case, self.seeds[0])
        wanted = pfllib.Wanted(
            self.dataset.name,
            self.dataset.peer_model,
            method_of(tried.case),
            tried.rate,
            config.train.batch_size,
            config.train.epochs or 1,
            self._beside_rounds,
            dict(config.method),
        )
        try:
            sites = sites_data(config, self.study.sites, self.study.data_root)
            self.peers[name] = self.peer.play(
                wanted, sites, simulator.folder / self.peer.library.lower()
            )
        except pfllib.PeerFailed as error:
            self.notes.append(f"{self.peer.library}, {name}: {error}.")

    def write(self, folder: Path, command: str) -> None:
        """Write the table, and all figures of every seed, site and round beside it."""
        if not self.chosen:
            return
        title = f"{self.dataset.title}, {times(self.dataset.rounds, 'round')}"
        table = Table(title, COLUMNS)
        local = self.chosen.get(LOCAL)
        for name, chosen in self.chosen.items():
            table.rows[name] = row(chosen, None if local is None else local.runs)
        if self.pooled is not None:
            table.rows["pooled: all data in one place"] = pooled_row(self.pooled)
        guesses = [mean_guess(run) for run in next(iter(self.chosen.values())).runs]
        blank = (None,) * (len(COLUMNS) - 3)
        table.rows["majority class"] = (None, figure(guesses), *blank)
        tables = [table]
        if self.peers:
            tables.append(self._beside())
        notes = [*self.notes, *said(self.chosen, self.rates, self.seeds, self.nodes)]
        if self.peers:
            notes.append(pfllib.NOTE)
        name = f"personalised-{self.dataset.name}"
        write(folder, name, tables, command=command, notes=notes, more=self._details())

    @property
    def _beside_rounds(self) -> int:
        return min(self.peer_rounds or self.dataset.rounds, self.dataset.rounds)

    def _beside(self) -> Table:
        assert self.peer is not None
        library, rounds = self.peer.library, self._beside_rounds
        title = (
            f"{self.dataset.title}: beside {library}, over all test examples, "
            f"{times(rounds, 'round')}"
        )
        table = Table(title, tuple(each.replace("PFLlib", library) for each in PEER_COLUMNS))
        for name, peer in self.peers.items():
            runs = self.chosen[name].runs
            curves = [by_examples(run)[:rounds] for run in runs]
            table.rows[name] = (
                figure([curve[-1] for curve in curves]),
                figure([peer.curve[-1]]),
                figure([max(curve) for curve in curves]),
                figure([max(peer.curve)]),
                f"{seconds(runs):.3g}",
                f"{peer.seconds:.3g}",
            )
        return table

    def _details(self) -> dict[str, Any]:
        return {
            "rounds": self.dataset.rounds,
            "rates": {name: dict(chosen.tried) for name, chosen in self.chosen.items()},
            "commands": {
                name: self.study.command(chosen.case) for name, chosen in self.chosen.items()
            },
            "curves": {
                name: [by_examples(run) for run in chosen.runs]
                for name, chosen in self.chosen.items()
            },
            "sites": {
                name: [
                    {site: each["accuracy"] for site, each in run["final"]["sites"].items()}
                    for run in chosen.runs
                ]
                for name, chosen in self.chosen.items()
            },
            "peer": {name: played.to_dict() for name, played in self.peers.items()},
        }


def row(chosen: Chosen, local: Sequence[Mapping[str, Any]] | None) -> Cells:
    """Return the cells of a method."""
    runs = chosen.runs
    alone = None
    if local is not None and runs is not local:
        better, count = better_elsewhere(runs, local)
        alone = f"{better} of {count}"
    return (
        f"{chosen.rate:g}",
        figure([last(run) for run in runs]),
        figure([at_best(run) for run in runs]),
        figure([max(by_examples(run)) for run in runs]),
        figure([worst(run) for run in runs]),
        alone,
        *(_megabytes(chosen, way) for way in ("bytes_up", "bytes_down")),
        f"{seconds(runs):.3g}",
    )


def _megabytes(chosen: Chosen, way: str) -> str | None:
    return f"{megabytes(chosen.as_nodes, way):.3g}" if chosen.as_nodes else None


def pooled_row(chosen: Chosen) -> Cells:
    """Return the cells of training in one place."""
    sites = [run["sites"] for run in chosen.runs]
    lowest = [min(float(site["accuracy"]) for site in each.values()) for each in sites]
    return (
        f"{chosen.rate:g}",
        figure([mean_of(each) for each in sites]),
        None,
        None,
        figure(lowest),
        *(None,) * 4,
    )


def said(
    chosen: Mapping[str, Chosen],
    rates: Sequence[float],
    seeds: Sequence[int],
    nodes: int | None = None,
) -> list[str]:
    """Return sentences on how it was measured, and which methods do not pay here."""
    means = {
        name: float(np.mean([last(run) for run in each.runs])) for name, each in chosen.items()
    }
    notes = [
        f"Means over the sites and {times(len(seeds), 'seed')}, on test data. "
        f"{rates_said(rates, seeds[0])} All seeds have the same sites.",
        '"Best round on test data" is chosen by the test data, over the test examples of all sites: it '
        "is too high, and there to compare with published figures alone.",
        "MB are those of a site and round.",
        *_cohorts(nodes),
        *fewer_seeds(chosen, seeds),
    ]
    for base in (LOCAL, FEDAVG):
        worse = [name for name in means if name != base and means[name] <= means.get(base, -1.0)]
        if worse:
            notes.append(f"Not better than {base} after the last round: {', '.join(worse)}.")
    for rate in rates:
        none = [name for name, each in chosen.items() if each.tried.get(rate, 0.0) is None]
        if none:
            notes.append(f"No results at rate {rate:g}: {', '.join(none)}.")
    edge = [name for name, each in chosen.items() if _at_an_end(each)]
    if edge:
        notes.append(f"The best rate is at an end of the grid for: {', '.join(edge)}.")
    return notes


def _at_an_end(each: Chosen) -> bool:
    known = [rate for rate, value in each.tried.items() if value is not None]
    return len(known) > 1 and each.rate in (min(known), max(known))


def rates_said(rates: Sequence[float], seed: int) -> str:
    """Return which rate each method has; ``seed`` is that of the runs that chose it."""
    if len(rates) == 1:
        return f"All methods have the rate {rates[0]:g}."
    among = ", ".join(f"{rate:g}" for rate in rates)
    return f"Each method has the rate of {among} that is best on validation data with seed {seed}."


def _cohorts(nodes: int | None) -> list[str]:
    if nodes is None:
        return []
    return [
        f"The sites are cohorts on {times(nodes, 'node')}, so the seconds have no messages between them. "
        "MB are those of a site in two rounds of two sites with a node each."
    ]


def fewer_seeds(chosen: Mapping[str, Chosen], seeds: Sequence[int]) -> list[str]:
    """Return of which methods fewer seeds are finished, a sentence for each number of them."""
    fewer: dict[int, list[str]] = {}
    for name, each in chosen.items():
        if len(each.runs) < len(seeds):
            fewer.setdefault(len(each.runs), []).append(name)
    return [
        f"{times(number, 'seed').capitalize()} only: {', '.join(names)}."
        for number, names in sorted(fewer.items())
    ]
