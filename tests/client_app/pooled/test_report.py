"""In one place: the sites of a simulation ask for it and one of them trains; a deployed one refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.central import central
from benchmarks.flower.site_data import sites_data
from client_app.pooled import report
from client_app.pooled.report import report_in_one_place
from client_app.pooled.training import OnePlace
from fedstrata.support.errors import UserError
from server_app.compose import compose
from tests.helpers.runs import GROUPS, SMALL
from tests.helpers.site_contexts import opened, plan_of
from tests.loopback import simulate

POOLED = [*SMALL, *GROUPS, "baselines.pooled=true"]


@pytest.mark.parametrize("cohort", [1, 2])
def test_a_run_says_what_one_place_gives(tmp_path: Path, cohort: int) -> None:
    report._in_one_place.cache_clear()
    overrides = [*POOLED, f"cohort.sites={cohort}"]
    results, _ = simulate(tmp_path, "faces", overrides, sites=4 // cohort)
    config = compose("faces", overrides)
    expected = central(config, sites_data(config, 4, None), tmp_path)["sites"]
    final = results["final"]
    for name, site in final["sites"].items():
        assert site["pooled_accuracy"] == site["pooled"]["accuracy"] == expected[name]["accuracy"]
        assert site["pooled"]["loss"] == pytest.approx(expected[name]["loss"], rel=1e-6)
    every = [site["pooled_accuracy"] for site in final["sites"].values()]
    assert final["mean"]["pooled_accuracy"] == pytest.approx(sum(every) / 4)
    for task in ("gender", "pose"):
        own = [s["pooled_accuracy"] for s in final["sites"].values() if s["task"] == task]
        assert final["tasks"][task]["pooled_accuracy"] == pytest.approx(sum(own) / 2)


def test_it_is_not_measured_unless_asked_for(tmp_path: Path) -> None:
    results, grid = simulate(tmp_path, "faces", SMALL, sites=2)
    assert results["final"]["mean"]["pooled_accuracy"] is None
    assert {each["pooled"] for each in results["final"]["sites"].values()} == {None}
    assert "train.pooled" not in {message.metadata.message_type for message in grid.sent}


def test_a_process_trains_once_for_all_of_its_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def counted(self: OnePlace, *given: Any, **more: Any) -> Any:
        trained.append(1)
        return train(self, *given, **more)

    train = OnePlace.train
    monkeypatch.setattr(OnePlace, "train", counted)
    report._in_one_place.cache_clear()
    context = opened(plan_of())
    other = opened(plan_of(), **{"partition-id": 1})
    found = [report_in_one_place(each, 3) for each in (context, other)]
    assert [each.site for each in found] == ["site-00", "site-01"]
    assert found[0].round == 3
    assert len(trained) == 1


def test_it_has_as_many_rounds_as_the_run_had() -> None:
    whole, stopped = (
        report_in_one_place(opened(plan_of("strategy.rounds=3")), 4, played) for played in (0, 1)
    )
    short = report_in_one_place(opened(plan_of("strategy.rounds=1")), 4)
    assert stopped.metrics == short.metrics != whole.metrics


def test_a_deployed_site_refuses() -> None:
    context = opened(plan_of())
    deployed = replace(context, node=replace(context.node, simulated=False))
    with pytest.raises(UserError, match=r"for simulations: set baselines\.pooled=false"):
        report_in_one_place(deployed, 1)
