"""Table III of the paper: several questions about faces, five cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.study import Case, Sites, Study
from benchmarks.flower.simulator import Simulator
from benchmarks.flower.site_data import sites_data
from benchmarks.report import pictures
from benchmarks.report.outcome import by_task, curve, figure, mean_of
from benchmarks.report.tables import Table, write
from client_app.data.face_tasks import ALL
from fedstrata.drawn_faces import ATTRIBUTES
from fedstrata.protocol.task_kinds import CLASSES
from strategies.config import Config

ALL_AT_ONCE = "centralized joint, all labels at once"
FROZEN = ("model=squeezenet1_1", "weights=file", "groups.pretrained=[features]")
# The paper's figures for gender, young, glasses, pose and teeth, on photographs and VGG-Face.
PAPER = {"gender": 95.32, "age": 97.93, "glasses": 99.38, "pose": 77.12, "teeth": 88.11}


SitesOfRun = Mapping[str, Any]
"""What results.json says of each site at the end of a run."""


@dataclass(frozen=True)
class Faces(Sites):
    """One set of faces: the federation over it, and which layers the federated cases share.

    ``separate`` and ``multitask`` are the ``groups`` of the two federated cases, their only difference.
    ``paper`` has the paper's figure of each task. ``central`` are overrides of the two central cases:
    a rate that suits their many steps in a row. ``all_at_once`` is the task of labels that asks all
    questions of a picture, or "" where pictures have one answer each.
    """

    separate: tuple[str, ...]
    multitask: tuple[str, ...]
    paper: Mapping[str, float]
    central: tuple[str, ...] = ()
    all_at_once: str = ""


def drawn(rounds: int) -> Faces:
    """Return the drawn faces: 100 sites, 20 a task, 13,792 pictures, the paper's head."""
    return Faces(
        "drawn",
        "drawn faces, 100 sites, 20 a task, 13,792 pictures",
        "faces_paper",
        100,
        None,
        (
            "model.head=[4096,2048,1024]",
            "data.pictures=13792",
            "data.validation=14",
            "data.test=28",
            "data.identities=60",
            "data.size=128",
            "train.epochs=3",
            "train.batch_size=32",
            "train.optimizer.lr=0.06",
            f"strategy.rounds={rounds}",
            "strategy.fraction=0.2",
            *_with_momentum("common"),
            *_with_momentum("task"),
        ),
        ("groups.common=[]", "groups.task=[head]", "groups.personal=[]"),
        (
            "groups.common=[head.0,head.1]",
            "groups.task=[head.2,head.out]",
            "groups.personal=[]",
        ),
        PAPER,
        ("train.optimizer.lr=0.01",),
        ALL,
    )


def _with_momentum(group: str) -> tuple[str, ...]:
    aggregator = f"strategy.aggregators.{group}"
    return (f"aggregator@{aggregator}=fedavgm", f"{aggregator}.server_momentum=0.5")


def utkface(root: Path, rounds: int) -> Faces:
    """Return real faces: 30 sites, 10 a task, 5,000 photographs."""
    return Faces(
        "utkface",
        "UTKFace, 30 sites, 10 a task, 5,000 photographs",
        "images",
        30,
        root,
        (
            "model.head=[2048,256]",
            "data.manifest=manifest.csv",
            "data.tasks=[gender,age,race]",
            "data.size=128",
            "data.duplicates=keep",  # 21 of UTKFace's pictures are there twice, some with two ages
            "train.epochs=2",
            "train.batch_size=32",
            "train.optimizer.lr=0.003",
            f"strategy.rounds={rounds}",
        ),
        ("groups.common=[]", "groups.task=[head]", "groups.personal=[]"),
        ("groups.common=[head.0]", "groups.task=[head.1,head.out]", "groups.personal=[]"),
        {},
    )


