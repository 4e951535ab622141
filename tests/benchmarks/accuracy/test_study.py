"""Runs are found again by their whole configuration; the tables are what the runs gave."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy.study import Case, Study, deciding, finished
from benchmarks.flower.simulator import SimulationFailed, Simulator
from benchmarks.report import outcome
from benchmarks.report.tables import Figure, Table, write
from server_app.app import run_all
from server_app.compose import RunConfig
from tests.helpers.runs import SMALL
from tests.loopback import LoopbackGrid


class Loopback(Simulator):
    """A stand-in for Flower's simulation: the real apps, in this process; counts its runs."""

    runs = 0

    def run(self, name: str, sites: int, run_config: dict[str, str]) -> str:
        overrides = tuple(shlex.split(run_config["overrides"]))
        nodes = {100 + i: {"partition-id": i, "num-partitions": sites} for i in range(sites)}
        told = {key: run_config[key] for key in ("output-dir", "data-root")}
        grid = LoopbackGrid(nodes, told)
        output = Path(run_config["output-dir"])
        run_all(grid, RunConfig(run_config["experiment"], overrides, output, ""))
        self.runs += 1
        return ""


STUDY = Study("small", "faces", 4, None, (*SMALL, "strategy.rounds=1"), (1, 2))
CASES = [Case("all", ()), Case("local", ("method=local",))]


def test_what_was_run_is_not_run_again(tmp_path: Path) -> None:
    simulator = Loopback(tmp_path)
    first = STUDY.play(simulator, CASES)
    assert simulator.runs == 1  # four runs in one command
    assert STUDY.play(simulator, CASES) == first
    assert simulator.runs == 1
    more = STUDY.play(simulator, [*CASES, Case("other", ("train.optimizer.lr=0.5",))])
    assert simulator.runs == 2
    assert {name: more[name] for name in first} == first
    assert [results["seed"] for results in first["all"]] == [1, 2]
    assert first["all"][0] != first["local"][0]
    assert not list(tmp_path.glob("runs/*/*/checkpoints"))  # results.json is what is kept


def test_a_run_that_left_no_results_is_told(tmp_path: Path) -> None:
    class Broken(Loopback):
        def run(self, name: str, sites: int, run_config: dict[str, str]) -> str:
            return ""

    with pytest.raises(SimulationFailed, match="4 runs left no results"):
        STUDY.play(Broken(tmp_path), CASES)


def test_a_run_that_died_while_it_was_fine_tuned_is_not_taken_for_finished(tmp_path: Path) -> None:
    results = {"config": STUDY.config(CASES[0], 1).to_dict(), "final": {}, "deployment": None}
    path = tmp_path / "run" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(results))
    assert len(finished(tmp_path)) == 1
    results["config"]["deployment"]["epochs"] = 4
    path.write_text(json.dumps(results))
    assert finished(tmp_path) == {}
    results["deployment"] = {}
    path.write_text(json.dumps(results))
    assert len(finished(tmp_path)) == 1


def test_the_command_is_the_one_that_the_overrides_mean() -> None:
    words = shlex.split(STUDY.command(CASES[1]))
    assert words[:4] == ["flwr", "run", ".", "--stream"]
    assert "num-supernodes=4" in words
    told = words[-1].split("overrides=")[1].strip('"').split()
    assert told == [*STUDY.overrides, "method=local", "seed=1,2"]


def test_central_results_are_kept_by_configuration(tmp_path: Path) -> None:
    simulator = Loopback(tmp_path)
    made = STUDY.centrally(simulator, CASES[0])
    assert [len(each["sites"]) for each in made] == [4, 4]
    assert made[0] != made[1]
    kept = sorted(tmp_path.glob("central/small-4-sites/*.json"))
    assert all("torch" in json.loads(path.read_text())["versions"] for path in kept)
    times = [path.stat().st_mtime_ns for path in kept]
    assert STUDY.centrally(simulator, CASES[0]) == made
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert STUDY.centrally(simulator, CASES[0], together=False) != made
    assert len(list(tmp_path.glob("central/small-4-sites/*.json"))) == 4


def test_runs_of_other_sites_data_or_weights_are_not_taken(tmp_path: Path) -> None:
    simulator = Loopback(tmp_path)
    few = replace(STUDY, seeds=(1,))
    first = few.play(simulator, CASES[:1])
    fewer = replace(few, sites=2).play(simulator, CASES[:1])
    assert simulator.runs == 2
    assert len(fewer["all"][0]["final"]["sites"]) == 2
    assert few.play(simulator, CASES[:1]) == first
    file, data = tmp_path / "weights.npz", tmp_path / "data"
    data.mkdir()
    file.write_bytes(b"12")
    folders = [few.folder, replace(few, data_root=data).folder, replace(few, weights=file).folder]
    file.write_bytes(b"123")
    folders.append(replace(few, weights=file).folder)
    for content in (b"1", b"12"):
        (data / "a").write_bytes(content)
        folders.append(replace(few, data_root=data).folder)
    (data / "b").write_bytes(b"")
    folders.append(replace(few, data_root=data).folder)
    assert len(set(folders)) == len(folders)
    assert folders[-1] == replace(few, data_root=data).folder


def test_how_long_a_run_waits_for_lost_sites_is_not_what_it_is() -> None:
    told = STUDY.config(CASES[0], 1).to_dict()
    lost = ("strategy.give_up=9", "strategy.minimum.common=2")
    patient = replace(STUDY, overrides=(*SMALL, "strategy.rounds=1", *lost))
    assert deciding(patient.config(CASES[0], 1).to_dict()) == deciding(told)
    assert deciding(STUDY.config(CASES[1], 1).to_dict()) != deciding(told)


def test_figures_over_seeds(tmp_path: Path) -> None:
    assert Figure((0.9, 0.92, 0.94)).percent() == "92.00 ± 2.00"
    assert Figure((0.9,)).percent() == "90.00"
    table = Table("Title", ("case", "accuracy, %"), {"one": (Figure((0.5, 0.7)),), "none": (None,)})
    assert "| one | 60.00 ± 14.14 |" in table.markdown()
    assert "| none | - |" in table.markdown()
    write(tmp_path, "table", [table], command="python -m x", notes=["A note."])
    told = json.loads((tmp_path / "table.json").read_text())
    assert told["tables"][0]["rows"]["one"]["accuracy, %"]["values"] == [0.5, 0.7]
    assert {"command", "versions", "machine", "notes"} <= told.keys()
    assert "A note." in (tmp_path / "table.md").read_text()


def test_outcomes() -> None:
    sites = {
        "a": {"task": "x", "accuracy": 0.5, "alone_accuracy": 0.6},
        "b": {"task": "x", "accuracy": 0.7, "alone_accuracy": 0.6},
        "c": {"task": "y", "accuracy": 1.0, "alone_accuracy": None},
    }
    final = {"sites": sites, "mean": {"accuracy": 0.9}}
    rounds = [{"sites": {"a": {"accuracy": value}}} for value in (0.1, 0.2, 0.3)]
    results = {"final": final, "rounds": rounds}
    assert outcome.losing([results]) == (1, 2)
    assert outcome.by_task(sites) == {"x": pytest.approx(0.6), "y": 1.0}
    assert outcome.curve(results) == [0.2, 0.3, 0.9]
