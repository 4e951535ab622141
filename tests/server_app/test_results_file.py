"""results.json takes a small part of a run's time, and is complete at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server_app.results_file import CHEAP, MOST, ResultsFile
from server_app.run_folder import RunFolder
from tests.helpers.runs import SMALL
from tests.loopback import simulate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def written(file: ResultsFile, clock: Clock, seconds: float) -> None:
    def make() -> dict[str, Any]:
        clock.now += seconds
        return {"rounds": [clock.now]}

    file.write(make)


def test_a_quick_one_is_due_after_every_round_and_a_slow_one_seldom(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    clock = Clock()
    file = ResultsFile(RunFolder(tmp_path / "run"), clock)
    assert file.is_due()
    written(file, clock, CHEAP / 2)
    assert file.is_due()
    written(file, clock, 1.0)
    clock.now += 0.9 / MOST
    assert not file.is_due()
    assert file.is_behind
    clock.now += 0.2 / MOST
    assert file.is_due()
    written(file, clock, 1.0)
    assert not file.is_behind
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {"rounds": [clock.now]}


@pytest.mark.parametrize("fails", [False, True])
def test_all_rounds_are_in_it_when_a_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr("server_app.results_file.CHEAP", 0.0)
    monkeypatch.setattr("server_app.results_file.MOST", 1e-9)
    seen = []

    def look(number: int, reply: Any) -> Any:
        del number
        seen.extend(
            len(json.loads(path.read_text())["rounds"]) for path in tmp_path.glob("*/results.json")
        )
        if fails and len(list(tmp_path.glob("*/checkpoints/round-*"))) == 3:
            raise KeyboardInterrupt
        return reply

    overrides = [*SMALL, "strategy.rounds=4", "baselines.alone=false"]
    if fails:
        with pytest.raises(KeyboardInterrupt):
            simulate(tmp_path, "faces", overrides, tamper=look)
    else:
        simulate(tmp_path, "faces", overrides, tamper=look)
    (path,) = tmp_path.glob("*/results.json")
    assert len(json.loads(path.read_text())["rounds"]) == (3 if fails else 4)
    assert 2 not in seen  # it was behind meanwhile
