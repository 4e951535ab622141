"""Figures of personalised methods come from the right round, and the rate from validation data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.personalised_runs import (
    at_best,
    at_rate,
    attempt,
    best_rate,
    better_elsewhere,
    by_examples,
    chosen_runs,
    last,
    megabytes,
    seconds,
    try_rates,
    validated,
    worst,
)
from benchmarks.accuracy.study import Case, Study
from benchmarks.flower.simulator import SimulationFailed
from tests.helpers.runs import SMALL
from tests.helpers.simulators import CannedSimulator

STUDY = Study("small", "faces", 4, None, (*SMALL, "strategy.rounds=1"), (1, 2))


def results(final: dict[str, float], best: dict[str, float], curve: list[float]) -> dict[str, Any]:
    def sites(accuracies: dict[str, float]) -> dict[str, Any]:
        return {name: {"task": "t", "accuracy": value} for name, value in accuracies.items()}

    rounds = [
        {
            "tasks": {
                "t": {"examples": 30, "accuracy": value},
                "u": {"examples": 10, "accuracy": 0.0},
            },
            "bytes_up": {"common": 4_000_000, "task/t": 2_000_000},
            "bytes_down": {"common": 8_000_000},
            "participants": ["a", "b"],
            "seconds": 10.0 * number,
        }
        for number, value in enumerate(curve, start=1)
    ]
    return {
        "seed": 1,
        "rounds": rounds,
        "final": {"sites": sites(final), "weighted_mean": {"accuracy": 0.4}},
        "best": {"sites": sites(best), "value": 0.7},
    }


RUN = results({"a": 0.5, "b": 0.75}, {"a": 1.0, "b": 0.5}, [0.1, 0.8, 0.6])


def test_each_column_is_of_its_own_round() -> None:
    assert last(RUN) == 0.625
    assert at_best(RUN) == 0.75
    assert worst(RUN) == 0.5
    # Round r measures the state after round r - 1; each example counts once.
    assert by_examples(RUN) == pytest.approx([0.6, 0.45, 0.4])
    assert validated(RUN) == 0.7
    assert validated({**RUN, "best": None}) is None
    assert at_best({**RUN, "best": None}) == 0.625


def test_costs_are_of_a_site_and_round() -> None:
    assert megabytes([RUN], "bytes_up") == 3.0
    assert megabytes([RUN], "bytes_down") == 4.0
    assert seconds([RUN]) == 25.0  # of 20 and 30: in the first round the sites read their data


def test_sites_are_compared_with_themselves() -> None:
    other = results({"a": 0.6, "b": 0.75, "c": 1.0}, {}, [])
    assert better_elsewhere([RUN], [other]) == (1, 2)


def test_the_best_rate_is_by_validation_and_the_lowest_of_equal_ones() -> None:
    assert best_rate({0.1: 0.5, 0.01: 0.5, 1.0: 0.4}) == 0.01
    assert best_rate({0.1: None, 0.01: float("nan"), 1.0: 0.4}) == 1.0
    assert best_rate({0.1: None}) is None


class Canned(CannedSimulator):
    """Made-up results with a best state; a rate of 9 leaves none."""

    def run(self, name: str, sites: int, run_config: Any, app: str = ".") -> str:
        sets = str(run_config["overrides"]).split(" ; ")
        kept = [each for each in sets if "lr=9" not in each]
        if kept:
            super().run(name, sites, {**run_config, "overrides": " ; ".join(kept)})
        return ""


def test_a_rate_without_results_is_not_chosen(tmp_path: Path, monkeypatch) -> None:
    found = {"lr=0.1": 0.4, "lr=0.5": 0.6}
    monkeypatch.setattr(
        "benchmarks.accuracy.personalised_runs.validated",
        lambda run: found[f"lr={run['config']['train']['optimizer']['lr']:g}"],
    )
    case = Case("fedavg", ("method=fedavg",))
    simulator = Canned(tmp_path)
    tried = try_rates(STUDY, simulator, case, (0.1, 0.5, 9.0))
    assert (tried.rate, tried.values) == (0.5, {0.1: 0.4, 0.5: 0.6, 9.0: None})
    chosen = chosen_runs(STUDY, simulator, tried)
    assert [run["seed"] for run in chosen.runs] == [1, 2]
    played = simulator.runs
    assert chosen_runs(STUDY, simulator, tried).runs == chosen.runs
    assert simulator.runs == played
    with pytest.raises(SimulationFailed, match="fedavg left no results at any rate"):
        try_rates(STUDY, simulator, case, (9.0,))


def test_an_attempt_that_fails_is_only_said(tmp_path: Path, capsys) -> None:
    attempt(STUDY, Canned(tmp_path), [at_rate(Case("x", ()), 9.0)])
    assert "2 runs left no results" in capsys.readouterr().out
    attempt(replace(STUDY, seeds=(1,)), Canned(tmp_path), [at_rate(Case("x", ()), 0.5)])
    assert list(tmp_path.glob("runs/*/*/results.json"))


def test_a_curve_of_a_run_that_was_not_evaluated_in_every_round_is_refused() -> None:
    rounds = [{**each, "round": n, "evaluated": n != 2} for n, each in enumerate(RUN["rounds"], 1)]
    with pytest.raises(ValueError, match=r"the first is round 2: write strategy\.evaluate_every=1"):
        by_examples({**RUN, "run": "seldom", "rounds": rounds})
