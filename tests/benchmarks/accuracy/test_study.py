"""Runs are found again by their whole configuration, and only finished ones are."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.study import Case, Study, deciding, finished
from benchmarks.flower.simulator import SimulationFailed
from server_app.compose import compose
from strategies.config import Config
from tests.helpers.runs import SMALL
from tests.helpers.simulators import CannedSimulator

STUDY = Study("small", "faces", 4, None, (*SMALL, "strategy.rounds=1"), (1, 2))
CASES = [Case("all", ()), Case("local", ("method=local",))]


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    simulator = CannedSimulator(tmp_path)
    first = STUDY.run(simulator, CASES)
    assert simulator.runs == 1  # four runs in one command
    assert STUDY.run(simulator, CASES) == first
    assert simulator.runs == 1
    more = STUDY.run(simulator, [*CASES, Case("other", ("train.optimizer.lr=0.5",))])
    assert simulator.runs == 2
    assert {name: more[name] for name in first} == first
    assert [results["seed"] for results in first["all"]] == [1, 2]
    assert first["all"][0] != first["local"][0]
    assert not list(tmp_path.glob("runs/*/*/checkpoints"))  # results.json is what is kept


def test_a_run_that_left_no_results_is_reported(tmp_path: Path) -> None:
    class Broken(CannedSimulator):
        def run(self, *args: Any, **kwargs: Any) -> str:
            return ""

    with pytest.raises(SimulationFailed, match="4 runs left no results"):
        STUDY.run(Broken(tmp_path), CASES)


def test_a_run_that_died_during_fine_tuning_is_not_finished(tmp_path: Path) -> None:
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


def test_the_command_has_the_overrides_of_its_case() -> None:
    words = shlex.split(STUDY.command(CASES[1]))
    assert words[:4] == ["flwr", "run", ".", "--stream"]
    assert "num-supernodes=4" in words
    overrides = words[-1].split("overrides=")[1].strip('"').split()
    assert overrides == [*STUDY.overrides, "method=local", "seed=1,2"]


def test_central_results_are_saved_by_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, bool]] = []

    def central(
        config: Config, sites: object, cache: Path, *, joint: bool, gpu: bool
    ) -> dict[str, Any]:
        trained.append((config.seed, joint))
        return {"sites": {}, "curve": [float(config.seed)]}

    monkeypatch.setattr("benchmarks.accuracy.central.central", central)
    monkeypatch.setattr("benchmarks.accuracy.study.sites_data", lambda *_: [])
    simulator = CannedSimulator(tmp_path)
    made = STUDY.run_centrally(simulator, CASES[0])
    assert [each["curve"] for each in made] == [[1.0], [2.0]]
    assert all("torch" in each["versions"] for each in made)
    assert STUDY.run_centrally(simulator, CASES[0]) == made
    STUDY.run_centrally(simulator, CASES[0], joint=False)
    assert trained == [(1, True), (2, True), (1, False), (2, False)]
    assert len(list(tmp_path.glob("central/small-4-sites/*.json"))) == 4


def test_runs_with_other_sites_data_or_weights_are_other_runs(tmp_path: Path) -> None:
    simulator = CannedSimulator(tmp_path)
    few = replace(STUDY, seeds=(1,))
    first = few.run(simulator, CASES[:1])
    fewer = replace(few, sites=2).run(simulator, CASES[:1])
    assert simulator.runs == 2
    assert len(fewer["all"][0]["final"]["sites"]) == 2
    assert few.run(simulator, CASES[:1]) == first
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


def test_how_long_a_run_waits_for_lost_sites_does_not_make_it_another_run() -> None:
    plain = STUDY.config(CASES[0], 1).to_dict()
    lost = ("strategy.give_up=9", "strategy.minimum.common=2")
    patient = replace(STUDY, overrides=(*SMALL, "strategy.rounds=1", *lost))
    assert deciding(patient.config(CASES[0], 1).to_dict()) == deciding(plain)
    assert deciding(STUDY.config(CASES[1], 1).to_dict()) != deciding(plain)


def test_runs_from_before_there_was_a_choice_of_codings_have_exact_coding() -> None:
    now = compose("faces", []).to_dict()
    strategy = {k: v for k, v in now["strategy"].items() if not k.startswith("coding")}
    assert deciding(now) == deciding({**now, "strategy": strategy})
    coded = compose("faces", ["strategy.coding.common=int8"]).to_dict()
    assert deciding(coded) != deciding(now)


def test_a_run_from_before_there_was_a_seed_of_the_data_is_found() -> None:
    now = STUDY.config(CASES[0], 1).to_dict()
    before = {**now, "data": {k: v for k, v in now["data"].items() if k != "seed"}}
    assert deciding(before) == deciding(now)
    assert deciding({**now, "data": {**now["data"], "seed": 1}}) != deciding(now)


def test_sites_can_be_cohorts_on_fewer_nodes() -> None:
    cohorts = replace(STUDY, nodes=2)
    assert STUDY.supernodes == 4
    assert cohorts.supernodes == 2
    assert cohorts.config(CASES[0], 1).cohort.sites == 2
    command = cohorts.command(CASES[0])
    assert "num-supernodes=2" in command
    assert "cohort.sites=2" in command
