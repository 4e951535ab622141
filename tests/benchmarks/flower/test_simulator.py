"""Flower's own simulation: its command, and real processes that end with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.process_tree import has_variable, running
from benchmarks.flower.processes import MARK
from benchmarks.flower.simulator import Finished, SimulationFailed, Simulator
from tests.helpers.runs import SMALL


def test_the_command_names_sites_actors_and_what_is_configured(tmp_path: Path) -> None:
    config = {"data-root": "", "rounds": 2, "lr": 0.5, "output": "/x"}
    command = Simulator(tmp_path, actors=3).command(7, config, app="/app")
    assert command[:5] == ["flwr", "run", "/app", "simulation", "--stream"]
    federation = command[command.index("--federation-config") + 1]
    assert federation == "num-supernodes=7 client-resources-num-cpus=1 init-args-num-cpus=3"
    assert command[-1] == 'rounds=2 lr=0.5 output="/x"'


def test_nodes_get_a_share_of_a_gpu_where_it_is_asked_for(tmp_path: Path) -> None:
    command = Simulator(tmp_path, actors=3, gpus=0.5).command(7, {})
    federation = command[command.index("--federation-config") + 1]
    assert federation.endswith(" client-resources-num-gpus=0.5")


def test_where_only_finished_runs_count_nothing_is_run(tmp_path: Path) -> None:
    study = Study("none", "faces", 2, None, (*SMALL, "strategy.rounds=1"), (1,))
    with Finished(tmp_path) as simulator:
        with pytest.raises(SimulationFailed, match="1 runs left no results"):
            study.run(simulator, [Case("all", ())])
        with pytest.raises(SimulationFailed, match="training in one place is not finished"):
            study.run_centrally(simulator, Case("all", ()))
        assert simulator.superlink.process is None


@pytest.mark.system
def test_a_study_runs_in_flowers_simulation_and_leaves_no_process(tmp_path: Path) -> None:
    study = Study("real", "faces", 2, None, (*SMALL, "strategy.rounds=1"), (1, 2))
    with Simulator(tmp_path, actors=1) as simulator:
        found = study.run(simulator, [Case("all", ())])
        assert simulator.superlink.process is not None
        assert study.run(simulator, [Case("all", ())]) == found
        mark = f"{MARK}={simulator.processes.mark}"
        assert any(has_variable(process.pid, mark) for process in running())
    assert [results["seed"] for results in found["all"]] == [1, 2]
    assert all(len(results["final"]["sites"]) == 2 for results in found["all"])
    assert not [process for process in running() if has_variable(process.pid, mark)]
