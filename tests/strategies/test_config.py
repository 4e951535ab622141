"""The configuration of a run is checked as a whole before any work."""

from typing import Any

import pytest

from fedstrata.support.errors import UserError
from server_app.compose import compose
from strategies.config import config_from_dict, plan_for

PLAIN = compose("faces", ["model=small_cnn", "weights=none", "groups=all_common"]).to_dict()


def changed(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {**PLAIN, first: {**PLAIN[first], rest: value} if rest else value}


def test_plain_data_come_back_as_the_same_configuration() -> None:
    assert config_from_dict(PLAIN).to_dict() == PLAIN


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("strategy.rounds", 0, "strategy.rounds"),
        ("strategy.fraction", 1.5, "at most 1"),
        ("strategy.minimum", {"common": -1}, "strategy.minimum.common must be 0 or greater"),
        ("strategy.evaluate_every", 0, "strategy.evaluate_every must be"),
        ("strategy.checkpoint_every", -1, "strategy.checkpoint_every must be"),
        ("strategy.on_site_error", "ignore", "strategy.on_site_error"),
        ("strategy.deadline", float("nan"), "strategy.deadline must be a finite number"),
        ("deployment.newcomers", ["a"], "set deployment.epochs"),
        ("model", {}, "model.name must say which model"),
        ("seed", "x", "seed"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(key: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        config_from_dict(changed(key, value))


def test_newcomers_are_named_once() -> None:
    deployment = {**PLAIN["deployment"], "epochs": 1, "newcomers": ["a", "a"]}
    with pytest.raises(UserError, match="names a site twice"):
        config_from_dict({**PLAIN, "deployment": deployment})


def test_a_plan_has_what_sites_need() -> None:
    config = config_from_dict(PLAIN)
    plan = plan_for(config, federation="f", weights="hash")
    assert (plan.federation, plan.weights) == ("f", "hash")
    assert (plan.rounds, plan.seed) == (config.strategy.rounds, config.seed)
    assert plan.tuning == config.deployment.tuning


def test_patience_that_could_stop_no_round_is_refused_with_what_to_write() -> None:
    chosen = ["choose.patience=2", "strategy.rounds=12", "strategy.evaluate_every=4"]
    assert compose("faces", chosen).strategy.first_candidate == 4
    with pytest.raises(
        UserError, match="that after round 12 of 12, so it could stop no round"
    ) as no:
        compose("faces", [*chosen, "strategy.checkpoint_every=3"])
    assert "write choose.patience=null, or strategy.evaluate_every=1" in str(no.value)


def test_rounds_that_are_evaluated_and_saved_follow_from_their_number() -> None:
    strategy = compose(
        "faces",
        ["strategy.rounds=8", "strategy.evaluate_every=3", "strategy.checkpoint_every=3"],
    ).strategy
    assert [n for n in range(1, 9) if strategy.evaluates(n)] == [1, 4, 7]
    assert [n for n in range(1, 9) if strategy.saves(n)] == [3, 6, 8]
