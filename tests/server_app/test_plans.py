"""The plan that is signed is the one that the server sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedstrata.protocol import kinds
from fedstrata.support.errors import UserError
from models import weights
from models.networks import build
from models.weights import Checkpoint
from server_app.compose import compose
from server_app.plans import main, plans
from server_app.start_weights import checkpoint
from site_guard.signatures import plan_digest
from tests.helpers.runs import PLAIN
from tests.loopback import simulate


def test_every_order_of_a_run_has_the_plan_that_was_known_before(tmp_path: Path) -> None:
    overrides = [*PLAIN, "strategy.rounds=1"]
    (known,) = plans({"experiment": "faces_paper", "overrides": " ".join(overrides)})
    _, grid = simulate(tmp_path, "faces_paper", overrides, sites=2)
    sent = [str(message.content[kinds.PLAN]["json"]) for message in grid.sent]
    assert len(sent) > 4
    assert {plan_digest(plan) for plan in sent} == {plan_digest(known)}
    assert plan_digest(known) != plan_digest(json.dumps({**json.loads(known), "seed": 7}))


def test_a_sweep_has_a_plan_for_each_run() -> None:
    assert (
        len(plans({"experiment": "faces_paper", "overrides": "seed=1,2 method=fedavg,fedper"})) == 4
    )


@pytest.mark.parametrize(
    ("overrides", "given", "start"),
    [
        ("weights=none", "", ""),
        ("weights=none", "c" * 64, ""),
        ("weights=central", "", "any"),
        ("weights=central", "c" * 64, "c" * 64),
    ],
)
def test_a_plan_names_the_start_as_far_as_it_is_known(
    overrides: str, given: str, start: str
) -> None:
    (plan,) = plans({"experiment": "faces_paper", "overrides": overrides}, given)
    assert json.loads(plan)["weights"] == start


def test_the_start_that_is_known_before_is_the_one_that_a_run_has(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = build("small_cnn", input_shape=(3, 28, 28), classes=2, head=[64])
    weights.save(tmp_path / "start.safetensors", network.state_dict(), {})
    chosen = f"model=small_cnn weights=file weights.path={tmp_path}/start.safetensors"
    (plan,) = plans({"experiment": "faces_paper", "overrides": chosen})
    made = checkpoint(compose("faces_paper", chosen.split()), tmp_path / "cache", lambda line: None)
    assert isinstance(made, Checkpoint)
    assert json.loads(plan)["weights"] == made.content_hash


def test_a_checkpoint_that_cannot_be_read_is_not_signed() -> None:
    chosen = "weights=file weights.path=/nowhere/start.pth"
    with pytest.raises(
        UserError, match=r"cannot be read here: .*/nowhere/start.pth.*--checkpoint any"
    ):
        plans({"experiment": "faces_paper", "overrides": chosen})


def test_what_is_printed_are_the_plans(capsys: pytest.CaptureFixture[str]) -> None:
    main([json.dumps({"experiment": "faces_paper"})])
    printed = capsys.readouterr().out
    assert json.loads(printed) == plans({"experiment": "faces_paper"})


def test_each_of_several_networks_has_a_start_of_its_own(tmp_path: Path) -> None:
    network = build("mlp", input_shape=(5,), classes=2, head=[], hidden=[3])
    weights.save(tmp_path / "start.safetensors", network.state_dict(), {})
    file = f"+weights@models.a.weights=file models.a.weights.path={tmp_path}/start.safetensors"
    mix = f"+model@models.a=mlp models.a.hidden=[3] {file} +model@models.b=small_cnn"
    run = {"experiment": "har", "overrides": mix}
    (plan,) = plans(run)
    loaded = json.loads(plan)
    assert loaded["weights"] == ""
    assert loaded["starts"].keys() == {"a"}
    assert "weights" not in loaded["models"]["a"]
    assert json.loads(plans(run, "any")[0])["starts"] == {"a": "any"}
    with pytest.raises(UserError, match="--checkpoint any, or leave it out"):
        plans(run, "c" * 64)


def test_a_model_that_trains_its_start_is_signed_for_any_and_the_others_for_theirs(
    tmp_path: Path,
) -> None:
    network = build("mlp", input_shape=(5,), classes=2, head=[], hidden=[3])
    weights.save(tmp_path / "start.safetensors", network.state_dict(), {})
    file = f"+weights@models.a.weights=file models.a.weights.path={tmp_path}/start.safetensors"
    mix = f"weights=none +model@models.a=mlp models.a.hidden=[3] {file} +model@models.b=small_cnn"
    trained = "+weights@models.b.weights=central +model@models.c=small_cnn"
    (plan,) = plans({"experiment": "har", "overrides": f"{mix} {trained}"})
    starts = json.loads(plan)["starts"]
    assert starts == {"a": weights.content_hash(network.state_dict()), "b": "any"}
