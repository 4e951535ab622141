"""Means over sites, and who gave no report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.superlink.grid.grpc_grid import GrpcGrid

from server_app import evaluation
from server_app.evaluation import Baselines, measure, missing
from server_app.rounds.records import RoundRecord, mean_of_known
from strategies.config import BaselinesConfig


def test_a_mean_is_over_the_sites_that_have_a_value() -> None:
    assert mean_of_known([0.5, None, 1.0]) == pytest.approx(0.75)
    assert mean_of_known([None]) is None


def test_who_gave_no_report_is_listed_by_reason_and_name() -> None:
    record = RoundRecord(3, refused={"b": "bad", "a": "bad"}, late={"c": "slow"})
    assert missing(record) == {
        "refused": {"a": "bad", "b": "bad"},
        "late": {"c": "slow"},
        "absent": {},
    }
    assert list(missing(record)["refused"]) == ["a", "b"]


@pytest.mark.parametrize("deployed", [True, False])
def test_no_deployed_site_is_asked_to_train_in_one_place(
    deployed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask_reports(dispatch: Any, ask: Any, *_: object, **__: object) -> Any:
        asked.append(ask.kind)
        return {}, RoundRecord(1)

    monkeypatch.setattr(evaluation, "ask_reports", ask_reports)
    dispatch = SimpleNamespace(
        grid=GrpcGrid.__new__(GrpcGrid) if deployed else object(),
        roster=SimpleNamespace(members={}),
        settings=SimpleNamespace(rounds=3, final_timeout=9.0),
        log=print,
    )
    measure(dispatch, Baselines(BaselinesConfig(alone=False, pooled=True, reuse=True)))  # type: ignore[arg-type]
    assert asked == ["evaluate"] + ["train.pooled"] * (not deployed)
