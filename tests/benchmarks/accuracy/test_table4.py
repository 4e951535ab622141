"""Table IV chooses its rates by validation data, and has every case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import study
from benchmarks.accuracy.table4 import BATCHES, RATES, Chosen, Table4
from server_app.compose import compose
from tests.helpers.simulators import CannedSimulator, canned_results


class Begun(Exception):
    """Ends a benchmark where it would begin its first runs."""


@pytest.mark.parametrize(("given", "chosen_on"), [(None, "blocks"), ("random", "random")])
def test_rates_are_chosen_on_the_split_they_are_for(
    tmp_path: Path, given: str | None, chosen_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class First(CannedSimulator):
        def run(self, name: str, sites: int, run_config: Any, app: str = ".") -> str:
            assert name == f"har-grid-{chosen_on}"
            assert f"data.split={chosen_on} " in run_config["overrides"]
            raise Begun

    config = compose("har", [])
    numbers = iter(range(1000))  # each run has another configuration, which is not composed here
    monkeypatch.setattr(study, "_key", lambda _: str(next(numbers)))
    monkeypatch.setattr(study, "compose", lambda *_: config)
    table = Table4(tmp_path / "har.npz", (1,), 3)
    with pytest.raises(Begun):
        table.run(First(tmp_path), tmp_path, "python -m it", ["blocks"], given)
    note = table._settings({"separate": Chosen(0.02, 16)}, "blocks", chosen_on)
    assert ("some of which are test windows" in note) == (chosen_on == "random")


def test_every_case_is_a_configuration_with_its_chosen_rate(tmp_path: Path) -> None:
    table = Table4(tmp_path / "har.npz", (1,), 3)
    chosen = {"separate": Chosen(RATES[0], 16), "multi-task FL": Chosen(RATES[1], BATCHES[1])}
    cases = table.cases(chosen)
    configs = [compose("har", case.overrides) for case in cases]
    assert len({str(config.to_dict()) for config in configs}) == len(cases)
    assert [config.train.optimizer.lr for config in configs] == [RATES[0]] + [RATES[1]] * 7
    assert configs[1].train.steps == 5


def test_the_table_counts_subjects_that_are_better_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_centrally(self: Any, simulator: Any, case: Any) -> list[dict[str, Any]]:
        sites = canned_results(compose("har", ["method=local"]), 2)["final"]["sites"]
        worse = {name: {**site, "accuracy": 0.1} for name, site in sites.items()}
        return [{"sites": worse, "curve": [0.1]}]

    monkeypatch.setattr(study.Study, "run_centrally", run_centrally)
    table = Table4(tmp_path / "har.npz", (1,), 3)
    runs = {
        "separate": [canned_results(compose("har", ["method=local"]), 2)],
        "multi-task FL": [canned_results(compose("har", []), 2)],
    }
    chosen = {name: Chosen(0.1, 8) for name in ("separate", "centralized joint")}
    made, lines = table._table(
        "random", table.study("random", "x", (1,)), runs, chosen, CannedSimulator(tmp_path)
    )
    assert list(made.rows) == [
        "separate",
        "centralized joint",
        "multi-task FL",
        "one model on pooled data",
        "majority class",
    ]
    assert [row[2] for row in made.rows.values()] == [
        "-",
        "2.0 of 30",
        "0.0 of 30",
        "2.0 of 30",
        None,
    ]
    assert made.rows["multi-task FL"][3] == "99.42"
    assert lines["centralized joint"] == [[0.1]]
