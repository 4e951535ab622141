"""The table of one set of data: every way of transfer beside the same sites alone and pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.study import Study
from benchmarks.accuracy.transfer_sets import TransferSet
from benchmarks.flower.simulator import Simulator
from benchmarks.flower.site_data import sites_data
from benchmarks.measure.footprint import Footprint, footprint
from benchmarks.report import pictures
from benchmarks.report.outcome import (
    balanced_accuracy,
    better_alone,
    curve,
    figure,
    mean_alone,
    mean_guess,
    mean_leading,
    mean_of,
)
from benchmarks.report.tables import Figure, Table, write
from client_app.pooled.training import round_settings
from models.training import loop
from models.training.data import SiteData
from strategies.config import Config, plan_for

MEGABYTE = 1e6
COLUMNS = (
    "way",
    "federated, %",
    "balanced, %",
    "same sites alone, %",
    "pooled, %",
    "sites better alone",
    "trained parameters",
    "MB sent a site and round",
    "MB to train with",
)
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""results.json of each case, one per seed."""


@dataclass(frozen=True)
class TransferTable:
    """The cases of one set of data, and the table made of them."""

    dataset: TransferSet
    seeds: tuple[int, ...]

    @property
    def study(self) -> Study:
        """The runs."""
        return self.dataset.study("transfer", self.seeds, weights=self.dataset.weights)

    def run(self, simulator: Simulator, folder: Path, command: str) -> None:
        """Run all cases, and write table, curves, picture and JSON."""
        study, cases, title = self.study, self.dataset.cases, self.dataset.title
        name = f"transfer-{self.dataset.name}"
        runs = study.run(simulator, cases)
        configs = {case.name: study.config(case, self.seeds[0]) for case in cases}
        sites = sites_data(next(iter(configs.values())), study.sites, study.data_root)
        pictures.draw_sites(folder / f"{name}-sites.png", title, sites)
        costs = {case: footprint(config, sites[0]) for case, config in configs.items()}
        table = Table(title, COLUMNS)
        for case in cases:
            local = is_local(configs[case.name])
            central_runs = [] if local else study.run_centrally(simulator, case)
            pooled = (
                figure([mean_of(each["sites"]) for each in central_runs]) if not local else None
            )
            table.rows[case.name] = _row(runs[case.name], pooled, costs[case.name])
        majority = [mean_guess(each) for each in runs[cases[0].name]]
        table.rows["majority class"] = (figure(majority), *[None] * 7)
        lines = {case.name: [curve(each) for each in runs[case.name]] for case in cases}
        levels = {"majority class": float(np.mean(majority))}
        pictures.draw_curves(folder / f"{name}.png", title, lines, levels=levels)
        more = {
            "commands": {case.name: study.command(case) for case in cases},
            "curves": lines,
            "footprint": {case: asdict(cost) for case, cost in costs.items()},
        }
        pooled_too = [config for config in configs.values() if not is_local(config)]
        notes = [summary(runs), steps_note(pooled_too, sites)]
        write(folder, name, [table], command=command, notes=notes, more=more)


def _row(
    results: Sequence[Mapping[str, Any]], pooled: Figure | None, cost: Footprint
) -> tuple[str | Figure | None, ...]:
    worse, of = better_alone(results)
    return (
        figure([mean_leading(each) for each in results]),
        figure([balanced_accuracy(each) for each in results]),
        figure([mean_alone(each) for each in results]),
        pooled,
        f"{worse} of {of}",
        f"{cost.trained:,}",
        megabytes(cost.sent),
        megabytes(cost.weights + cost.optimizer + cost.activations),
    )


def summary(runs: Runs) -> str:
    """Return sentences on which case is best, and where the federation is worse."""
    means = {name: float(np.mean([mean_leading(r) for r in rs])) for name, rs in runs.items()}
    alone = {name: float(np.mean([mean_alone(r) for r in rs])) for name, rs in runs.items()}
    best = max(means, key=lambda name: means[name])
    majority = float(np.mean([mean_guess(r) for rs in runs.values() for r in rs]))
    text = f"Best: {best}, {100 * means[best]:.2f} %."
    if means[best] < majority:
        text += f" That is below the majority class ({100 * majority:.2f} %)."
        if next(iter(runs.values()))[0]["config"]["data"]["labels_per_class"] is not None:
            text += (
                " The sites learn from as many labels of each class, and are measured on the classes "
                "as they occur."
            )
        text += (
            " The balanced accuracy shows what was learned: the mean over the classes, where chance is "
            "one over their number."
        )
    if worse := [name for name in means if means[name] < alone[name]]:
        text += f" The same sites alone are better than the federation in: {'; '.join(worse)}."
    return text


def is_local(config: Config) -> bool:
    """Return whether nothing is exchanged: then pooled training is of another kind."""
    return bool(config.method["name"] == "local")


def steps_note(configs: Iterable[Config], sites: Sequence[SiteData]) -> str:
    """Return a sentence on how many more steps pooled training makes than a site."""
    sizes = [len(data.train) for data in sites]
    steps: dict[str, None] = {}  # a set that keeps its order
    for config in configs:
        plan = plan_for(config, federation="central", weights="")
        pooled = round_settings(plan, 1, sum(sizes), len(sizes))
        of_a_site = np.mean([loop.planned_steps(size, config.train) for size in sizes])
        of_all = loop.planned_steps(sum(sizes), pooled.config)
        steps[f"{of_all} where a site makes {of_a_site:.3g}"] = None
    return (
        "Pooled training keeps the batch size and the passes over the data, so it makes more steps a "
        f"round than a site: {', '.join(steps)}."
    )


def megabytes(size: float) -> str:
    """Return a size with three significant digits: 31.8, 3.15, 0.00206."""
    return f"{size / MEGABYTE:.3g}"
