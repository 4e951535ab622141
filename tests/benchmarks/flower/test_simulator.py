"""A study on Flower's own simulation: real processes, ended with it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import Simulator
from tests.strategies.test_equalities import SMALL


def living_members(group: int) -> list[int]:
    """Return the processes of a process group that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                found.append(int(folder.name))
    return found


@pytest.mark.system
def test_a_study_runs_in_flowers_simulation_and_leaves_no_process(tmp_path: Path) -> None:
    study = Study("real", "faces", 2, None, (*SMALL, "strategy.rounds=1"), (1, 2))
    with Simulator(tmp_path, actors=1) as simulator:
        played = study.play(simulator, [Case("all", ())])
        assert simulator.superlink is not None
        pid = simulator.superlink.pid
        assert study.play(simulator, [Case("all", ())]) == played
    assert [told["seed"] for told in played["all"]] == [1, 2]
    assert all(len(told["final"]["sites"]) == 2 for told in played["all"])
    assert not living_members(pid)
