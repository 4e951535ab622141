"""The plan that is signed is the one that the server sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedstrata.protocol import kinds
from server_app.plans import main, plans
from site_guard.signatures import plan_digest
from tests.helpers.runs import PLAIN
from tests.loopback import simulate


def test_every_order_of_a_run_has_the_plan_that_was_known_before(tmp_path: Path) -> None:
    overrides = [*PLAIN, "strategy.rounds=1"]
    (known,) = plans({"experiment": "faces", "overrides": " ".join(overrides)})
    _, grid = simulate(tmp_path, "faces", overrides, sites=2)
    sent = [str(message.content[kinds.PLAN]["json"]) for message in grid.sent]
    assert len(sent) > 4
    assert {plan_digest(plan) for plan in sent} == {plan_digest(known)}
    assert plan_digest(known) != plan_digest(json.dumps({**json.loads(known), "seed": 7}))


def test_a_sweep_has_a_plan_for_each_run() -> None:
    assert len(plans({"experiment": "faces", "overrides": "seed=1,2 method=fedavg,fedper"})) == 4


def test_what_is_printed_are_the_plans(capsys: pytest.CaptureFixture[str]) -> None:
    main([json.dumps({"experiment": "faces"})])
    printed = capsys.readouterr().out
    assert json.loads(printed) == plans({"experiment": "faces"})
