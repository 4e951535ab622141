"""The table of what each site gets in the end: before and after fine-tuning, alone, and pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.study import Case
from benchmarks.accuracy.transfer_sets import TransferSet
from benchmarks.accuracy.transfer_table import TransferTable, steps_note
from benchmarks.flower.simulator import Simulator
from benchmarks.flower.site_data import sites_data
from benchmarks.report import pictures
from benchmarks.report.outcome import curve, figure
from benchmarks.report.tables import Table, write

COLUMNS = ("site", "before, %", "after, %", "alone, %", "pooled, %", "majority class, %")


@dataclass(frozen=True)
class DeploymentTable:
    """The cases with fine-tuning after the rounds, and a table for each with a row per site."""

    dataset: TransferSet
    seeds: tuple[int, ...]

    def run(self, simulator: Simulator, folder: Path, command: str) -> None:
        """Run the cases, and write their tables."""
        study, cases = TransferTable(self.dataset, self.seeds).study, self.dataset.cases
        runs = study.run(simulator, cases)
        configs = [study.config(case, self.seeds[0]) for case in cases]
        sites = sites_data(configs[0], study.sites, study.data_root)
        pictures.draw_sites(folder / "deployment-sites.png", self.dataset.title, sites)
        lines = {case.name: [curve(each) for each in runs[case.name]] for case in cases}
        pictures.draw_curves(folder / "deployment.png", self.dataset.title, lines)
        tables, notes = [], []
        for case in cases:
            pooled = [each["sites"] for each in study.run_centrally(simulator, case)]
            table, note = self._table(case, [r["deployment"] for r in runs[case.name]], pooled)
            tables.append(table)
            notes.append(note)
        notes.append(f"{steps_note(configs, sites)} It has the data of those that join later, too.")
        commands = {case.name: study.command(case) for case in cases}
        more = {"commands": commands, "curves": lines}
        write(folder, "deployment", tables, command=command, notes=notes, more=more)

    def _table(
        self,
        case: Case,
        deployments: Sequence[Mapping[str, Any]],
        pooled: Sequence[Mapping[str, Any]],
    ) -> tuple[Table, str]:
        """Return the table of a case and a sentence on it; both sequences have one entry per seed."""
        table = Table(f"{self.dataset.title}: {case.name}", COLUMNS)
        lost, worse = [], []
        for kind, mark in (("sites", ""), ("newcomers", " (joins after training)")):
            for site in deployments[0][kind]:
                rows = [each[kind][site] for each in deployments]
                before, after, alone = (
                    figure([row[when]["accuracy"] for row in rows])
                    for when in ("before", "after", "alone")
                )
                table.rows[f"{site}, {rows[0]['task']}{mark}"] = (
                    before,
                    after,
                    alone,
                    figure([each[site]["accuracy"] for each in pooled]),
                    figure([row["majority_accuracy"] for row in rows]),
                )
                if max(before.mean, after.mean) < alone.mean:
                    lost.append(site)
                if after.mean < before.mean:
                    worse.append(site)
        of = len(table.rows)
        return table, (
            f"{case.name}: fine-tuning is worse than before at {count_of(worse, of)}; "
            f"alone is better than both, before and after, at {count_of(lost, of)}."
        )


def count_of(sites: Sequence[str], of: int) -> str:
    """Return how many of the sites these are, and which."""
    if len(sites) in (0, of):
        return f"all {of} sites" if sites else "no site"
    return f"{len(sites)} of {of} sites ({', '.join(sites)})"