@dataclass(frozen=True)
class Table3:
    """The table on one set of faces."""

    faces: Faces
    weights: Path
    seeds: tuple[int, ...]

    def study(self) -> Study:
        """Return the runs over these faces."""
        frozen = (*FROZEN, f"weights.path={self.weights}")
        return self.faces.study("table3", self.seeds, *frozen, weights=self.weights)

    def run(self, simulator: Simulator, folder: Path, command: str) -> None:
        """Run everything, and write table, curves and JSON."""
        faces, study = self.faces, self.study()
        separate = Case("distributed separate FL", (*faces.separate, "baselines.alone=false"))
        multitask = Case("distributed multi-task FL", (*faces.multitask, "baselines.alone=true"))
        federated = (separate, multitask)
        runs = study.run(simulator, federated)
        shown, lines = self._central(simulator, study, separate, multitask)
        if faces.all_at_once:
            shown[ALL_AT_ONCE] = self._all_at_once(simulator, study, multitask)
        finals = [each["final"]["sites"] for each in runs[multitask.name]]
        shown["distributed separate"] = [_with_accuracy(s, "alone_accuracy") for s in finals]
        for case in federated:
            shown[case.name] = [each["final"]["sites"] for each in runs[case.name]]
            lines[case.name] = [curve(each) for each in runs[case.name]]
        shown["majority class"] = [_with_accuracy(s, "majority_accuracy") for s in finals]
        levels = {
            name: float(np.mean([mean_of(each) for each in shown[name]]))
            for name in ("distributed separate", "majority class")
        }
        name = f"table3-{faces.name}"
        pictures.draw_curves(folder / f"{name}.png", faces.title, lines, levels=levels)
        config = study.config(multitask, self.seeds[0])
        sites = sites_data(config, study.sites, study.data_root)
        pictures.draw_sites(folder / f"{name}-sites.png", faces.title, sites)
        more = {
            "commands": {case.name: study.command(case) for case in federated},
            "curves": lines,
            "bytes": {case.name: _bytes(runs[case.name][0]) for case in federated},
        }
        table = self._table(shown)
        write(folder, name, [table], command=command, notes=self._notes(shown), more=more)

    def _central(
        self, simulator: Simulator, study: Study, separate: Case, multitask: Case
    ) -> tuple[dict[str, list[SitesOfRun]], dict[str, list[list[float]]]]:
        """Return the sites and the curves of the two centralized cases, one per seed."""
        sites: dict[str, list[SitesOfRun]] = {}
        lines: dict[str, list[list[float]]] = {}
        for name, case, joint in (
            ("centralized separate", separate, False),
            ("centralized joint", multitask, True),
        ):
            pace = _rounds_of_a_site(study.config(case, 1))
            case = Case(name, (*case.overrides, *self.faces.central, *pace))
            made = study.run_centrally(simulator, case, joint=joint)
            sites[name] = [each["sites"] for each in made]
            lines[name] = [each["curve"] for each in made]
        return sites, lines

    def _all_at_once(self, simulator: Simulator, study: Study, multitask: Case) -> list[SitesOfRun]:
        """Return the sites of one network with an output for each question, one per seed.

        It learns from all answers of each picture. Each question is measured on the pictures of
        the sites that ask it in the other cases.
        """
        one = ("groups.common=[head]", "groups.task=[]", f"data.tasks=[{self.faces.all_at_once}]")
        pace = _rounds_of_a_site(study.config(multitask, 1))
        case = Case(ALL_AT_ONCE, (*multitask.overrides, *self.faces.central, *pace, *one))
        tasks = study.config(multitask, 1).data["tasks"]
        return [
            _of_one_answer(each["sites"], tasks) for each in study.run_centrally(simulator, case)
        ]

    def _table(self, shown: Mapping[str, list[SitesOfRun]]) -> Table:
        tasks = sorted(by_task(next(iter(shown.values()))[0]))
        columns = ("case", *(f"{task}, %" for task in tasks), "mean over tasks, %")
        table = Table(f"Table III, {self.faces.title}", columns)
        for name, seeds in shown.items():
            per = [by_task(sites) for sites in seeds]
            cells = [figure([each[task] for each in per]) for task in tasks]
            means = figure([float(np.mean(list(each.values()))) for each in per])
            table.rows[name] = (*cells, means)
        if self.faces.paper:
            paper = [f"{self.faces.paper[task]:.2f}" for task in tasks]
            mean = np.mean(list(self.faces.paper.values()))
            table.rows["*the paper, on photographs with VGG-Face*"] = (*paper, f"{mean:.2f}")
        return table

    def _notes(self, shown: Mapping[str, list[SitesOfRun]]) -> list[str]:
        """Return sentences on where the federation is better and where it is worse."""
        means = {
            name: {
                task: float(np.mean([by_task(sites)[task] for sites in seeds]))
                for task in by_task(seeds[0])
            }
            for name, seeds in shown.items()
        }
        over = {name: float(np.mean(list(per.values()))) for name, per in means.items()}
        alone = means["distributed separate"]
        notes = []
        if self.faces.central:
            notes.append(
                f"The centralized cases have {' '.join(self.faces.central)}, the others what their "
                "commands say."
            )
        if ALL_AT_ONCE in shown:
            notes.append(
                f"{ALL_AT_ONCE} is one network with sigmoid outputs, as the paper's joint case. It "
                "learns from all answers of each picture, the other cases from one."
            )
        for name in ("distributed separate FL", "distributed multi-task FL"):
            lost = [task for task, value in means[name].items() if value <= alone[task]]
            where = f"not above on {', '.join(lost)}" if lost else "above on every task"
            best = max(over["centralized separate"], over["centralized joint"])
            notes.append(
                f"{name}: {100 * (over[name] - over['distributed separate']):+.2f} points against "
                f"distributed separate ({where}), {100 * (over[name] - best):+.2f} against the "
                "better of the two centralized cases."
            )
        difference = over["distributed multi-task FL"] - over["distributed separate FL"]
        notes.append(
            f"Multi-task against separate FL: {100 * difference:+.2f} points, training one model "
            f"instead of {len(alone)}."
        )
        return notes


def _with_accuracy(sites: SitesOfRun, key: str) -> SitesOfRun:
    """Return the sites with the figure ``key`` as their accuracy."""
    return {name: {**site, "accuracy": site[key]} for name, site in sites.items()}


def _of_one_answer(sites: SitesOfRun, tasks: Sequence[str]) -> SitesOfRun:
    """Return site ``i`` with the accuracy of the ``i % n``-th of ``n`` tasks, which it asks else."""
    found = {}
    for number, (name, site) in enumerate(sorted(sites.items())):
        task = tasks[number % len(tasks)]
        accuracy = site["accuracies"][ATTRIBUTES.index(task)]
        found[name] = {**site, "task": task, "kind": CLASSES, "accuracy": accuracy}
    return found


def _rounds_of_a_site(config: Config) -> tuple[str, ...]:
    """Return overrides for central training: as many rounds as a site takes part in."""
    strategy = config.strategy
    if strategy.fraction == 1:
        return ()
    rounds = max(1, round(strategy.rounds * strategy.fraction))
    return (f"strategy.rounds={rounds}", "strategy.fraction=1")


def _bytes(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the payload bytes of a whole run, both ways."""
    return {
        key: float(sum(sum(record[key].values()) for record in results["rounds"]))
        for key in ("bytes_down", "bytes_up")
    }
