"""The sets of personalised methods differ in data alone: one task, plain SGD, the same sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import personalised_sets as sets
from benchmarks.accuracy.personalised_sets import PersonalSet, cases, method_of
from benchmarks.accuracy.study import Case
from fedstrata.support.errors import UserError
from server_app.compose import compose

ROOT = Path("/data/set")
ALL = (sets.har(ROOT), sets.mnist(ROOT), sets.pacs(ROOT, ROOT / "squeezenet.npz"), sets.faces())


@pytest.mark.parametrize("dataset", ALL, ids=lambda each: each.name)
def test_a_set_is_a_configuration_that_exists(dataset: PersonalSet) -> None:
    study = dataset.study("personalised", (1, 2))
    one, two = (study.config(Case("fedavg", ("method=fedavg",)), seed) for seed in (1, 2))
    assert one.data == two.data
    assert one.data["seed"] == 1
    assert one.train.optimizer.momentum == one.train.optimizer.weight_decay == 0
    assert one.strategy.rounds == dataset.rounds
    assert not one.baselines.alone
    assert list(one.groups["common"]) == ["..."]


def test_only_the_set_whose_network_pfllib_has_names_one() -> None:
    assert [each.name for each in ALL if each.peer_model] == ["mnist"]
    assert [each.name for each in ALL if not each.normalized] == ["mnist", "pacs"]


@pytest.mark.parametrize("dataset", [sets.mnist(Path("/x")), sets.cifar100(Path("/x"))])
def test_the_network_is_pfllibs_without_a_hidden_layer_of_the_experiment(
    dataset: PersonalSet,
) -> None:
    config = compose(dataset.experiment, dataset.overrides)
    assert (config.model["name"], config.model["head"]) == ("fedavg_cnn", ())


def test_rounds_can_be_chosen() -> None:
    assert sets.har(ROOT, 3).rounds == 3
    assert "strategy.rounds=3" in sets.har(ROOT, 3).overrides


def test_a_method_has_its_options_behind_a_colon() -> None:
    made = cases(["local", "fedprox:mu=0.1"], ("local", "fedprox"))
    assert made[0] == Case("local", ("method=local",))
    assert made[1] == Case("fedprox:mu=0.1", ("method=fedprox", "method.mu=0.1"))
    assert method_of(made[1]) == "fedprox"


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no method 'fedpro'; there is 'fedprox'"):
        cases(["fedpro"], ("local", "fedprox"))
    with pytest.raises(UserError, match="each method once"):
        cases(["local", "local"], ("local",))
