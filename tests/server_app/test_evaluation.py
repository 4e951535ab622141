"""Means over sites, and who gave no report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from flwr.app import Message
from flwr.superlink.grid.grpc_grid import GrpcGrid

from fedstrata.protocol import answers, kinds
from server_app import evaluation
from server_app.evaluation import Baselines, measure, missing
from server_app.rounds.records import RoundRecord, mean_of_known
from strategies.config import BaselinesConfig
from tests.helpers.runs import DOCS, SMALL
from tests.loopback import simulate


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


def test_the_gain_over_alone_is_of_the_same_sites_and_results_say_of_how_many(
    tmp_path: Path,
) -> None:
    def fails(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == kinds.ALONE and message.metadata.dst_node_id == 102:
            return answers.failure(message, "site-02", 2, "no memory")
        return reply

    overrides = [*SMALL, "strategy.rounds=1", "baselines.alone=true", "deployment.epochs=1"]
    results, _ = simulate(tmp_path, "faces", overrides, tamper=fails)
    final, deployment = results["final"], results["deployment"]
    sites = final["sites"]
    pairs = [(s["accuracy"], s["alone_accuracy"], s["examples"]) for s in sites.values()]
    both = [(ours - alone, count) for ours, alone, count in pairs if alone is not None]
    assert len(both) == 3
    assert final["mean"]["gain_over_alone"] == pytest.approx(sum(g for g, _ in both) / 3)
    weighted = sum(gain * count for gain, count in both) / sum(count for _, count in both)
    assert final["weighted_mean"]["gain_over_alone"] == pytest.approx(weighted)
    assert (final["mean"]["alone_sites"], final["mean"]["pooled_sites"]) == (3, 0)
    gender = final["tasks"]["gender"]
    only = sites["site-00"]
    assert gender["alone_sites"] == 1
    assert gender["gain_over_alone"] == only["accuracy"] - only["alone_accuracy"]
    assert deployment["mean"]["sites"]["alone_sites"] == 3
    jsonschema.validate(results, json.loads((DOCS / "results.schema.json").read_text()))
