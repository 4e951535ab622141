"""Table IV of the paper: human activity recognition, 30 subjects as 30 tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import Simulator
from benchmarks.report import pictures
from benchmarks.report.outcome import (
    curve,
    figure,
    mean_guess,
    mean_of,
    mean_validation,
)
from benchmarks.report.tables import Figure, Table, write

SUBJECTS = 30
PAPER = {"separate": "98.89", "centralized joint": "98.98", "multi-task FL": "99.42"}
COMMON = "groups.common=[fc1,fc2] groups.task=[] groups.personal=[fc3,head]"
MOMENTUM = "aggregator@strategy.aggregators.common=fedavgm"  # with momentum 0.9
RATES = (0.01, 0.02, 0.04)
BATCHES = (16, 32)
CENTRAL_RATES = (0.02, 0.04, 0.08)
CENTRAL_BATCHES = (120, 240)
PASSES_A_ROUND = 3
SPLITS = {
    "random": "random 80/20 inside each subject: neighbouring windows overlap by half, and are on "
    "both sides",
    "blocks": "contiguous blocks with gaps: no window shares a sample with one of another split",
}


@dataclass(frozen=True)
class Chosen:
    """A learning rate and a batch size."""

    rate: float
    batch: int

    def overrides(self) -> tuple[str, ...]:
        """Return it as overrides."""
        return (f"train.optimizer.lr={self.rate}", f"train.batch_size={self.batch}")


@dataclass(frozen=True)
class Table4:
    """The settings of the table.

    Parameters
    ----------
    data : Path
        UCI HAR, the npz or the official folder.
    seeds : tuple of int
        Each case runs with each of them.
    passes : int
        Over each subject's data. Multi-task FL makes about three rounds a pass. Every other federated
        case makes one round of `PASSES_A_ROUND` passes, which is less to simulate.
    """

    data: Path
    seeds: tuple[int, ...]
    passes: int

    def study(self, split: str, name: str, seeds: tuple[int, ...], *more: str) -> Study:
        """Return the study of a split; ``more`` are overrides."""
        overrides = (f"data.split={split}", "baselines.alone=false", *more)
        return Study(name, "har", SUBJECTS, self.data, overrides, seeds)

    def grid(self, simulator: Simulator, split: str) -> dict[str, dict[Chosen, float]]:
        """Return the accuracy on the validation part of a split's training data, of one seed."""
        name = f"har-grid-{split}"
        study = self.study(split, name, self.seeds[:1], "data.validation_fraction=0.1")
        few, often = _pace(self.passes, PASSES_A_ROUND), _pace(self.passes, 1)
        families = {
            "separate": f"method=local {few}",
            "multi-task FL": f"{COMMON} {MOMENTUM} {often}",
        }
        points = [Chosen(rate, batch) for rate in RATES for batch in BATCHES]
        cases = {
            (family, point): Case(
                f"{family} {point.rate} {point.batch}",
                (*overrides.split(), *point.overrides()),
            )
            for family, overrides in families.items()
            for point in points
        }
        runs = study.run(simulator, list(cases.values()))
        found: dict[str, dict[Chosen, float]] = {}
        for (family, point), case in cases.items():
            (results,) = runs[case.name]
            sites = results["final"]["sites"]
            found.setdefault(family, {})[point] = mean_validation(sites)
        joint = "centralized joint"
        for point in (Chosen(r, b) for r in CENTRAL_RATES for b in CENTRAL_BATCHES):
            case = Case(joint, (*COMMON.split(), *often.split(), *point.overrides()))
            (made,) = study.run_centrally(simulator, case)
            found.setdefault(joint, {})[point] = mean_validation(made["sites"])
        for family, values in found.items():
            for point, value in values.items():
                print(f"grid, {split}: {family}, {point}: {100 * value:.2f} % on validation data")
        return found

    def cases(self, chosen: Mapping[str, Chosen]) -> list[Case]:
        """Return the cases that are federated runs."""
        few = _pace(self.passes, PASSES_A_ROUND)
        prox = "method=fedprox method.mu=0.01 groups=all_common"
        separate, shared = chosen["separate"], chosen["multi-task FL"]
        rows = [
            ("separate", "method=local", few, separate),
            ("multi-task FL", f"{COMMON} {MOMENTUM}", _steps(self.passes), shared),
            ("multi-task FL, plain averaging", COMMON, few, shared),
            ("FedAvg", "method=fedavg", few, shared),
            ("FedProx", prox, few, shared),
            ("FedPer", "method=fedper", few, shared),
            ("FedBN (with BatchNorm)", "method=fedbn model=mlp_bn", few, shared),
            ("LG-FedAvg", "method=lg_fedavg", few, shared),
        ]
        return [
            Case(name, (*overrides.split(), *pace.split(), *point.overrides()))
            for name, overrides, pace, point in rows
        ]

    def run(
        self,
        simulator: Simulator,
        folder: Path,
        command: str,
        splits: Sequence[str],
        grid_split: str | None = None,
    ) -> None:
        """Run everything, and write table, curves and JSON for each split.

        The rates are chosen on ``grid_split``; when omitted, on the split that they are used on.
        """
        for split in splits:
            chosen_on = grid_split or split
            found = self.grid(simulator, chosen_on)
            chosen = {family: max(v, key=lambda p: v[p]) for family, v in found.items()}
            grid = {
                family: {f"rate {p.rate}, batch {p.batch}": value for p, value in values.items()}
                for family, values in found.items()
            }
            study = self.study(split, f"har-{split}", self.seeds, "data.validation_fraction=0.02")
            cases = self.cases(chosen)
            runs = study.run(simulator, cases)
            table, lines = self._table(split, study, runs, chosen, simulator)
            title = f"Human activity recognition, 30 subjects, {split} split"
            picture = folder / f"table4-{split}.png"
            pictures.draw_curves(picture, title, lines, lowest=0.8, passes=self.passes)
            more = {
                "commands": {case.name: study.command(case) for case in cases},
                "curves": lines,
                "grid": grid,
            }
            notes = [self._settings(chosen, split, chosen_on)]
            write(folder, f"table4-{split}", [table], command=command, notes=notes, more=more)

    def _settings(self, chosen: Mapping[str, Chosen], split: str, chosen_on: str) -> str:
        settings = ", ".join(f"{k}: rate {v.rate:g}, batch {v.batch}" for k, v in chosen.items())
        seen = "" if split == chosen_on else ", so on windows some of which are test windows here"
        return (
            f"Chosen by the grid (validation part of the training data, {chosen_on} split{seen}, "
            f"seed {self.seeds[0]}): {settings}. The methods below multi-task FL use "
            f"its choice. Every case makes {self.passes} passes over each subject's data: multi-task "
            f"FL in {3 * self.passes} rounds of 5 steps (in the grid, {self.passes} rounds of a pass), "
            "with server momentum 0.9 on the common layers (FedAvgM); "
            f"the other federated cases in {self.passes // PASSES_A_ROUND} rounds, plain averaging. "
            "SGD with momentum 0.9, cosine schedule."
        )

    def _table(
        self,
        split: str,
        study: Study,
        runs: Mapping[str, list[dict[str, Any]]],
        chosen: Mapping[str, Chosen],
        simulator: Simulator,
    ) -> tuple[Table, dict[str, list[list[float]]]]:
        """Return the table, and the curves of each case."""
        columns = ("case", "accuracy, %", "worst subject, %", "subjects better alone", "paper, %")
        table = Table(f"Table IV, {split} split ({SPLITS[split]})", columns)
        lines: dict[str, list[list[float]]] = {}
        alone = [results["final"]["sites"] for results in runs["separate"]]

        def add_central(name: str, overrides: str, point: Chosen) -> None:
            often = _pace(self.passes, 1).split()
            case = Case(name, (*overrides.split(), *often, *point.overrides()))
            made = study.run_centrally(simulator, case)
            table.rows[name] = _row(name, [each["sites"] for each in made], alone)
            lines[name] = [each["curve"] for each in made]

        for name, results in runs.items():
            sites = [each["final"]["sites"] for each in results]
            table.rows[name] = _row(name, sites, alone)
            lines[name] = [curve(each) for each in results]
            if name == "separate":
                add_central("centralized joint", COMMON, chosen["centralized joint"])
        pooled = "groups=all_common"
        add_central("one model on pooled data", pooled, replace(chosen["separate"], batch=32))
        majority = figure([mean_guess(each) for each in runs["separate"]])
        table.rows["majority class"] = (majority, None, None, None)
        return table, lines


def _row(
    name: str, sites: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]]
) -> tuple[str | Figure | None, ...]:
    """Return the cells of a case, from its sites and from those of training alone, one per seed."""
    worst = [min(site["accuracy"] for site in each.values()) for each in sites]
    lost = [
        sum(each[site]["accuracy"] < other[site]["accuracy"] for site in each)
        for each, other in zip(sites, alone, strict=True)
    ]
    return (
        figure([mean_of(each) for each in sites]),
        figure(worst),
        "-" if name == "separate" else f"{sum(lost) / len(lost):.1f} of {SUBJECTS}",
        PAPER.get(name, "-"),
    )


def _pace(passes: int, each_round: int) -> str:
    """Return the overrides of ``passes`` over a site's data, ``each_round`` in a round."""
    return f"train.epochs={each_round} strategy.rounds={max(1, passes // each_round)}"


def _steps(passes: int) -> str:
    """Return the overrides of rounds of 5 steps, about three to a pass (15 batches of 16)."""
    return f"train.epochs=null train.steps=5 strategy.rounds={3 * passes}"
