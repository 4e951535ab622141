"""A plan arrives as it was sent; a value out of its range is refused with its key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedstrata.protocol.plan import Plan, plan_from_json
from fedstrata.support.errors import UserError

PLAN: dict[str, Any] = {
    "federation": "run-1",
    "seed": 7,
    "rounds": 6,
    "fraction": 0.5,
    "coding": {},
    "coding_down": {},
    "model": {"name": "mlp"},
    "weights": "",
    "data": {"name": "har"},
    "groups": {},
    "method": {"name": "fedavg"},
    "train": {
        "epochs": 1,
        "steps": None,
        "batch_size": 8,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
        "schedule": "constant",
        "clip": None,
        "class_weights": "none",
        "augment": "none",
        "cache_features": False,
        "feature_dtype": "float16",
        "precision": "float32",
        "threads": None,
        "compile": False,
        "evaluation_batch_size": 64,
    },
    "tuning": {"epochs": 0, "groups": [], "lr_factor": 1.0},
    "cohort": {"sites": 1, "batched": True},
}


def read(**changes: Any) -> Plan:
    """Return the plan with changes, whose keys have ``__`` for a dot."""
    plan = json.loads(json.dumps(PLAN))
    for path, value in changes.items():
        *inner, last = path.split("__")
        part = plan
        for key in inner:
            part = part[key]
        part[last] = value
    return plan_from_json(json.dumps(plan))


def test_a_plan_arrives_as_it_was_sent() -> None:
    plan = read()
    assert json.loads(plan.to_json()) == PLAN
    assert plan_from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rounds": -1}, "-1 rounds"),
        ({"fraction": 0.0}, "a share of 0.0"),
        ({"train__steps": 5}, "either train.epochs or train.steps"),
        ({"train__batch_size": 0}, "train.batch_size must be greater than 0, got 0"),
        ({"train__threads": 0}, "train.threads must be greater than 0, got 0"),
        ({"train__optimizer__lr": 0.0}, "train.optimizer.lr"),
        ({"train__optimizer__momentum": -0.1}, "train.optimizer.momentum must be 0 or greater"),
        ({"train__optimizer__name": "lion"}, "must be one of sgd, adam, adamw, got 'lion'"),
        ({"train__schedule": "linear"}, "train.schedule must be one of"),
        ({"tuning__epochs": -1}, "deployment.epochs"),
        ({"tuning__epochs": 1}, "deployment.groups is empty"),
        ({"cohort__sites": 10_001}, "cohort.sites must be a number of sites from 1 to 10000"),
        ({"cohort__sites": 2, "coding": {"common": {"name": "bfloat16"}}}, "common=exact"),
        ({"coding": {"common": {"name": "zip"}}}, "'zip' does not exist"),
        ({"more": 1}, "plan has no option 'more'"),
    ],
)
def test_a_value_out_of_its_range_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(**changes)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "[]", "5"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        plan_from_json(text)


@pytest.mark.parametrize(
    ("rounds", "fraction", "trained"),
    [(6, 0.5, [2, 4, 6]), (3, 1.0, [1, 2, 3]), (3, 0.1, [1]), (10, 0.3, [4, 7, 10])],
)
def test_a_site_alone_trains_in_as_many_rounds_as_it_would_be_asked(
    rounds: int, fraction: float, trained: list[int]
) -> None:
    assert read(rounds=rounds, fraction=fraction).rounds_of_a_site() == trained


@pytest.mark.parametrize(
    ("played", "trained"), [(0, [2, 4, 6]), (5, [2, 4]), (1, [1]), (9, [2, 4, 6])]
)
def test_of_a_run_that_stopped_early_a_site_alone_trains_in_no_more_rounds(
    played: int, trained: list[int]
) -> None:
    assert read(rounds=6, fraction=0.5).rounds_of_a_site(played) == trained


TWO = {"big": {"name": "resnet18"}, "edge": {"name": "mlp", "hidden": [3]}}


def test_a_site_works_by_the_plan_of_its_own_network() -> None:
    plan = read(models=TWO, starts={"big": "ab" * 32}, data={"name": "har", "models": ["edge"]})
    own = plan.of_model("big")
    assert (own.model, own.own, own.weights) == ({"name": "resnet18"}, "big", "ab" * 32)
    assert plan.of_model("edge").weights == ""
    assert plan.of_model("") is plan
    for each in (plan, own):
        assert plan_from_json(each.to_json()) == each
    assert plan.data_options == {"name": "har"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": {"../x": {"name": "mlp"}}}, "cannot be a model's name"),
        ({"models": {"edge": "mlp"}}, r"models\.edge is no network"),
        ({"models": TWO, "own": "small"}, "of models that it does not offer"),
        ({"models": TWO, "starts": {"small": "ab"}}, "of models that it does not offer"),
        ({"own": "edge"}, "of models that it does not offer"),
        ({"models": [1]}, "plan: "),
    ],
)
def test_models_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(**changes)
