"""The table of methods for sites with different networks, beside each site alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.heterogeneous_sets import OF_PICTURES, HeterogeneousSet
from benchmarks.accuracy.personalised_runs import (
    Chosen,
    at_best,
    better_elsewhere,
    last,
    megabytes,
    seconds,
    worst,
)
from benchmarks.accuracy.personalised_sets import method_of
from benchmarks.accuracy.personalised_table import (
    LOCAL,
    Cells,
    PersonalTable,
    fewer_seeds,
    rates_said,
)
from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import SimulationFailed, Simulator
from benchmarks.report.outcome import figure, mean_guess
from benchmarks.report.tables import Table, times, write

COLUMNS = (
    "method",
    "rate",
    "last round, %",
    "round chosen on validation data, %",
    "worst site, %",
    "sites better alone",
    "kB up",
    "kB down",
    "seconds a round",
)
KILOBYTES = 1000.0  # in a MB
PAPERS = (("fedtgp", "fedproto"), ("fedktl", "fedtgp"))  # the first of each is better there
FIRST_THERE = "fedktl"


@dataclass
class HeterogeneousTable(PersonalTable):
    """The methods over one set of sites whose networks differ."""

    dataset: HeterogeneousSet

    @property
    def study(self) -> Study:
        """The runs."""
        return self.dataset.study("heterogeneous", self.seeds)

    def run(self, simulator: Simulator, folder: Path, command: str) -> None:
        """Play what has not been played, and write the table of what there is, whatever happens."""
        try:
            self._play(simulator)
        except SimulationFailed as error:
            self.notes.append(f"{error}.")
        finally:
            self.write(folder, command)

    def _fits(self, case: Case) -> bool:
        fits = self.dataset.pictures or method_of(case) not in OF_PICTURES
        if not fits:
            self.notes.append(f"{case.name} needs pictures.")
        return fits

    def write(self, folder: Path, command: str) -> None:
        """Write the table, and all figures of every seed, site and round beside it."""
        if not self.chosen:
            return
        table = Table(f"{self.dataset.title}, {times(self.dataset.rounds, 'round')}", COLUMNS)
        local = self.chosen.get(LOCAL)
        for name, chosen in self.chosen.items():
            table.rows[name] = row(chosen, local)
        guesses = [mean_guess(run) for run in next(iter(self.chosen.values())).runs]
        table.rows["majority class"] = (None, figure(guesses), *(None,) * (len(COLUMNS) - 3))
        tables = [table]
        notes = [*self.notes, *said(self.chosen, self.rates, self.seeds)]
        if self.peers:
            assert self.peer is not None
            tables.append(self._beside())
            notes.append(self.peer.note)
        name = f"heterogeneous-{self.dataset.name}"
        write(folder, name, tables, command=command, notes=notes, more=self._details())


def row(chosen: Chosen, local: Chosen | None) -> Cells:
    """Return the cells of a method."""
    runs, alone = chosen.runs, None
    if local is not None and chosen is not local:
        better, count = better_elsewhere(runs, local.runs)
        alone = f"{better} of {count}"
    return (
        f"{chosen.rate:g}",
        figure([last(run) for run in runs]),
        figure([at_best(run) for run in runs]),
        figure([worst(run) for run in runs]),
        alone,
        *(f"{KILOBYTES * megabytes(runs, way):.3g}" for way in ("bytes_up", "bytes_down")),
        f"{seconds(runs):.3g}",
    )


def said(chosen: Mapping[str, Chosen], rates: Sequence[float], seeds: Sequence[int]) -> list[str]:
    """Return sentences on how it was measured, what pays, and which orders of the papers hold."""
    notes = [
        f"Means over the sites, on test data, of {times(len(seeds), 'seed')}. "
        f"{rates_said(rates, seeds[0])} All seeds have the same sites. kB are those of a site and round.",
        *fewer_seeds(chosen, seeds),
    ]
    seed = {name: {run["seed"]: at_best(run) for run in each.runs} for name, each in chosen.items()}
    if LOCAL in chosen:
        gains = {name: gain(seed, name, LOCAL) for name in seed if name != LOCAL}
        pays = [f"{name} {100 * by:+.2f}" for name, by in gains.items() if by > 0]
        costs = [f"{name} {100 * by:+.2f}" for name, by in gains.items() if by <= 0]
        notes.append(
            "Points over local, in the rounds that validation data chose: "
            f"{', '.join(pays) or 'none gains'}; not better: {', '.join(costs) or 'none'}."
        )
    for better, than in PAPERS:
        if better in seed and than in seed:
            by = gain(seed, better, than)
            holds = "holds" if by > 0 else "does not hold"
            notes.append(
                f"{better} over {than}, as in the papers, {holds} here: {100 * by:+.2f} points."
            )
    if FIRST_THERE in seed:
        means = {name: float(np.mean(list(each.values()))) for name, each in seed.items()}
        first = max(means, key=lambda name: means[name])
        notes.append(f"Best here: {first}; best in the papers: {FIRST_THERE}.")
    return notes


def gain(by_seed: Mapping[str, Mapping[int, float]], name: str, other: str) -> float:
    """Return the mean gain of a method over another, over the seeds that both have."""
    both = by_seed[name].keys() & by_seed[other].keys()
    return float(np.mean([by_seed[name][each] - by_seed[other][each] for each in both]))
