"""The estimate of the time until a run's end counts what comes after the rounds."""

from __future__ import annotations

from typing import Any

import pytest

from fedstrata.protocol import kinds
from server_app.compose import compose
from server_app.time_left import Stage, TimeLeft, stages_after

TASKS = {"a": "age", "b": "age", "c": "age", "d": "pose"}


def stages(*overrides: str, simulated: bool = True, newcomers: int = 0) -> dict[str, Stage]:
    words = ["train.epochs=2", "strategy.fraction=0.5", *overrides]
    found = stages_after(compose("faces", words), TASKS, newcomers, 100, simulated=simulated)
    return {stage.kind: stage for stage in found}


def record(seconds: float, *sites: float) -> dict[str, Any]:
    return {"seconds": seconds, "sites": {str(n): {"seconds": s} for n, s in enumerate(sites)}}


def test_what_is_not_asked_for_takes_no_time() -> None:
    found = stages("baselines.alone=false", "baselines.pooled=false", "deployment.epochs=0")
    assert found.keys() == {kinds.EVALUATE}


def test_training_alone_takes_as_long_as_all_rounds_in_a_simulation() -> None:
    assert stages()[kinds.ALONE].of_rounds == 1
    assert stages(simulated=False)[kinds.ALONE].of_rounds == 0.5  # half of the rounds, side by side


def test_training_in_one_place_is_of_simulations_and_takes_each_process_all_of_it() -> None:
    found = stages("baselines.pooled=true")[kinds.POOLED]
    assert (found.of_rounds, found.serial) == (2, True)
    assert kinds.POOLED not in stages("baselines.pooled=true", simulated=False)


def test_fine_tuning_is_as_long_as_its_epochs_at_all_sites() -> None:
    assert stages("deployment.epochs=4")[kinds.DEPLOY].fixed == 4 / 2 / 0.5 + 1
    assert stages("deployment.epochs=4", simulated=False)[kinds.DEPLOY].fixed == 3
    by_steps = ("deployment.epochs=4", "train.epochs=null", "train.steps=25", "train.batch_size=8")
    assert stages(*by_steps, simulated=False)[kinds.DEPLOY].fixed == 3


@pytest.mark.parametrize(("of", "rounds"), [("models", 2), ("updates", 3)])
def test_a_cross_site_table_measures_each_site_with_those_of_its_task(of: str, rounds: int) -> None:
    found = stages(f"cross_site={of}", "baselines.alone=false", "baselines.pooled=false")
    assert found[kinds.EVALUATE].fixed == rounds


def test_stages_are_left_behind_one_after_the_other() -> None:
    left = TimeLeft(0.0)
    after = [
        Stage(kinds.EVALUATE, 1),
        Stage(kinds.ALONE, of_rounds=1),
        Stage(kinds.EVALUATE, 1),
        Stage(kinds.EVALUATE, 2),
        Stage(kinds.DEPLOY, 3),
    ]
    left.begin(4, after)
    assert left.seconds(0.0) is None
    left.played([record(10), record(10)], 20.0)
    assert left.seconds(20.0) == 20 + 10 + 40 + 30 + 30
    assert left.seconds(25.0) == 125
    assert left.seconds(90.0) == 120  # a round that takes long takes nothing from the others
    left.played([record(10)] * 3, 100.0)  # choose.patience ends the rounds
    left.ask(kinds.EVALUATE, 100.0)
    assert left.seconds(104.0) == 6 + 30 + 30 + 30
    left.ask(kinds.ALONE, 110.0)
    assert left.seconds(110.0) == 30 + 30 + 30
    left.ask(kinds.ALONE, 115.0)  # those that were closed are asked again
    assert left.seconds(120.0) == 80
    left.ask(kinds.EVALUATE, 130.0)
    left.ask(kinds.EVALUATE, 140.0)
    assert left.seconds(140.0) == 20 + 30
    left.ask(kinds.DEPLOY, 150.0)
    assert left.seconds(150.0) == 30
    assert left.seconds(999.0) is None


@pytest.mark.parametrize(("serial", "seconds"), [(True, 60.0), (False, 20.0)])
def test_what_each_process_does_wholly_takes_as_often_as_long(serial: bool, seconds: float) -> None:
    left = TimeLeft(0.0)
    left.begin(2, [Stage(kinds.POOLED, of_rounds=1, serial=serial)])
    left.played([record(10, 10, 10, 10)] * 2, 0.0)
    left.ask(kinds.POOLED, 0.0)
    assert left.seconds(0.0) == seconds
