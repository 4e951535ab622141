"""`fedstrata run` for benchmarks: its command, and a real run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.local_simulator import LocalSimulator
from fedstrata.cli.run import parser, read_wanted
from tests.helpers.runs import SMALL


def test_the_command_is_read_as_it_is_meant(tmp_path: Path) -> None:
    config = {
        "experiment": "faces",
        "data-root": "",
        "output-dir": str(tmp_path),
        "overrides": "seed=1 a.b=[1,2] ; seed=2 +model@models.x=mlp",
    }
    command = LocalSimulator(tmp_path, gpus=0.5).command(7, config)
    options = parser().parse_intermixed_args(command[command.index("run") + 1 :])
    wanted = read_wanted(options)
    assert (wanted.nodes, options.node_gpus) == (7, 0.5)
    assert wanted.keys["experiment"] == "faces"
    assert wanted.keys["output-dir"] == str(tmp_path)
    assert wanted.run_config["overrides"] == config["overrides"]


@pytest.mark.system
def test_a_study_runs_without_a_superlink(tmp_path: Path) -> None:
    study = Study("real", "faces", 2, None, (*SMALL, "strategy.rounds=1"), (1, 2))
    with LocalSimulator(tmp_path) as simulator:
        found = study.run(simulator, [Case("all", ())])
        assert simulator.superlink.process is None
    assert [results["seed"] for results in found["all"]] == [1, 2]
