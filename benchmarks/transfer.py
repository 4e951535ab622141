"""Every way of transfer: `python -m benchmarks.transfer --sets pneumonia pacs faces deployment`.

Each set of data gives a table (federated, the same sites alone, all data in one place), curves, and
a picture of who holds what. Runs that are finished are kept in --work and not run again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import central, prepare
from benchmarks.accuracy import transfer_sets as ways
from benchmarks.accuracy.central import sites_data
from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import Simulator
from benchmarks.measure.footprint import footprint
from benchmarks.report import pictures
from benchmarks.report.command_line import (
    at_least,
    check_data,
    command_of,
    output_of,
    with_data,
    with_places,
)
from benchmarks.report.outcome import (
    alone_accuracy,
    balanced_accuracy,
    curve,
    figure,
    losing,
    majority_accuracy,
    mean_accuracy,
    mean_of,
)
from benchmarks.report.tables import Table, write
from models.training import loop
from models.training.data import SiteData
from strategies.config import Config

SETS = ("pneumonia", "skewed", "pacs", "faces", "deployment", "text")
READS = {
    "pneumonia": ("--pneumonia", "--weights"),
    "skewed": ("--pneumonia", "--weights"),
    "pacs": ("--pacs", "--weights"),
    "text": ("--texts", "--encoder"),
}
MEGABYTE = 1e6


@dataclass(frozen=True)
class Transfer:
    """The ways over one set of data."""

    held: ways.Set
    seeds: tuple[int, ...]

    @property
    def study(self) -> Study:
        """The runs."""
        return self.held.study("transfer", self.seeds, weights=self.held.weights)

    def run(self, simulator: Simulator, folder: Path, command: str) -> None:
        """Play all ways, and write table, curves, picture and JSON."""
        study, name = self.study, f"transfer-{self.held.name}"
        played = study.play(simulator, self.held.ways)
        configs = {way.name: study.config(way, self.seeds[0]) for way in self.held.ways}
        first = sites_data(next(iter(configs.values())), study.sites, study.data_root)
        pictures.who_holds_what(folder / f"{name}-sites.png", self.held.title, first)
        columns = (
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
        table = Table(self.held.title, columns)
        lines, costs = {}, {}
        for way in self.held.ways:
            results = played[way.name]
            config = configs[way.name]
            cost = footprint(config, first[0])
            memory = cost.weights + cost.optimizer + cost.activations
            pooled = (
                None
                if _local(config)
                else figure([mean_of(each["sites"]) for each in study.centrally(simulator, way)])
            )
            lost, of = losing(results)
            table.rows[way.name] = (
                figure([mean_accuracy(each) for each in results]),
                figure([balanced_accuracy(each) for each in results]),
                figure([alone_accuracy(each) for each in results]),
                pooled,
                f"{lost} of {of}",
                f"{cost.trained:,}",
                _megabytes(cost.sent),
                _megabytes(memory),
            )
            lines[way.name] = [curve(each) for each in results]
            costs[way.name] = asdict(cost)
        majority = [majority_accuracy(each) for each in played[self.held.ways[0].name]]
        table.rows["majority class"] = (figure(majority), *[None] * 7)
        levels = {"majority class": float(np.mean(majority))}
        pictures.curves(folder / f"{name}.png", self.held.title, lines, levels=levels)
        more = {
            "commands": {way.name: study.command(way) for way in self.held.ways},
            "curves": lines,
            "footprint": costs,
        }
        pooled_too = [config for config in configs.values() if not _local(config)]
        notes = [*self._notes(played), _steps(pooled_too, first)]
        write(folder, name, [table], command=command, notes=notes, more=more)

    def _notes(self, played: Mapping[str, list[dict[str, Any]]]) -> list[str]:
        """Say which way is best, and where the federation loses."""
        means = {
            name: float(np.mean([mean_accuracy(r) for r in results]))
            for name, results in played.items()
        }
        alone = {
            name: float(np.mean([alone_accuracy(r) for r in results]))
            for name, results in played.items()
        }
        best = max(means, key=lambda name: means[name])
        majority = float(np.mean([majority_accuracy(r) for rs in played.values() for r in rs]))
        worse = [name for name in means if means[name] < alone[name]]
        text = f"Best: {best}, {100 * means[best]:.2f} %."
        if means[best] < majority:
            few = next(iter(played.values()))[0]["config"]["data"]["labels_per_class"] is not None
            text += f" That is below the majority class ({100 * majority:.2f} %)"
            if few:
                text += (
                    ", since the sites learn from as many labels of each class and are measured on "
                    "the classes as they occur"
                )
            text += (
                ": the balanced accuracy (the mean over the classes, chance is one over their "
                "number) says what was server_state."
            )
        if worse:
            text += f" The same sites alone are better than the federation in: {'; '.join(worse)}."
        return [text]


def _local(config: Config) -> bool:
    return bool(config.method["name"] == "local")


def _steps(configs: Iterable[Config], held: Sequence[SiteData]) -> str:
    """Say how many more steps all data in one place make than a site's own."""
    sizes = [len(data.train) for data in held]
    told: dict[str, None] = {}
    for config in configs:
        pooled = central.round_settings(config, 1, sum(sizes), len(sizes))
        of_a_site = np.mean([loop.planned_steps(size, config.train) for size in sizes])
        steps = loop.planned_steps(sum(sizes), pooled.config)
        told[f"{steps} where a site makes {of_a_site:.3g}"] = None
    return (
        "Pooled training keeps the batch size and the passes over the data, so it makes more steps a "
        f"round than a site: {', '.join(told)}."
    )


def _megabytes(size: float) -> str:
    """Return a size with three digits that say something: 31.8, 3.15, 0.00206."""
    return f"{size / MEGABYTE:.3g}"


@dataclass(frozen=True)
class Deployment:
    """What each site gets in the end: before and after fine-tuning, alone, and pooled."""

    held: ways.Set
    seeds: tuple[int, ...]

    def run(self, simulator: Simulator, folder: Path, command: str) -> None:
        """Play the cases, and write a table for each with a row per site."""
        study, cases = Transfer(self.held, self.seeds).study, self.held.ways
        played = study.play(simulator, cases)
        configs = [study.config(way, self.seeds[0]) for way in cases]
        held = sites_data(configs[0], study.sites, study.data_root)
        pictures.who_holds_what(folder / "deployment-sites.png", self.held.title, held)
        lines = {way.name: [curve(each) for each in played[way.name]] for way in cases}
        pictures.curves(folder / "deployment.png", self.held.title, lines)
        tables, notes = [], []
        for way in cases:
            pooled = [each["sites"] for each in study.centrally(simulator, way)]
            table, note = self._table(way, [r["deployment"] for r in played[way.name]], pooled)
            tables.append(table)
            notes.append(note)
        notes.append(f"{_steps(configs, held)} It has the data of those that join later, too.")
        commands = {way.name: study.command(way) for way in cases}
        more = {"commands": commands, "curves": lines}
        write(folder, "deployment", tables, command=command, notes=notes, more=more)

    def _table(
        self,
        way: Case,
        told: Sequence[Mapping[str, Any]],
        pooled: Sequence[Mapping[str, Any]],
    ) -> tuple[Table, str]:
        columns = ("site", "before, %", "after, %", "alone, %", "pooled, %", "majority class, %")
        table = Table(f"{self.held.title}: {way.name}", columns)
        lost, worse = [], []
        for kind, mark in (("sites", ""), ("newcomers", " (joins after training)")):
            for site in told[0][kind]:
                rows = [each[kind][site] for each in told]
                before, after = (
                    figure([row[when]["accuracy"] for row in rows]) for when in ("before", "after")
                )
                alone = figure([row["alone"]["accuracy"] for row in rows])
                task = rows[0]["task"]
                table.rows[f"{site}, {task}{mark}"] = (
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
            f"{way.name}: fine-tuning is worse than before at {_counted(worse, of)}; "
            f"alone is better than both, before and after, at {_counted(lost, of)}."
        )


def _counted(sites: Sequence[str], of: int) -> str:
    """Return how many of the sites these are, and which."""
    if len(sites) in (0, of):
        return f"all {of} sites" if sites else "no site"
    return f"{len(sites)} of {of} sites ({', '.join(sites)})"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    made.add_argument(
        "--sets", choices=SETS, nargs="+", default=[name for name in SETS if name != "text"]
    )
    labels_told = "a class and site; or all"
    made.add_argument("--labels", nargs="+", type=_labels, default=[10], help=labels_told)
    made.add_argument("--rounds", type=at_least(1), default=8)
    with_data(made, "--pneumonia", "pneumoniamnist.npz", "PneumoniaMNIST")
    with_data(made, "--pacs", "pacs_subset.zip", "PACS, a folder or a zip archive")
    with_data(made, "--weights", "squeezenet1_1_torchvision.npz", "ImageNet's SqueezeNet 1.1")
    made.add_argument("--texts", type=Path, help="a CSV file (text, label), for the set text")
    made.add_argument("--encoder", type=Path, help="the folder of a text encoder, for the set text")
    made.add_argument("--topic", help="the column of --texts by which the sites share it")
    made.add_argument("--text-sites", type=at_least(1), default=4)
    return with_places(made)


def _labels(told: str) -> int | None:
    """Return the labelled pictures of a class and site, none for all."""
    return None if told == "all" else at_least(1)(told)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the chosen sets and write their tables."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    told = parser().parse_args(given)
    command = command_of("benchmarks.transfer", given)
    check_data(parser(), told, [option for name in told.sets for option in READS.get(name, ())])
    seeds, output = tuple(told.seeds), output_of(told)
    # What central training looks up lies where the simulations have it.
    os.environ["FEDSTRATA_HOME"] = str(told.work.resolve() / "home")
    with Simulator(told.work.resolve()) as simulator:
        sets = [
            chosen(name, told, simulator.folder, labels)
            for labels in told.labels
            for name in told.sets
            if name != "deployment"
        ]
        for each in sets:
            Transfer(each, seeds).run(simulator, output, command)
        if "deployment" in told.sets:
            Deployment(ways.deployment(told.rounds), seeds).run(simulator, output, command)


def chosen(name: str, told: argparse.Namespace, work: Path, labels: int | None) -> ways.Set:
    """Return the set that ``name`` stands for."""
    if name == "faces":
        return ways.drawn_faces(told.rounds, labels)
    if name == "text":
        encoder = told.encoder.resolve()
        shutil.copytree(encoder, work / "home" / "models" / encoder.name, dirs_exist_ok=True)
        root = told.texts.resolve()
        return ways.text(root, encoder, told.text_sites, told.topic, told.rounds, labels)
    weights = told.weights.resolve()
    if name == "pacs":
        root = prepare.pacs(told.pacs.resolve(), work / "data")
        return ways.pacs(root, weights, told.rounds, labels)
    root = told.pneumonia.resolve()
    return ways.pneumonia(root, weights, told.rounds, labels, skewed=name == "skewed")


if __name__ == "__main__":
    main()
